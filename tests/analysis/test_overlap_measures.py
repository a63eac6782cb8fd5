"""Cosines, principal angles, shared energy and effective ranks against dense definitions and planted truth."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_overlap import EXACT, adapter_names, dense_deltas, figures_of, planted_overlap, rough_stack
from scipy.linalg import subspace_angles

from tclora.algebra import ModuleStack
from tclora.analysis import AnalysisSettings, analyse_stacks
from tclora.analysis.spectrum import entropy_rank, participation

SOME_RANKS = st.lists(st.integers(0, 5), min_size=2, max_size=5).filter(any)


@settings(max_examples=25, deadline=None)
@given(ranks=SOME_RANKS, seed=st.integers(0, 99))
def test_cosines_are_those_of_dense_deltas(ranks, seed):
    stack = rough_stack(ranks, seed=seed)
    deltas = dense_deltas(stack)
    for pair, (i, k) in zip(figures_of(stack).pairs, combinations(range(stack.n), 2), strict=True):
        assert (pair.first, pair.second) == (f"a{i}", f"a{k}")
        if ranks[i] == 0 or ranks[k] == 0:
            assert pair.cosine is None
        else:
            size = np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[k])
            assert pair.cosine == pytest.approx(float((deltas[i] * deltas[k]).sum() / size), abs=EXACT)


@settings(max_examples=25, deadline=None)
@given(ranks=SOME_RANKS, seed=st.integers(0, 99))
def test_principal_angles_are_those_of_scipy(ranks, seed):
    stack = rough_stack(ranks, seed=seed)
    blocks = stack.blocks()
    for pair, (i, k) in zip(figures_of(stack).pairs, combinations(range(stack.n), 2), strict=True):
        for side, columns in (("out", stack.out_stack[0]), ("in", stack.in_stack[0])):
            found = [getattr(pair, f"{side}_cosine_{name}") for name in ("mean", "largest", "smallest")]
            if ranks[i] == 0 or ranks[k] == 0:
                assert found == [None] * 3
                continue
            cosines = np.cos(subspace_angles(columns[:, blocks[i]].numpy(), columns[:, blocks[k]].numpy()))
            wanted = [cosines.mean(), cosines.max(), cosines.min()]
            # Columns of random adapters are conditioned like 100 or better.
            assert found == pytest.approx(wanted, abs=1e-9)


def test_planted_angles_come_back():
    pair = figures_of(planted_overlap(0.36, 0.81)).pairs[0]
    assert pair.out_cosine_mean == pytest.approx(0.36, abs=EXACT)
    assert pair.in_cosine_smallest == pytest.approx(0.81, abs=EXACT)
    assert pair.cosine == pytest.approx(0.36 * 0.81, abs=EXACT)


def test_a_space_inside_another_has_angles_of_zero():
    """One adapter uses the first two of the other's three directions."""
    stack = planted_overlap(1.0, 1.0, n=2)
    kept = [0, 1, 2, 3, 4]
    nested = ModuleStack(stack.names, stack.out_stack[:, :, kept], stack.in_stack[:, :, kept], (3, 2))
    assert figures_of(nested).pairs[0].out_cosine_smallest == pytest.approx(1.0, abs=EXACT)


def test_whole_adapters_are_compared_over_all_modules():
    stacks = [rough_stack((3, 1, 4), m=2, seed=0), dataclasses.replace(rough_stack((3, 1, 4), seed=5), names=("head",))]
    found = analyse_stacks(stacks, adapter_names(3), AnalysisSettings(cp_rank=None)).pairs
    whole = [
        np.concatenate([dense_deltas(stack, j)[i].ravel() for stack in stacks for j in range(stack.m)])
        for i in range(3)
    ]
    for pair, (i, k) in zip(found, combinations(range(3), 2), strict=True):
        wanted = whole[i] @ whole[k] / np.linalg.norm(whole[i]) / np.linalg.norm(whole[k])
        assert pair.cosine == pytest.approx(wanted, abs=EXACT)


def test_shared_energy_of_equal_orthogonal_and_opposite_adapters():
    assert figures_of(planted_overlap(1.0, 1.0, n=4)).shared_energy == pytest.approx(1.0, abs=EXACT)
    assert figures_of(planted_overlap(0.0, 0.5, n=4)).shared_energy == pytest.approx(0.25, abs=EXACT)
    equal = planted_overlap(1.0, 1.0, n=2)
    sign = torch.tensor([1.0, 1, 1, -1, -1, -1], dtype=torch.float64)
    opposite = dataclasses.replace(equal, out_stack=equal.out_stack * sign)
    assert figures_of(opposite).shared_energy == pytest.approx(0.0, abs=EXACT)


def test_shared_energy_is_over_the_adapters_that_have_the_module():
    stack = planted_overlap(1.0, 1.0, n=2)
    with_absent = ModuleStack(stack.names, stack.out_stack, stack.in_stack, (3, 0, 3))
    figures = figures_of(with_absent)
    assert (figures.n_present, figures.shared_energy) == (2, pytest.approx(1.0, abs=EXACT))


def test_shared_terms_hold_the_energy_of_shared_directions():
    """Equal adapters share every term; orthogonal ones none."""
    for cosine, wanted in ((1.0, 1.0), (0.0, 0.0)):
        cp = figures_of(planted_overlap(cosine, cosine), cp_rank=6).cp
        assert cp.shared_energy == pytest.approx(wanted, abs=1e-9)
        assert cp.participation[0] == pytest.approx(4.0 if cosine else 1.0, abs=1e-3)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_effective_ranks_of_equal_values_count_them(k):
    values = torch.cat([torch.full((k,), 2.5, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)])
    assert float(entropy_rank(values)) == pytest.approx(k, abs=EXACT)
    assert float(participation(values)) == pytest.approx(k, abs=EXACT)


def test_effective_ranks_follow_their_formulas():
    values = np.array([5.0, 2.0, 1.0])
    share = values / values.sum()
    assert float(entropy_rank(torch.from_numpy(values))) == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert float(participation(torch.from_numpy(values))) == pytest.approx(30.0**2 / (625 + 16 + 1))
    assert float(entropy_rank(torch.zeros(3))) == float(participation(torch.zeros(3))) == 0.0


def test_joint_effective_rank_tells_shared_from_private():
    """Four adapters of three equal directions: three in all if they are the same, twelve if none is."""
    equal, apart = (figures_of(planted_overlap(c, c, values=(1.0, 1.0, 1.0))) for c in (1.0, 0.0))
    assert (equal.out_effective_rank, apart.out_effective_rank) == pytest.approx((3.0, 12.0), abs=1e-6)
    assert (equal.in_participation, apart.in_participation) == pytest.approx((3.0, 12.0), abs=1e-6)
    assert apart.adapters[0].effective_rank == pytest.approx(3.0, abs=1e-9)
