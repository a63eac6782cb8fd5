"""TSV, Iso-C, Iso-CTS and WUDI against their textbook forms on dense float64 deltas, of which only singular vectors
that carry something are used; and the Tucker merge, against the weighted sum of a dense model.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_stacks import change, changed_back, deltas, first_ones, make_stack, merged, off, recipes, run, weights_for

from tclora.algebra import ModuleStack
from tclora.errors import ConfigError
from tclora.merging import default_weight, parse_params

METHODS = ("tsv", "iso_c", "iso_cts", "wudi", "tucker")
# Orthonormalizing divides by singular values of the joint vectors, of which random ones are rarely below 1e-3.
CLOSE = 1e-8
NOISE = 1e-6


def each_module(formula, stack, weights):
    return torch.stack([formula([d[j] for d in deltas(stack)], weights) for j in range(stack.m)])


def triplets(matrix, noise=0.0):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    held = int((s > max(noise, NOISE * float(s[0]))).sum())
    return u[:, :held], s[:held], vh[:held].T


def orthonormal(columns):
    """`(C C^T)^(-1/2) C` over the directions that the columns hold: the polar factor from the other side."""
    values, vectors = torch.linalg.eigh(columns @ columns.T)
    held = values > NOISE**2 * values[-1]
    return vectors[:, held] @ torch.diag(values[held].rsqrt()) @ vectors[:, held].T @ columns


def tsv_formula(matrices, weights):
    parts = [(triplets(d), w) for d, w in zip(matrices, weights, strict=True) if d.any()]
    if not parts:
        return torch.zeros_like(matrices[0])
    limit = min(matrices[0].shape)
    if sum(len(s) for (_, s, _), _ in parts) > limit:
        k = max(1, limit // len(parts))
        parts = [((u[:, :k], s[:k], v[:, :k]), w) for (u, s, v), w in parts]
    u, v = (torch.cat([part[side] for part, _ in parts], dim=1) for side in (0, 2))
    s = torch.cat([w * part[1] for part, w in parts])
    return orthonormal(u) @ torch.diag(s) @ orthonormal(v).T


def iso_c_formula(matrices, weights):
    total = sum(w * d for w, d in zip(weights, matrices, strict=True))
    if not total.any():
        return total
    u, s, v = triplets(total)
    return s.mean() * u @ v.T


def iso_cts_formula(matrices, weights, common=0.8):
    live = [w * d for w, d in zip(weights, matrices, strict=True) if d.any()]
    if not live:
        return torch.zeros_like(matrices[0])
    u, s, v = triplets(sum(live))
    own = round((len(s) - int(len(s) * common)) / len(live))
    own = own if own * len(live) <= len(s) else own - 1
    k = len(s) - own * len(live)
    u, s, v = [u[:, :k]], [s[:k]], [v[:, :k]]
    for delta in live:
        rest = delta - u[0] @ u[0].T @ delta
        left, values, right = triplets(rest, noise=NOISE * float(torch.linalg.matrix_norm(delta, 2)))
        u.append(left[:, :own])
        s.append(values[:own])
        v.append(right[:, :own])
    return torch.cat(s).mean() * orthonormal(torch.cat(u, 1)) @ orthonormal(torch.cat(v, 1)).T


def wudi_formula(matrices, weights, omega):
    d_in = matrices[0].shape[1]
    first, second = torch.zeros_like(matrices[0]), torch.zeros(d_in, d_in, dtype=torch.float64)
    for w, d in zip(weights, matrices, strict=True):
        if d.any():
            gram = d.T @ d + omega * d.norm() ** 2 * torch.eye(d_in, dtype=torch.float64)
            first += w / d.norm() ** 2 * d @ gram
            second += w / d.norm() ** 2 * gram
    return first @ torch.linalg.inv(second) if second.any() else first


FORMULAS = {"tsv": tsv_formula, "iso_c": iso_c_formula, "iso_cts": iso_cts_formula}


@settings(max_examples=20, deadline=None)
@given(recipe=recipes(), data=st.data())
@pytest.mark.parametrize("method", sorted(FORMULAS))
def test_the_spectral_methods_are_their_dense_formulas(method, recipe, data):
    stack = make_stack(**recipe)
    weights = data.draw(weights_for(stack.n))
    assert off(merged(method, stack, weights), each_module(FORMULAS[method], stack, weights)) < CLOSE


@settings(max_examples=20, deadline=None)
@given(recipe=recipes(), data=st.data(), omega=st.sampled_from([1e-6, 1e-3, 1.0]))
@pytest.mark.parametrize("side", ["in", "out"])
def test_wudi_is_its_dense_closed_form(side, recipe, data, omega):
    stack = make_stack(**recipe)
    weights = data.draw(weights_for(stack.n))

    def formula(matrices, given_weights):
        if side == "in":
            return wudi_formula(matrices, given_weights, omega)
        return wudi_formula([d.T for d in matrices], given_weights, omega).T

    found = merged("wudi", stack, weights, omega=omega, side=side)
    # The matrix that is inverted has a condition number up to 1 / omega: 1e6 units of rounding.
    assert off(found, each_module(formula, stack, weights)) < CLOSE


@pytest.mark.parametrize("common", [0.0, 0.5, 1.0])
def test_the_common_share_of_iso_cts(common):
    stack = make_stack((4, 3, 2), d_out=20, d_in=17)
    wanted = each_module(lambda d, w: iso_cts_formula(d, w, common), stack, [1.0] * 3)
    assert off(merged("iso_cts", stack, common=common), wanted) < CLOSE


def test_iso_cts_with_everything_in_common_is_iso_c():
    stack = make_stack((4, 3, 2))
    assert off(merged("iso_cts", stack, common=1.0), merged("iso_c", stack)) < CLOSE


def test_iso_cts_gives_no_more_directions_away_than_the_sum_has():
    """Three equal adapters of rank 2: two thirds of a direction for each would round to three in all."""
    one = make_stack((2,))
    same = ModuleStack(one.names, one.out_stack.repeat(1, 1, 3), one.in_stack.repeat(1, 1, 3), (2, 2, 2))
    facts = run("iso_cts", same, common=0.0).diagnostics[0]
    assert (facts["n_common"], facts["n_own"]) == (2, 0)
    assert off(merged("iso_cts", same, common=0.0), merged("iso_c", same)) < CLOSE


def test_the_figures_of_iso_cts_count_its_directions():
    facts = run("iso_cts", make_stack((4, 3, 3), d_out=20, d_in=17), common=0.4).diagnostics[0]
    # R = 10: floor(4) in common, (10 - 4) / 3 = 2 for each of 3 adapters.
    assert (facts["n_common"], facts["n_own"]) == (4, 6)


@pytest.mark.parametrize("flaws", [(), ("deficient",)])
def test_polar_factor_and_whitening_agree_where_well_conditioned(flaws):
    stack = make_stack((4, 3, 2), d_out=40, d_in=30, flaws=flaws)
    assert off(merged("tsv", stack, orthogonalize="whiten"), merged("tsv", stack)) < CLOSE


def test_polar_factor_and_whitening_keep_the_same_directions():
    """Two adapters that differ by 1e-4 of their size: far above the tolerance, and both ways must count it."""
    one = make_stack((2,), d_out=40, d_in=30)
    generator = torch.Generator().manual_seed(2)
    sides = []
    for side in (one.out_stack, one.in_stack):
        noise = torch.randn(side.shape, generator=generator, dtype=torch.float64)
        sides.append(torch.cat([side, side + 1e-4 * noise], dim=2))
    stack = ModuleStack(one.names, *sides, (2, 2))
    # The Gram matrix has a condition number of 1e8.
    assert off(merged("tsv", stack, orthogonalize="whiten"), merged("tsv", stack)) < 1e-6


def test_tsv_is_the_released_formula_where_nothing_is_missing():
    """Full SVDs of the joint vectors, no threshold: as published, at the adapters' own ranks."""
    stack = make_stack((4, 3, 2), d_out=40, d_in=30)

    def published(matrices, weights):
        parts = [torch.linalg.svd(d, full_matrices=False) for d in matrices]
        kept = [(u[:, :r], s[:r], vh[:r]) for (u, s, vh), r in zip(parts, stack.ranks, strict=True)]
        u_u, _, u_v = torch.linalg.svd(torch.cat([u for u, _, _ in kept], 1), full_matrices=False)
        v_u, _, v_v = torch.linalg.svd(torch.cat([vh for _, _, vh in kept], 0), full_matrices=False)
        return u_u @ u_v @ torch.diag(torch.cat([s for _, s, _ in kept])) @ v_u @ v_v

    assert off(merged("tsv", stack), each_module(published, stack, [1.0] * 3)) < CLOSE


def test_tsv_does_not_change_by_more_than_the_noise_in_an_adapter():
    """A dense SVD at a fixed count of vectors picks from the null space, where 1e-13 of noise decides."""
    stack = make_stack((4, 3, 2), d_out=40, d_in=30, flaws=("deficient",))
    noise = torch.randn(stack.out_stack.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shaken = ModuleStack(stack.names, stack.out_stack + 1e-13 * noise, stack.in_stack, stack.ranks)
    assert off(merged("tsv", shaken), merged("tsv", stack)) < 1e-10


def test_tsv_reports_what_it_leaves_out_where_adapters_do_not_fit():
    stack = make_stack((4, 4, 4), d_in=11)  # 12 vectors for 11 places: 3 of each remain
    s = torch.cat([torch.linalg.svdvals(d)[:, :4] for d in deltas(stack)], dim=1)
    lost = s.reshape(2, 3, 4)[:, :, 3].norm(dim=1) / s.norm(dim=1)
    result = run("tsv", stack)
    torch.testing.assert_close(result.relative_error, lost)
    torch.testing.assert_close(result.size, s.norm(dim=1))
    assert result.diagnostics[0] == {"n_vectors": 9}


def orthogonal_stack():
    """Adapters that share no direction on either side."""
    eye = torch.eye(12, dtype=torch.float64)[None]
    sizes = torch.tensor([3.0, 1.0, 2.0, 0.5, 4.0]).double()
    return ModuleStack(("x",), eye[:, :, :5] * sizes, eye[:, :, 5:10], (2, 2, 1))


def test_tsv_adds_orthogonal_adapters_untouched():
    stack = orthogonal_stack()
    assert off(merged("tsv", stack), sum(deltas(stack))) < CLOSE


def test_wudi_without_a_ridge_adds_orthogonal_adapters_untouched():
    """Each keeps its own inputs to itself; the mean would shrink all of them."""
    stack = orthogonal_stack()
    assert off(merged("wudi", stack, omega=0.0), sum(deltas(stack))) < CLOSE
    assert off(merged("wudi", stack, omega=1e9), sum(deltas(stack)) / 3) < 1e-6  # off by 1 / omega of order one


def test_iso_c_keeps_the_nuclear_norm_and_flattens():
    stack = orthogonal_stack()
    assert off(merged("iso_c", stack), 2.1 * (torch.eye(12)[:, :5] @ torch.eye(12)[:, 5:10].T)[None].double()) < CLOSE


def test_wudi_minimizes_what_it_says():
    """Without a ridge the gradient of the published objective vanishes, and more so than for the mean."""
    stack = make_stack((3, 2, 2), d_out=20, d_in=17)

    def gradient(merged_delta):
        return sum((merged_delta - d) @ d.mT @ d / (d.norm(dim=(1, 2), keepdim=True) ** 2) for d in deltas(stack))

    size = merged("wudi", stack, omega=0.0).norm()
    assert gradient(merged("wudi", stack, omega=0.0)).norm() < CLOSE * size
    assert gradient(merged("mean", stack)).norm() > 0.1 * size


def test_the_two_sides_of_wudi_differ_and_turn_into_each_other():
    stack = make_stack((3, 2, 2))
    turned = ModuleStack(stack.names, stack.in_stack, stack.out_stack, stack.ranks)
    assert off(merged("wudi", stack, side="out"), merged("wudi", stack)) > 0.01
    assert off(merged("wudi", turned, side="out").mT, merged("wudi", stack)) < CLOSE


@pytest.mark.parametrize("how", ["gauge", "order", "scale", "turn"])
@pytest.mark.parametrize("method", METHODS)
def test_what_an_alignment_method_does_not_see(method, how):
    stack, weights = make_stack((3, 2, 2), flaws=("deficient",)), [0.5, 0.3, 0.9]
    params = {"tucker_rank": 3} if method == "tucker" else {}
    found = merged(method, change(stack, how), weights[::-1] if how == "order" else weights, **params)
    # HOOI takes the same steps from the changed stack, so it ends in the same place although not at the optimum.
    assert off(changed_back(found, how), merged(method, stack, weights, **params)) < CLOSE


@pytest.mark.parametrize(
    ("method", "params"), [("tsv", {}), ("iso_c", {}), ("iso_cts", {}), ("iso_cts", {"common": 0.4}), ("wudi", {})]
)
def test_an_adapter_of_weight_zero_is_left_out(method, params):
    stack = make_stack((3, 2, 2))
    found = merged(method, stack, [0.4, 0.7, 0.0], **params)
    assert off(found, merged(method, first_ones(stack, 2), [0.4, 0.7], **params)) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_gives_zero(method):
    stack = make_stack((2, 2))
    assert not merged(method, ModuleStack(stack.names, 0 * stack.out_stack, stack.in_stack, stack.ranks)).any()


@pytest.mark.parametrize("method", ["tsv", "wudi", "tucker"])
@pytest.mark.parametrize("flaws", [(), ("deficient",)])
def test_one_adapter_comes_back(method, flaws):
    stack = make_stack((3,), flaws=flaws)
    assert off(merged(method, stack), stack.delta(0)) < CLOSE


@pytest.mark.parametrize("method", ["iso_c", "iso_cts"])
def test_isotropic_merging_does_not_give_one_adapter_back(method):
    """Lacks `alone` and `equal`: its spectrum is flattened. So there is nothing to hold one adapter with."""
    stack = make_stack((3,))
    assert off(merged(method, stack), stack.delta(0)) > 0.01
    assert parse_params(method, {}).holding(3) is None


def test_tsv_counts_equal_adapters_once():
    """Lacks `equal`: at weights of 1 (its default) three equal adapters give one of them, at 1 / 3 a third."""
    one = make_stack((2,))
    same = ModuleStack(one.names, one.out_stack.repeat(1, 1, 3), one.in_stack.repeat(1, 1, 3), (2, 2, 2))
    assert default_weight("tsv", 3) == 1.0
    assert off(merged("tsv", same), one.delta(0)) < CLOSE
    assert off(merged("tsv", same, [1 / 3] * 3), one.delta(0) / 3) < CLOSE


@pytest.mark.parametrize("method", METHODS)
def test_ranks_stay_within_the_module(method):
    lora_b = run(method, make_stack((4, 4, 4), d_in=7)).delta.lora_b
    assert lora_b.shape[2] <= 7


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        ("tsv", {"rank_tol": 1.0}, "rank_tol"),
        ("tsv", {"orthogonalize": "gram"}, "no such value"),
        ("iso_c", {"rank_tol": -1e-3}, "rank_tol"),
        ("iso_cts", {"common": 1.2}, "common"),
        ("wudi", {"omega": -1.0}, "omega"),
        ("wudi", {"side": "left"}, "no such value"),
        ("tucker", {"tucker_rank": 0}, "tucker_rank"),
        ("tucker", {"adapter_rank": 0}, "adapter_rank"),
    ],
)
def test_wrong_parameters_are_refused(method, values, said):
    with pytest.raises(ConfigError, match=said):
        run(method, make_stack(), **values)


def test_wudi_refuses_negative_weights():
    with pytest.raises(ConfigError, match="negative"):
        run("wudi", make_stack(), [1.0, -0.5, 1.0])


@pytest.mark.parametrize("tucker_rank", [9, 50])
def test_tucker_at_full_rank_is_the_weighted_sum(tucker_rank):
    stack, weights = make_stack((4, 3, 2), d_out=20), [0.5, -0.3, 1.2]
    wanted = sum(w * d for w, d in zip(weights, deltas(stack), strict=True))
    assert off(merged("tucker", stack, weights, tucker_rank=tucker_rank), wanted) < CLOSE
    assert float(run("tucker", stack, weights, tucker_rank=tucker_rank).relative_error.max()) < 1e-12


def test_the_error_of_a_tucker_merge_is_that_of_the_restored_adapters():
    """Weights of one adapter at a time restore the model's adapters; their dense distance is the error reported."""
    stack = make_stack((4, 3, 2), d_out=20, d_in=17)
    restored = [merged("tucker", stack, unit, tucker_rank=4, adapter_rank=2) for unit in torch.eye(3).tolist()]
    lost = sum((r - d).square().sum(dim=(1, 2)) for r, d in zip(restored, deltas(stack), strict=True))
    whole = sum(d.square().sum(dim=(1, 2)) for d in deltas(stack))
    result = run("tucker", stack, tucker_rank=4, adapter_rank=2)
    torch.testing.assert_close(result.relative_error, (lost / whole).sqrt(), rtol=1e-10, atol=0)
    assert result.delta.lora_b.shape[2] == 4
