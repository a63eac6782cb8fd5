"""The joint polar factorization: its dense formula, what it does not see, planted truth, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_stacks import change, changed_back, deltas, first_ones, make_stack, merged, off, recipes, run, weights_for

from tclora.algebra import ModuleStack
from tclora.errors import ConfigError
from tclora.merging import default_weight, parse_params

METHOD = "tc_lora_polar"
NOISE = 1e-6
# Orthonormalizing divides by singular values of the joint directions; those of random ones are rarely below 1e-3.
CLOSE = 1e-8


def triplets(matrix):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    held = int((s > NOISE * float(s[0])).sum())
    return u[:, :held], s[:held], vh[:held].T


def orthonormal(columns):
    """`(C C^T)^(-1/2) C` over the directions that the columns hold: the polar factor from the other side."""
    values, vectors = torch.linalg.eigh(columns @ columns.T)
    held = values > NOISE**2 * values[-1]
    return vectors[:, held] @ torch.diag(values[held].rsqrt()) @ vectors[:, held].T @ columns


def formula(matrices, weights, *, rank, size_power, priority):
    """The method on dense matrices of one module, as its docstring has it."""
    live = [(d, w) for d, w in zip(matrices, weights, strict=True) if d.any() and w > 0]
    if not live:
        return torch.zeros_like(matrices[0])
    mean = sum(d.norm() for d, _ in live) / len(live)
    parts = [(triplets(d), w * (d.norm() / mean) ** size_power) for d, w in live]
    u, v = (torch.cat([part[side] for part, _ in parts], dim=1) for side in (0, 2))
    carried = torch.cat([w * part[1] for part, w in parts])
    pull = torch.diag(carried**priority)
    whole = orthonormal(u @ pull) @ torch.diag(carried) @ orthonormal(v @ pull).T
    left, s, right = torch.linalg.svd(whole, full_matrices=False)
    return left[:, :rank] @ torch.diag(s[:rank]) @ right[:rank]


@settings(max_examples=25, deadline=None)
@given(
    recipe=recipes(flaws=("zero", "deficient")),
    data=st.data(),
    rank=st.sampled_from([1, 3, 50]),
    size_power=st.sampled_from([0.0, 1.0, -0.5]),
    priority=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_it_is_its_dense_formula(recipe, data, rank, size_power, priority):
    stack, chosen = make_stack(**recipe), {"rank": rank, "size_power": size_power, "priority": priority}
    weights = data.draw(weights_for(stack.n))
    wanted = torch.stack([formula([d[j] for d in deltas(stack)], weights, **chosen) for j in range(stack.m)])
    # A cut between two singular values that nearly agree divides by their gap, which random ones keep above 1e-5.
    assert off(merged(METHOD, stack, weights, **chosen), wanted) < 1e-6


@settings(max_examples=15, deadline=None)
@given(recipe=recipes(n=(2, 4), rank=(1, 2)), data=st.data())
def test_without_size_priority_and_cut_it_is_tsv(recipe, data):
    recipe |= {"d_out": 13, "d_in": 11}  # where all vectors fit, TSV leaves none out
    stack = make_stack(**recipe)
    weights = data.draw(weights_for(stack.n))
    found = merged(METHOD, stack, weights, rank=50, size_power=0.0, priority=0.0)
    assert off(found, merged("tsv", stack, weights)) < CLOSE


def test_the_cut_is_the_best_of_its_rank():
    stack = make_stack((3, 3, 3), d_out=30, d_in=20)
    whole, cut = run(METHOD, stack, rank=50), run(METHOD, stack, rank=4)
    s = torch.linalg.svdvals(whole.delta.dense())
    torch.testing.assert_close(cut.relative_error, s[:, 4:].norm(dim=1) / s.norm(dim=1))
    torch.testing.assert_close(cut.size, s.norm(dim=1))
    assert cut.delta.lora_b.shape[2] == 4
    assert whole.relative_error.abs().max() < CLOSE


def test_orthogonal_adapters_keep_their_directions_and_count_by_size():
    """No direction is shared, so nothing moves: the adapters are added, each times its size over the mean size."""
    eye = torch.eye(12, dtype=torch.float64)[None]
    sizes = torch.tensor([3.0, 3.0, 1.0, 1.0, 2.0]).double()
    stack = ModuleStack(("x",), eye[:, :, :5] * sizes, eye[:, :, 5:10], (2, 2, 1))
    norms = [float(d.norm()) for d in deltas(stack)]
    counted = [d * size / (sum(norms) / 3) for d, size in zip(deltas(stack), norms, strict=True)]
    wanted, plain = torch.stack(counted).sum(dim=0), torch.stack(deltas(stack)).sum(dim=0)
    assert off(merged(METHOD, stack, size_power=1.0), wanted) < CLOSE
    assert off(merged(METHOD, stack, size_power=0.0), plain) < CLOSE


def test_a_shared_direction_is_counted_once_and_private_ones_are_kept():
    """Planted: three adapters read one common input and one of their own each, and answer each in a place of its own.

    The sum adds the common input three times, at a third of the size it has beside the others in each adapter.
    """
    eye, tilt = torch.eye(12, dtype=torch.float64), 0.2
    into = torch.stack([eye[:, 0] + tilt * eye[:, 1 + i] for i in range(3)], dim=1)
    stack = ModuleStack(("x",), eye[:, :3][None], into[None], (1, 1, 1))

    def spectrum(delta):
        return torch.linalg.svdvals(delta)[0, :3]

    plain = spectrum(sum(deltas(stack)))
    even = spectrum(merged(METHOD, stack, size_power=0.0))
    assert plain[0] / plain[2] > 8  # sqrt(3 + tilt^2) / tilt
    torch.testing.assert_close(even / even[0], torch.ones(3).double())


def test_priority_keeps_the_stronger_of_two_crossing_directions():
    angle = torch.tensor(0.5).double()
    one, other = torch.eye(6).double()[:, 0], torch.zeros(6).double()
    other[0], other[1] = angle.cos(), angle.sin()
    sides = torch.stack([one, other], dim=1)[None]
    stack = ModuleStack(("x",), sides * torch.tensor([10.0, 1.0]), sides.clone(), (1, 1))

    def turned(priority):
        """How far the strongest direction of the result is from the strong adapter's, as a sine."""
        u, _, _ = torch.linalg.svd(merged(METHOD, stack, size_power=0.0, priority=priority)[0])
        return float((1 - (u[:, 0] @ one) ** 2).sqrt())

    assert turned(1.0) < turned(0.5) < turned(0.0)


@pytest.mark.parametrize("how", ["gauge", "order", "scale", "turn"])
def test_what_it_does_not_see(how):
    stack, weights = make_stack((3, 2, 2), flaws=("deficient",)), [0.5, 0.3, 0.9]
    params = {"rank": 3, "size_power": 0.5}
    found = merged(METHOD, change(stack, how), weights[::-1] if how == "order" else weights, **params)
    assert off(changed_back(found, how), merged(METHOD, stack, weights, **params)) < CLOSE


def test_an_adapter_of_weight_zero_or_of_zeros_is_left_out():
    stack = make_stack((3, 2, 2))
    wanted = merged(METHOD, first_ones(stack, 2), [0.4, 0.7], size_power=1.0)
    assert off(merged(METHOD, stack, [0.4, 0.7, 0.0], size_power=1.0), wanted) < CLOSE
    zeros = make_stack((3, 2, 2), flaws=("zero",))
    assert off(merged(METHOD, zeros, [0.4, 0.7, 0.5], size_power=1.0), wanted) < CLOSE


def test_nothing_but_zeros_gives_zero():
    stack = make_stack((2, 2))
    empty = ModuleStack(stack.names, 0 * stack.out_stack, stack.in_stack, stack.ranks)
    assert not merged(METHOD, empty).any()
    assert not merged(METHOD, stack, [0.0, 0.0]).any()


@pytest.mark.parametrize("flaws", [(), ("deficient",)])
def test_one_adapter_comes_back(flaws):
    stack = make_stack((3,), flaws=flaws)
    assert off(merged(METHOD, stack), stack.delta(0)) < CLOSE


def test_equal_adapters_count_once():
    """Lacks `equal`: at weights of 1, its default, three equal adapters give one of them, at 1 / 3 a third."""
    one = make_stack((2,))
    same = ModuleStack(one.names, one.out_stack.repeat(1, 1, 3), one.in_stack.repeat(1, 1, 3), (2, 2, 2))
    assert default_weight(METHOD, 3) == 1.0
    assert off(merged(METHOD, same), one.delta(0)) < CLOSE
    assert off(merged(METHOD, same, [1 / 3] * 3), one.delta(0) / 3) < CLOSE


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 0}, "not positive"),
        ({"size_power": 9.0}, "size_power"),
        ({"priority": -0.1}, "priority"),
        ({"rank_tol": 1.0}, "rank_tol"),
    ],
)
def test_parameters_out_of_range_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        parse_params(METHOD, values)


def test_negative_weights_are_refused():
    with pytest.raises(ConfigError, match="no negative weights"):
        merged(METHOD, make_stack((2, 2)), [1.0, -0.5])


@settings(max_examples=10, deadline=None)
@given(recipe=recipes(n=(2, 4), rank=(1, 2), flaws=("zero",)), data=st.data())
def test_the_exact_cp_model_with_orthogonal_directions_is_tsv(recipe, data):
    stack = make_stack(**(recipe | {"d_out": 13, "d_in": 11}))
    weights = data.draw(weights_for(stack.n))
    shares = [w / stack.n for w in weights]
    found = merged("tc_lora", stack, shares, cp_rank=20, rule="sum", orthogonal=True)
    assert off(found, merged("tsv", stack, weights)) < CLOSE


def test_orthogonal_directions_of_a_cp_model_are_the_nearest_to_its_own():
    stack, params = make_stack((3, 3, 3), d_out=30, d_in=20, m=1), {"cp_rank": 4, "rule": "rms"}
    plain = run("tc_lora", stack, [1 / 3] * 3, **params)
    b, a = plain.delta.lora_b[0], plain.delta.lora_a[0].T
    weights = b.norm(dim=0) * a.norm(dim=0)
    wanted = orthonormal(b / b.norm(dim=0)) @ torch.diag(weights) @ orthonormal(a / a.norm(dim=0)).T
    found = run("tc_lora", stack, [1 / 3] * 3, orthogonal=True, **params)
    assert off(found.delta.dense(), wanted[None]) < CLOSE
    assert off(found.delta.dense(), plain.delta.dense()) > 0.01
    torch.testing.assert_close(torch.linalg.svdvals(found.delta.dense()[0])[:4], weights.sort(descending=True).values)
    assert found.relative_error == plain.relative_error


def test_orthogonal_directions_leave_one_adapter_as_it_is():
    stack = make_stack((3,), flaws=("deficient",))
    assert off(merged("tc_lora", stack, orthogonal=True), stack.delta(0)) < CLOSE
