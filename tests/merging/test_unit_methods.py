"""LoRA-LEGO against planted units and its formula for known clusters; RobustMerge against its released rule."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_stacks import change, changed_back, deltas, first_ones, make_stack, merged, off, recipes, run, weights_for

from tclora.algebra import ModuleStack
from tclora.errors import ConfigError
from tclora.merging import parse_params

EXACT = 1e-10  # singular vectors of gaps of order one, in float64
METHODS = ("lego", "robust_merge")


def planted(n=3, k=3, noise=0.0, seed=0):
    """`n` adapters of rank `k` that hold the same `k` orthogonal units, each shaken a little and of random sign."""
    generator = torch.Generator().manual_seed(seed)
    out, into = (torch.linalg.qr(torch.randn(d, k, generator=generator).double())[0] for d in (13, 11))
    sizes = torch.tensor([9.0, 4.0, 1.0]).double()[:k].sqrt()
    shaken = [
        [side * sizes + noise * torch.randn(side.shape, generator=generator).double() for _ in range(n)]
        for side in (out, into)
    ]
    flips = [1.0 - 2.0 * torch.randint(0, 2, (k,), generator=generator).double() for _ in range(n)]
    sides = [torch.cat([s * f for s, f in zip(side, flips, strict=True)], dim=1)[None] for side in shaken]
    return ModuleStack(("x",), *sides, (k,) * n)


def units_of(delta):
    """Singular triplets of a dense delta as points `[out; in]`, the singular value split evenly."""
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    held = int((s > 1e-6 * s[0]).sum())
    return torch.cat([u[:, :held], vh[:held].T]) * s[:held].sqrt()


def lego_of_known_clusters(stack, weights, *, restore=True):
    """Unit `t` of every adapter is in cluster `t`, by the size of its singular value."""
    points = [units_of(d[0]) for d in deltas(stack)]
    total = 0
    for t in range(points[0].shape[1]):
        members = [p[:, t] * torch.sign(p[:, t] @ points[0][:, t]) for p in points]
        center = sum(w * x for w, x in zip(weights, members, strict=True)) / sum(weights)
        if restore:
            wanted = sum(w * x.norm() for w, x in zip(weights, members, strict=True)) / sum(weights)
            center = center * wanted / center.norm()
        total = total + torch.outer(center[:13], center[13:])
    return total[None]


@pytest.mark.parametrize("restore", [True, False])
def test_lego_averages_planted_units_whatever_their_signs(restore):
    stack, weights = planted(noise=0.1), [1.0, 0.5, 2.0]
    found = merged("lego", stack, weights, restore_norm=restore)
    assert off(found, lego_of_known_clusters(stack, weights, restore=restore)) < EXACT


def test_restoring_the_norm_undoes_what_averaging_shrinks():
    stack = planted(noise=0.1)
    with_norm, without = (merged("lego", stack, restore_norm=r).norm() for r in (True, False))
    assert without < with_norm


@pytest.mark.parametrize(("rank", "clusters"), [(1, 1), (2, 2), (3, 3), (7, 3)])
def test_lego_has_a_term_for_every_cluster_and_no_more_than_there_are_places(rank, clusters):
    result = run("lego", planted(), rank=rank)
    assert result.delta.lora_b.shape[2] == clusters
    assert result.diagnostics[0] == {"n_clusters": clusters}


def test_the_output_scale_is_the_root_of_units_over_clusters():
    stack = planted(noise=0.1)
    scaled, plain = (merged("lego", stack, rank=2, scale_output=s) for s in (True, False))
    assert off(scaled, math.sqrt(3 / 2) * plain) < EXACT


def test_lego_with_a_cluster_for_every_unit_adds_the_adapters():
    stack = make_stack((2, 3))
    assert off(merged("lego", stack, rank=5, scale_output=False), sum(deltas(stack))) < EXACT


def test_the_error_of_lego_is_the_share_that_clusters_do_not_explain():
    stack = planted(noise=0.1)
    points = torch.cat([units_of(d[0]) for d in deltas(stack)], dim=1)
    centers = points.clone()
    for t in range(3):
        members = points[:, t::3] * torch.sign(points[:, t::3].T @ points[:, t])
        centers[:, t::3] = members.mean(dim=1, keepdim=True) * torch.sign(points[:, t::3].T @ points[:, t])
    wanted = float((points - centers).norm() / points.norm())
    assert float(run("lego", stack).relative_error) == pytest.approx(wanted, rel=1e-9)


def test_lego_takes_the_largest_rank_by_default():
    assert run("lego", make_stack((2, 4, 1))).delta.lora_b.shape[2] == 4


def test_lego_draws_by_seed_and_module_name():
    stack = make_stack((4, 4, 4))
    same, again, other = (merged("lego", stack, rank=3, n_starts=1, seed=s) for s in (0, 0, 1))
    assert torch.equal(same, again)
    assert not torch.allclose(same, other)
    alone = ModuleStack(stack.names[1:], stack.out_stack[1:], stack.in_stack[1:], stack.ranks)
    assert off(merged("lego", alone, rank=3, n_starts=1), same[1:]) < EXACT


def test_lego_does_not_touch_the_global_generators():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must stay
    run("lego", make_stack())
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("how", ["gauge", "order", "scale"])
def test_what_lego_does_not_see(how):
    stack, weights = make_stack((3, 2, 2), flaws=("deficient",)), [0.5, 0.3, 0.9]
    found = merged("lego", change(stack, how), weights[::-1] if how == "order" else weights)
    assert off(changed_back(found, how), merged("lego", stack, weights)) < EXACT


def test_lego_sees_a_rotation_only_where_clusters_hold_units_at_right_angles():
    """Units of one adapter have no relative sign; the fixed direction that gives them one does not turn along."""
    clear = planted(noise=0.1)
    assert off(changed_back(merged("lego", change(clear, "turn")), "turn"), merged("lego", clear)) < EXACT
    crowded = make_stack((4, 4), m=6)
    turned = changed_back(merged("lego", change(crowded, "turn"), rank=1), "turn")
    assert off(turned, merged("lego", crowded, rank=1)) > 0.01


def released_rule(lora_a, lora_b, *, density, fuse, quantile):
    """RobustMerge as its code computes it, `(T, r, d_in)` and `(T, d_out, r)`, without weights."""

    def kept(x):
        flat = x.abs().reshape(len(x), -1)
        k = int(flat.shape[1] * (1 - density))
        bound = flat.sort(dim=1).values[:, k - 1] if k else torch.zeros(len(x))
        return torch.where(x.abs() >= bound[:, None, None], x, 0)

    a, b = kept(lora_a), kept(lora_b)
    s = lora_a.abs().sum(-1) / a.abs().sum(-1)
    ranked = s.sort(dim=1).values
    s = torch.maximum(s, ranked[:, [int(s.shape[1] * quantile)]])
    return ((fuse * s[:, None] * b).sum(0) / s.sum(0)) @ (fuse * a).sum(0)


def apart(stack):
    """Factors per adapter of the only module, `(T, r, d_in)` and `(T, d_out, r)`."""
    blocks = stack.blocks()
    a = torch.stack([stack.in_stack[0, :, b].T for b in blocks])
    return a, torch.stack([stack.out_stack[0, :, b] for b in blocks])


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 4),
    rank=st.integers(1, 6),
    density=st.sampled_from([0.3, 0.5, 0.95, 1.0]),
    quantile=st.sampled_from([0.0, 0.5, 0.8]),
    seed=st.integers(0, 10**6),
)
def test_robust_merge_is_the_released_rule(n, rank, density, quantile, seed):
    # Rows long enough that none loses all of its entries, which the released rule does not survive.
    stack = make_stack((rank,) * n, d_out=30, d_in=60, m=1, seed=seed)
    settings_ = {"density": density, "quantile": quantile, "fuse": 1.5}
    wanted = released_rule(*apart(stack), **settings_)
    assert off(merged("robust_merge", stack, **settings_), wanted[None]) < EXACT


def test_robust_merge_leaves_the_adapters_rank():
    assert run("robust_merge", make_stack((2, 4, 0))).delta.lora_b.shape[2] == 4


def test_robust_merge_fills_up_short_adapters_with_columns_that_take_no_part():
    """The columns beyond the shorter adapter are those of the longer one alone."""
    stack = make_stack((1, 3), d_in=60, m=1)
    delta = run("robust_merge", stack, density=0.5, fuse=1.0).delta
    longer = run(
        "robust_merge",
        ModuleStack(("x",), stack.out_stack[:, :, 1:], stack.in_stack[:, :, 1:], (3,)),
        density=0.5,
        fuse=1.0,
    )
    assert torch.allclose(delta.lora_b[:, :, 1:], longer.delta.lora_b[:, :, 1:])
    assert torch.allclose(delta.lora_a[:, 1:], longer.delta.lora_a[:, 1:])


def test_a_row_that_loses_everything_takes_no_part():
    """Planted: the second row of `lora_a` is far smaller than the first, so none of its entries is kept."""
    stack = make_stack((2, 2), d_in=60, m=1)
    into = stack.in_stack.clone()
    into[:, :, 1] *= 1e-3
    stack = ModuleStack(stack.names, stack.out_stack, into, stack.ranks)
    delta = run("robust_merge", stack, density=0.2, fuse=1.0).delta
    alone = run(
        "robust_merge", ModuleStack(stack.names, stack.out_stack[:, :, 2:], into[:, :, 2:], (2,)), fuse=1.0
    ).delta
    assert torch.isfinite(delta.dense()).all()
    assert torch.allclose(delta.lora_b[:, :, 1], alone.lora_b[:, :, 1])


def test_equal_adapters_give_one_of_them_where_nothing_is_trimmed():
    one = make_stack((2,))
    same = ModuleStack(one.names, one.out_stack.repeat(1, 1, 3), one.in_stack.repeat(1, 1, 3), (2, 2, 2))
    assert off(merged("robust_merge", same, [1 / 3] * 3, density=1.0, fuse=1.0), one.delta(0)) < EXACT


def test_robust_merge_does_not_give_one_adapter_back_by_default():
    """Lacks `alone`: it trims, and multiplies each factor by 2. It can be told to do neither."""
    stack = make_stack((3,))
    assert off(merged("robust_merge", stack), stack.delta(0)) > 0.5
    held = parse_params("robust_merge", {}).holding(3)
    assert off(merged("robust_merge", stack, density=held.density, fuse=held.fuse), stack.delta(0)) < EXACT


@pytest.mark.parametrize("how", ["gauge", "turn"])
def test_robust_merge_sees_how_adapters_are_factored_and_turned(how):
    """Lacks `gauge`: it trims entries of the factors."""
    stack = make_stack((3, 3))
    assert off(changed_back(merged("robust_merge", change(stack, how)), how), merged("robust_merge", stack)) > 0.01


@pytest.mark.parametrize("how", ["order", "scale"])
def test_what_robust_merge_does_not_see(how):
    stack, weights = make_stack((3, 2, 2), d_in=40), [0.5, -0.3, 0.9]
    found = merged("robust_merge", change(stack, how), weights[::-1] if how == "order" else weights)
    assert off(changed_back(found, how), merged("robust_merge", stack, weights)) < EXACT


def test_a_negative_weight_takes_an_adapter_away():
    stack = make_stack((3,), d_in=40)
    assert off(merged("robust_merge", stack, [-0.5]), -0.5 * merged("robust_merge", stack, [1.0])) < EXACT


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_of_weight_zero_is_left_out(method):
    stack = make_stack((3, 3, 2), d_in=40)
    assert off(merged(method, stack, [0.4, 0.7, 0.0]), merged(method, first_ones(stack, 2), [0.4, 0.7])) < EXACT


@settings(max_examples=25, deadline=None)
@given(recipe=recipes(), data=st.data())
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_stack_gives_finite_numbers(method, recipe, data):
    stack = make_stack(**recipe)
    result = run(method, stack, data.draw(weights_for(stack.n)))
    assert torch.isfinite(result.delta.dense()).all()
    assert ((result.relative_error >= 0) & (result.relative_error < 1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_gives_zero(method):
    stack = make_stack((2, 2))
    assert not merged(method, ModuleStack(stack.names, 0 * stack.out_stack, stack.in_stack, stack.ranks)).any()


def test_lego_gives_one_adapter_back():
    stack = make_stack((3,), flaws=("deficient",))
    assert off(merged("lego", stack), stack.delta(0)) < EXACT


def test_lego_refuses_negative_weights():
    with pytest.raises(ConfigError, match="negative"):
        run("lego", make_stack(), [1.0, -1.0, 1.0])


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        ("lego", {"rank": 0}, "'rank'"),
        ("lego", {"n_starts": 0}, "n_starts"),
        ("lego", {"max_iter": 0}, "max_iter"),
        ("lego", {"seed": -1}, "seed"),
        ("robust_merge", {"density": 0.0}, "density"),
        ("robust_merge", {"density": 1.1}, "density"),
        ("robust_merge", {"quantile": -0.1}, "quantile"),
        ("robust_merge", {"fuse": 0.0}, "fuse"),
    ],
)
def test_wrong_parameters_are_refused(method, values, said):
    with pytest.raises(ConfigError, match=said):
        run(method, make_stack(), **values)
