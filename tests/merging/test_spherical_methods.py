"""Spherical methods against mergekit's formulas, written out on flattened dense deltas in float64."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from method_stacks import change, changed_back, deltas, first_ones, make_stack, merged, off, recipes, run, weights_for

from tclora.algebra import ModuleStack
from tclora.errors import ConfigError, NumericalError

METHODS = ("slerp", "nuslerp", "multislerp", "karcher")
# Angles come from products of sums of some 100 terms; acos and 1 / sin cost a few digits where angles are small.
CLOSE = 1e-9


def each_module(formula, stack, weights):
    """A formula on a list of flat vectors, module by module."""
    flat = [d.flatten(1) for d in deltas(stack)]
    merged_flat = [formula([x[j] for x in flat], weights) for j in range(stack.m)]
    return torch.stack(merged_flat).reshape(stack.m, stack.out_stack.shape[1], stack.in_stack.shape[1])


def unit(x):
    return x / x.norm() if x.norm() > 0 else x


def slerp_formula(vectors, weights):
    (a, b), t = vectors, weights[1] / (weights[0] + weights[1])
    dot = float(unit(a) @ unit(b))
    if abs(dot) > 0.9995:
        return (1 - t) * a + t * b
    angle = math.acos(dot)
    return math.sin((1 - t) * angle) / math.sin(angle) * a + math.sin(t * angle) / math.sin(angle) * b


def nuslerp_formula(vectors, weights):
    (a, b), t = vectors, weights[1] / (weights[0] + weights[1])
    angle = math.acos(max(-1.0, min(1.0, float(unit(a) @ unit(b)))))
    if abs(math.sin(angle)) < 1e-8:
        return (1 - t) * a + t * b
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def multislerp_formula(vectors, weights):
    """With its step in the tangent space, which our code leaves out because it is zero."""
    x, w = torch.stack(vectors), torch.tensor(weights, dtype=torch.float64) / sum(weights)
    units = torch.stack([unit(v) for v in vectors])
    mean = unit((units * w[:, None]).sum(0))
    tangent = ((units - (units @ mean)[:, None] * mean) * w[:, None]).sum(0)
    reach = tangent.norm() + 1e-300
    return (mean * reach.cos() + tangent * (reach.sin() / reach)) * (x.norm(dim=1) * w).sum()


def karcher_formula(vectors, weights, steps=300):
    live = [(unit(v), w) for v, w in zip(vectors, weights, strict=True) if v.norm() > 0]
    whole = sum(w for _, w in live)
    mean = unit(sum(w / whole * u for u, w in live))
    for _ in range(steps):
        tangent = torch.zeros_like(mean)
        for u, w in live:
            dot = float((mean @ u).clamp(-1, 1))
            angle = math.acos(dot)
            if angle > 1e-7:
                tangent += w / whole * angle / math.sin(angle) * (u - dot * mean)
        reach = tangent.norm()
        if reach < 1e-12:
            break
        mean = unit(reach.cos() * mean + reach.sin() * tangent / reach)
    sizes = [float(v.norm()) for v in vectors]
    return mean * sum(w * s for w, s in zip(weights, sizes, strict=True)) / sum(weights)


FORMULAS = {
    "slerp": slerp_formula,
    "nuslerp": nuslerp_formula,
    "multislerp": multislerp_formula,
    "karcher": karcher_formula,
}


@settings(max_examples=25, deadline=None)
@given(recipe=recipes(n=(2, 2), rank=(1, 4), flaws=("equal", "deficient")), weights=weights_for(2))
@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_two_adapters_as_mergekit_merges_them(method, recipe, weights):
    stack = make_stack(**recipe)
    assert off(merged(method, stack, weights), each_module(FORMULAS[method], stack, weights)) < CLOSE


def at_angle(cosine):
    """Two deltas of size 1 and 2 at a chosen angle."""
    out = torch.tensor([[1.0, 2 * cosine], [0.0, 2 * math.sqrt(1 - cosine**2)], [0.0, 0.0]], dtype=torch.float64)
    return ModuleStack(("x",), out[None], torch.ones(1, 1, 2, dtype=torch.float64), (1, 1))


@pytest.mark.parametrize("cosine", [0.9994, 0.9996, -0.9994, -0.9996])
@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_where_the_way_becomes_straight(method, cosine):
    """On both sides of 0.9995, `slerp` straight above it; the straight and the round way differ by 1e-4 and more."""
    stack = at_angle(cosine)
    straight = sum(w * d for w, d in zip((0.7, 0.3), deltas(stack), strict=True))
    found = merged(method, stack, [0.7, 0.3])
    assert off(found, each_module(FORMULAS[method], stack, [0.7, 0.3])) < CLOSE
    assert (off(found, straight) < 1e-5) == (method == "slerp" and abs(cosine) > 0.9995)


def test_nuslerp_goes_round_even_between_nearly_opposite_adapters():
    stack = at_angle(-0.99999)
    assert off(merged("nuslerp", stack, [0.7, 0.3]), each_module(nuslerp_formula, stack, [0.7, 0.3])) < CLOSE


def test_a_small_angle_keeps_its_digits():
    """From the cosine alone an angle of 1e-7 would come out as 0 or 1.5e-8 off."""
    stack = at_angle(1.0)
    out = stack.out_stack.clone()
    out[0, 1, 1] = 2e-7
    found = run("nuslerp", ModuleStack(stack.names, out, stack.in_stack, stack.ranks)).diagnostics[0]["angle_degrees"]
    assert found == pytest.approx(math.degrees(1e-7), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(recipe=recipes(n=(2, 4)), data=st.data())
@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_any_number_of_adapters_as_mergekit_merges_them(method, recipe, data):
    stack = make_stack(**recipe)
    assume(any(float(d.norm()) > 0 for d in deltas(stack)))
    weights = data.draw(weights_for(stack.n))
    found, wanted = merged(method, stack, weights), each_module(FORMULAS[method], stack, weights)
    # The formula's own step below an angle of 1e-7 is left out, as in mergekit below 1e-5.
    assert off(found, wanted) < (CLOSE if method == "multislerp" else 1e-6)


@pytest.mark.parametrize("how", ["gauge", "order", "scale", "turn"])
@pytest.mark.parametrize("method", METHODS)
def test_what_a_spherical_method_does_not_see(method, how):
    stack = make_stack((2, 3), flaws=("deficient",)) if "slerp" in method[:7] else make_stack((2, 3, 1))
    weights = [0.5, 0.3, 0.9][: stack.n]
    found = merged(method, change(stack, how), weights[::-1] if how == "order" else weights)
    assert off(changed_back(found, how), merged(method, stack, weights)) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_only_the_proportions_of_the_weights_matter(method):
    stack = make_stack((2, 3))
    assert off(merged(method, stack, [2.0, 6.0]), merged(method, stack, [0.25, 0.75])) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_at_the_end_of_the_way_stands_the_adapter(method):
    stack = make_stack((2, 3))
    assert off(merged(method, stack, [0.0, 1.0]), stack.delta(1)) < CLOSE


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_an_adapter_of_weight_zero_is_left_out(method):
    stack = make_stack((3, 2, 2))
    assert off(merged(method, stack, [0.4, 0.7, 0.0]), merged(method, first_ones(stack, 2), [0.4, 0.7])) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_one_adapter_is_its_own_mean(method):
    stack = make_stack((3,))
    assert off(merged(method, stack, [0.4]), stack.delta(0)) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_equal_directions_keep_it_and_average_the_sizes(method):
    one = make_stack((2,))
    twice = ModuleStack(
        one.names, torch.cat([one.out_stack, 3 * one.out_stack], 2), one.in_stack.repeat(1, 1, 2), (2, 2)
    )
    assert off(merged(method, twice, [0.5, 0.5]), 2 * one.delta(0)) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_a_zero_delta_has_no_direction_and_counts_in_the_size(method):
    stack = make_stack((2, 3), flaws=("zero",))
    assert off(merged(method, stack, [0.5, 0.5]), 0.5 * stack.delta(0)) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_gives_zero(method):
    stack = make_stack((2, 2))
    nothing = ModuleStack(stack.names, 0 * stack.out_stack, stack.in_stack, stack.ranks)
    assert not merged(method, nothing).any()


def test_equal_sizes_stay_on_the_sphere():
    """Planted: three orthogonal deltas of norm 1; the Karcher mean is at the same angle to each, at norm 1."""
    eye = torch.eye(5, dtype=torch.float64)[None, :, :3]
    stack = ModuleStack(("x",), eye, eye, (1, 1, 1))
    for method in ("multislerp", "karcher"):
        found = merged(method, stack)
        assert torch.allclose(found, eye @ eye.mT / math.sqrt(3), atol=CLOSE)


def test_karcher_is_not_multislerp_for_uneven_directions():
    stack = make_stack((2, 2, 2), flaws=("equal",))
    assert off(merged("karcher", stack), merged("multislerp", stack)) > 1e-3


def test_the_figures_say_what_was_found():
    angle = run("slerp", make_stack((2, 3))).diagnostics[0]["angle_degrees"]
    a, b = (d[0].flatten() for d in deltas(make_stack((2, 3))))
    assert angle == pytest.approx(math.degrees(math.acos(float(unit(a) @ unit(b)))))
    facts = run("karcher", make_stack()).diagnostics[1]
    assert facts["converged"] and facts["n_iter"] > 1 and 0 < facts["mean_direction_length"] < 1


def test_karcher_stops_where_it_is_told():
    assert run("karcher", make_stack(), max_iter=1).diagnostics[0] | {"mean_direction_length": 0} == {
        "n_iter": 1,
        "converged": False,
        "mean_direction_length": 0,
    }


def opposite(n_more=0):
    one = make_stack((2,))
    out = torch.cat([one.out_stack, -one.out_stack, *[0 * one.out_stack] * n_more], 2)
    return ModuleStack(one.names, out, one.in_stack.repeat(1, 1, 2 + n_more), (2,) * (2 + n_more))


@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_the_way_between_opposite_adapters_is_straight(method):
    stack = opposite()
    assert off(merged(method, stack, [0.75, 0.25]), 0.5 * stack.delta(0)) < CLOSE


def test_multislerp_adds_two_opposite_adapters_of_equal_weight_straight():
    """As mergekit does; they cancel. With unequal weights there is a mean direction, and the size is kept."""
    stack = opposite()
    assert merged("multislerp", stack, [0.5, 0.5]).norm() < CLOSE * stack.delta(0).norm()
    assert off(merged("multislerp", stack, [0.75, 0.25]), stack.delta(0)) < CLOSE


@pytest.mark.parametrize(("method", "n_more"), [("multislerp", 1), ("karcher", 0), ("karcher", 1)])
def test_directions_that_cancel_are_refused(method, n_more):
    with pytest.raises(NumericalError, match=r"(?s)cancel.*layer\.0.*other weights.*mean"):
        merged(method, opposite(n_more))


def test_karcher_refuses_an_adapter_opposite_to_the_mean():
    with pytest.raises(NumericalError, match=r"(?s)away from the mean.*layer\.0.*180 degrees"):
        merged("karcher", opposite(), [0.75, 0.25])


@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_three_adapters_are_too_many_for_a_line(method):
    with pytest.raises(ConfigError, match=r"(?s)3 adapters.*two adapters.*multislerp"):
        merged(method, make_stack())


@pytest.mark.parametrize("weights", [[-0.1, 0.5], [0.0, 0.0]])
@pytest.mark.parametrize("method", METHODS)
def test_negative_weights_and_no_weights_are_refused(method, weights):
    with pytest.raises(ConfigError, match=f"'{method}' needs weights"):
        merged(method, make_stack((2, 3)), weights)


@pytest.mark.parametrize("values", [{"max_iter": 0}, {"tol": -1.0}])
def test_karchers_settings_have_ranges(values):
    with pytest.raises(ConfigError, match="karcher"):
        run("karcher", make_stack(), **values)
