"""Each entry-wise method against its dense definition, on planted cases, and by the statistics of its masks."""

import dataclasses

import entry_oracle as oracle
import numpy as np
import pytest
import torch
from entry_cases import EXACT, FULL, WEIGHTS, gauged, library, merged, planted
from entry_oracle import dense_deltas, far, random_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.merging import (
    MERGE_METHODS,
    BreadcrumbsParams,
    DareParams,
    DareTiesParams,
    DellaParams,
    MagnitudePruneParams,
    TiesParams,
    parse_params,
)

CONVENTIONS = ("mergekit", "peft", "authors")


def test_the_comparison_can_fail():
    wanted = np.eye(3)
    assert far(torch.eye(3) * (1 + 1e-6), wanted) > 1e-7
    with pytest.raises(AssertionError):
        far(torch.eye(2), wanted)


# Definitions


@pytest.mark.parametrize("density", [1e-9, 0.1, 0.37, 0.999, 1.0])
def test_magnitude_prune_is_the_weighted_sum_of_trimmed_deltas(density):
    stack, deltas = library()
    wanted = oracle.mix([oracle.trim(delta, density) for delta in deltas], WEIGHTS)
    assert far(merged("magnitude_prune", MagnitudePruneParams(density=density, rank=FULL), stack), wanted) < EXACT


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("how", ["sum", "count"])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_ties_is_trim_elect_and_disjoint_mean(convention, how, normalize):
    stack, deltas = library()
    wanted = oracle.elect(
        [oracle.trim(delta, 0.3) for delta in deltas], WEIGHTS, how=how, convention=convention, normalize=normalize
    )
    params = TiesParams(density=0.3, rank=FULL, elect=how, convention=convention, normalize=normalize)
    assert far(merged("ties", params, stack), wanted) < EXACT


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_with_weights_of_one_the_conventions_of_ties_agree(convention):
    stack, deltas = library()
    wanted = oracle.elect([oracle.trim(delta, 0.3) for delta in deltas], [1.0] * 4)
    params = TiesParams(density=0.3, rank=FULL, convention=convention)
    assert far(merged("ties", params, stack, [1.0] * 4), wanted) < EXACT


def test_negative_weights_turn_an_adapter_around():
    """`-w` of an adapter is `w` of its negative, in the vote and in the mean."""
    stack, deltas = library()
    wanted = oracle.elect([oracle.trim(d, 0.5) * s for d, s in zip(deltas, (1, -1, 1, 1), strict=True)], WEIGHTS)
    turned = [WEIGHTS[0], -WEIGHTS[1], *WEIGHTS[2:]]
    assert far(merged("ties", TiesParams(density=0.5, rank=FULL), stack, turned), wanted) < EXACT


@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_dare_is_the_weighted_sum_of_thinned_deltas(rescale):
    stack, deltas = library()
    thin = [oracle.dare(d, 0.4, rescale, (7, stack.names[0], i)) if d.any() else d for i, d in enumerate(deltas)]
    params = DareParams(density=0.4, rank=FULL, rescale=rescale, seed=7)
    assert far(merged("dare", params, stack), oracle.mix(thin, WEIGHTS)) < EXACT


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("rescale", ["inverse", "l1"])
def test_dare_ties_elects_among_thinned_deltas(rescale, convention):
    stack, deltas = library()
    thin = [oracle.dare(d, 0.6, rescale, (3, stack.names[0], i)) if d.any() else d for i, d in enumerate(deltas)]
    wanted = oracle.elect(thin, WEIGHTS, convention=convention, normalize=False)
    params = DareTiesParams(density=0.6, rank=FULL, rescale=rescale, seed=3, convention=convention)
    assert far(merged("dare_ties", params, stack), wanted) < EXACT


@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_della_drops_by_rank_in_the_row_then_elects(rescale):
    stack, deltas = library()
    thin = [oracle.della(d, 0.5, 0.2, rescale, (1, stack.names[0], i)) if d.any() else d for i, d in enumerate(deltas)]
    params = DellaParams(density=0.5, epsilon=0.2, rank=FULL, rescale=rescale, seed=1)
    assert far(merged("della", params, stack), oracle.elect(thin, WEIGHTS)) < EXACT


@pytest.mark.parametrize(
    ("density", "gamma"),
    # 0.001 of 384 entries is none at all: the case in which mergekit's slice keeps nothing. 0.9 leaves no room below.
    [(0.5, 0.001), (0.5, 0.0), (0.5, 0.1), (0.9, 0.01), (0.9, 0.5), (1e-9, 0.2), (1.0, 0.3)],
)
def test_breadcrumbs_cuts_both_ends(density, gamma):
    stack, deltas = library()
    wanted = oracle.mix([oracle.band(delta, density, gamma) for delta in deltas], WEIGHTS)
    assert far(merged("breadcrumbs", BreadcrumbsParams(density=density, gamma=gamma, rank=FULL), stack), wanted) < EXACT


def test_every_adapter_may_have_its_own_density():
    stack, deltas = library()
    shares = (0.1, 1.0, 0.5, 0.7)
    wanted = oracle.elect([oracle.trim(d, share) for d, share in zip(deltas, shares, strict=True)], WEIGHTS)
    assert far(merged("ties", TiesParams(density=shares, rank=FULL), stack), wanted) < EXACT
    thin = [
        oracle.dare(d, share, "inverse", (0, stack.names[0], i)) if d.any() else d
        for i, (d, share) in enumerate(zip(deltas, shares, strict=True))
    ]
    assert far(merged("dare", DareParams(density=shares, rank=FULL), stack), oracle.mix(thin, WEIGHTS)) < EXACT


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(2, 9)),
    ranks=st.lists(st.integers(0, 3), min_size=1, max_size=5).filter(any),
    density=st.floats(0.01, 1.0),
    seed=st.integers(0, 99),
)
def test_any_shape_rank_and_density(shape, ranks, density, seed):
    stack = random_stack(shape[0], shape[1], tuple(ranks), seed)
    deltas, weights, rank = dense_deltas(stack), [1.0] * len(ranks), min(shape)
    wanted = oracle.elect([oracle.trim(delta, density) for delta in deltas], weights)
    assert far(merged("ties", TiesParams(density=density, rank=rank), stack, weights), wanted) < 1e-11
    wanted = oracle.mix([oracle.band(delta, density, 0.2) for delta in deltas], weights)
    params = BreadcrumbsParams(density=density, gamma=0.2, rank=rank)
    # The one entry kept of an adapter may be a zero of it; then there is nothing to compare relative to.
    if wanted.any():
        assert far(merged("breadcrumbs", params, stack, weights), wanted) < 1e-11


@pytest.mark.slow
def test_peft_says_the_same_of_dense_deltas():
    """PEFT's own functions on the deltas, which PEFT itself applies to the two factors apart; slow to import."""
    theirs = pytest.importorskip("peft.utils.merge_utils")
    stack, deltas = library()
    tensors, weights = [torch.from_numpy(delta) for delta in deltas], torch.tensor(WEIGHTS, dtype=torch.float64)
    for how, name in (("sum", "total"), ("count", "frequency")):
        params = parse_params("ties", {"density": 0.3, "rank": FULL, "convention": "peft", "elect": how})
        assert far(merged("ties", params, stack), theirs.ties(tensors, weights, 0.3, name).numpy()) < EXACT
    params = MagnitudePruneParams(density=0.3, rank=FULL)
    assert far(merged("magnitude_prune", params, stack), theirs.magnitude_prune(tensors, weights, 0.3).numpy()) < EXACT


# Planted cases


def test_an_even_vote_goes_to_plus_and_with_the_authors_to_the_majority():
    stack = planted([1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])
    plus = [merged("ties", TiesParams(density=1.0, convention=c), stack, [1.0, 1.0]) for c in ("mergekit", "peft")]
    authors = merged("ties", TiesParams(density=1.0, convention="authors"), stack, [1.0, 1.0])
    assert all(torch.allclose(found, torch.tensor([[1.0, -2.0, -3.0]]).double()) for found in plus)
    assert torch.allclose(authors, torch.tensor([[-1.0, -2.0, -3.0]]).double())


def test_entries_that_were_dropped_do_not_count_in_the_mean():
    """Disjoint mean: 4 alone stays 4, it is not halved by the zero of the other."""
    stack = planted([4.0, 1.0], [1.0, 6.0])
    found = merged("ties", TiesParams(density=0.5), stack, [1.0, 1.0])
    assert torch.allclose(found, torch.tensor([[4.0, 6.0]]).double())


def test_entries_of_equal_magnitude_stay_together():
    stack = planted([2.0, -2.0, 2.0, 1.0])
    found = merged("magnitude_prune", MagnitudePruneParams(density=0.25), stack, [1.0])
    assert torch.allclose(found, torch.tensor([[2.0, -2.0, 2.0, 0.0]]).double())


def test_the_trim_is_that_of_the_delta_however_small_beside_the_others():
    stack = planted([1e-9, 3e-9, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0])
    found = merged("magnitude_prune", MagnitudePruneParams(density=0.25), stack, [1.0, 0.0])
    assert torch.allclose(found, torch.tensor([[0.0, 3e-9, 0.0, 0.0]]).double(), atol=0)


def test_l1_rescaling_keeps_the_l1_norm_of_each_delta():
    stack, deltas = library()
    found = merged("dare", DareParams(density=0.3, rescale="l1", rank=FULL), stack, [1.0, 0.0, 0.0, 0.0])
    assert float(found.abs().sum()) == pytest.approx(np.abs(deltas[0]).sum(), rel=1e-9)


# Random masks


def test_the_mean_of_dare_over_seeds_is_the_weighted_sum():
    stack, deltas = library()
    n_seeds = 100
    draws = [merged("dare", DareParams(density=0.5, rank=FULL, seed=seed), stack) for seed in range(n_seeds)]
    spread = np.sqrt(sum((w * d) ** 2 for w, d in zip(WEIGHTS, deltas, strict=True)) / n_seeds)
    off = np.abs(torch.stack(draws).mean(dim=0).numpy() - oracle.mix(deltas, WEIGHTS)) / spread
    # The largest of 384 near-normal deviations: above 5 about once in 5,000 draws, and this draw is fixed.
    assert off.max() < 5
    assert 0.5 < np.sqrt((off**2).mean()) < 1.5


def test_masks_differ_between_adapters_modules_and_seeds():
    stack = random_stack(24, FULL, (FULL, FULL), m=2)
    ones = dataclasses.replace(
        stack, out_stack=torch.ones_like(stack.out_stack), in_stack=torch.ones_like(stack.in_stack)
    )

    def masks(seed):
        found = []
        for weights in ([1.0, 0.0], [0.0, 1.0]):
            both = torch.tensor(weights, dtype=torch.float64).expand(2, 2)
            delta = MERGE_METHODS["dare"](ones, DareParams(density=0.5, rank=FULL, seed=seed), both).delta.dense()
            found += [delta[0] > 1, delta[1] > 1]
        return found

    drawn = masks(0) + masks(1)
    # 384 fair coins against 384 others: a standard deviation of 10 about 192, so 60 is six of them.
    for i, first in enumerate(drawn):
        for second in drawn[:i]:
            assert abs(int((first == second).sum()) - 192) < 60


@pytest.mark.parametrize("method", ["dare", "dare_ties", "della"])
def test_masks_belong_to_places_and_are_blind_to_scale_and_gauge(method):
    """What `breaks=("scale", "gauge")` says: adapters are ordered by their bytes, and an order draws its masks."""
    stack = random_stack(24, FULL, (2, 2, 2))
    params = parse_params(method, {"density": 0.5, "rank": FULL})
    weights = [0.5, 0.3, 0.2]
    first = merged(method, params, stack, weights)
    turn = [2, 3, 0, 1, 4, 5]
    swapped = dataclasses.replace(stack, out_stack=stack.out_stack[:, :, turn], in_stack=stack.in_stack[:, :, turn])
    assert float((merged(method, params, swapped, [0.3, 0.5, 0.2]) - first).norm() / first.norm()) > 0.1
    tenfold = dataclasses.replace(stack, out_stack=10 * stack.out_stack)
    assert far(merged(method, params, tenfold, weights), 10 * first.numpy()) < EXACT
    other = gauged(stack, torch.tensor([[2.0, 1.0], [0.0, 0.25]]).double())
    assert far(merged(method, params, other, weights), first.numpy()) < EXACT


def test_della_keeps_large_entries_more_often():
    stack = planted([float(x) for x in range(1, 101)])
    draws = [
        merged("della", DellaParams(density=0.5, epsilon=0.4, rescale="none", seed=seed), stack, [1.0])[0] != 0
        for seed in range(60)
    ]
    share = torch.stack(draws).double().mean(dim=0)
    # Chances run from 0.1 to 0.9; the mean of 60 draws of 30 entries has a deviation of 0.01, of 100 entries 0.006.
    assert float(share[:30].mean()) == pytest.approx(0.1 + 0.8 * 14.5 / 99, abs=0.05)
    assert float(share[-30:].mean()) == pytest.approx(0.9 - 0.8 * 14.5 / 99, abs=0.05)
    assert float(share.mean()) == pytest.approx(0.5, abs=0.03)
