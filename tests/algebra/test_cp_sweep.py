"""One sweep against its definition: three ridge regressions on the dense tensor, in float64, start by start."""

import pytest
import torch
from algebra_stacks import make_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.algebra import compress_stack
from tclora.algebra.cp_sweep import State, als_sweep
from tclora.algebra.slices import Slices

RIDGE = 1e-3


def problem(ranks=(4, 0, 2, 3), *, m=2, s=3, cp_rank=5, seed=0):
    """Slices at norm 1 and normal factors; the in factor is not a number, for no sweep may read it."""
    compressed = compress_stack(make_stack("mixed", m=m, ranks=ranks, seed=seed))
    root = compressed.size().sqrt()[:, None, None]
    slices = Slices(compressed.out_blocks / root, compressed.in_blocks / root, compressed.ranks)
    generator = torch.Generator().manual_seed(seed)
    sizes = (slices.out_blocks.shape[1], slices.n)
    out, adapter = (torch.randn(m, s, size, cp_rank, generator=generator, dtype=torch.float64) for size in sizes)
    return slices, State(out, out.new_full((m, s, slices.in_blocks.shape[1], cp_rank), float("nan")), adapter)


def ridge_solve(design, target, cp_rank):
    """`argmin |design @ x.T - target|^2 + RIDGE |x|^2` as one stacked least-squares problem."""
    eye = torch.eye(cp_rank, dtype=torch.float64)
    rows = torch.cat([design, RIDGE**0.5 * eye]), torch.cat([target, eye.new_zeros(cp_rank, target.shape[1])])
    return torch.linalg.lstsq(*rows).solution.T


def dense_sweep(core, out, adapter):
    """The in, the adapter and the out factor in turn, from the dense core `(p, q, n)`."""
    cp_rank = out.shape[1]

    def pairs(left, right):
        return torch.einsum("ar,br->abr", left, right).flatten(0, 1)

    into = ridge_solve(pairs(out, adapter), core.permute(0, 2, 1).flatten(0, 1), cp_rank)
    adapter = ridge_solve(pairs(out, into), core.flatten(0, 1), cp_rank)
    out = ridge_solve(pairs(into, adapter), core.permute(1, 2, 0).flatten(0, 1), cp_rank)
    return out, into, adapter


def terms(out, into, adapter):
    """The rank-one terms, which no choice of scale between the three factors changes."""
    return torch.einsum("pr,qr,nr->rpqn", out, into, adapter)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=5).filter(any), st.integers(1, 6), st.integers(1, 3))
def test_a_sweep_is_three_ridge_regressions(ranks, cp_rank, s):
    slices, state = problem(tuple(ranks), s=s, cp_rank=cp_rank)
    swept, error = als_sweep(slices, state, torch.full((2, s), RIDGE, dtype=torch.float64))
    for j in range(2):
        core = torch.stack([slices.out_blocks[j, :, b] @ slices.in_blocks[j, :, b].T for b in columns_of(ranks)], dim=2)
        for k in range(s):
            want = dense_sweep(core, state.out_factor[j, k], state.adapter_factor[j, k])
            got = [factor[j, k] for factor in swept.factors()]
            # The normal equations square the conditioning, which the ridge bounds by about 1 / RIDGE.
            torch.testing.assert_close(terms(*got), terms(*want), rtol=0, atol=1e-8)
            residual = (core - terms(*want).sum(dim=0)).square().sum()
            torch.testing.assert_close(error[j, k], residual, rtol=0, atol=1e-8)


def columns_of(ranks):
    ends = torch.tensor(ranks).cumsum(0).tolist()
    return [slice(end - rank, end) for end, rank in zip(ends, ranks, strict=True)]


def test_the_columns_of_a_term_have_equal_norms():
    slices, state = problem()
    swept, _ = als_sweep(slices, state, torch.full((2, 3), RIDGE, dtype=torch.float64))
    out, into, adapter = (factor.norm(dim=2) for factor in swept.factors())
    # The norms are read from Gram matrices: a few roundings.
    torch.testing.assert_close(out, into, rtol=1e-12, atol=0)
    torch.testing.assert_close(out, adapter, rtol=1e-12, atol=0)


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 0, 2, 3)])
def test_the_layout_of_the_factors_does_not_show(ranks):
    slices, state = problem(ranks)
    ridge = torch.full((2, 3), RIDGE, dtype=torch.float64)
    turned = State(*(factor.mT.contiguous().mT for factor in state.factors()))
    plain, other = (als_sweep(slices, given, ridge)[0] for given in (state, turned))
    for one, same in zip(plain.factors(), other.factors(), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 0, 2, 3)])
def test_starts_and_problems_do_not_see_one_another(ranks):
    slices, state = problem(ranks)
    ridge = torch.full((2, 3), RIDGE, dtype=torch.float64)
    whole, _ = als_sweep(slices, state, ridge)
    one = State(*(factor[1:, 2:] for factor in state.factors()))
    alone, _ = als_sweep(slices.take(torch.tensor([1])), one, ridge[1:, 2:])
    for all_of_them, this in zip(whole.factors(), alone.factors(), strict=True):
        # Products of other widths may add in another order; the ridge bounds what that can grow to.
        torch.testing.assert_close(this[0, 0], all_of_them[1, 2], rtol=0, atol=1e-10)


def test_a_step_of_no_length_stays_there():
    _, state = problem()
    other = State(*(factor + 1 for factor in state.factors()))
    there = state.step(other, torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(there.out_factor, state.out_factor)


def test_a_step_goes_on_along_the_last_one():
    _, state = problem()
    before = State(*(factor - 1 for factor in state.factors()))
    ahead = state.step(before, torch.full((2, 3), 2.5, dtype=torch.float64))
    torch.testing.assert_close(ahead.out_factor, state.out_factor + 2.5, rtol=1e-14, atol=1e-14)


def test_a_system_that_is_zero_is_solved_by_nothing():
    """A start whose out factor is zero, without a ridge: its neighbor in the batch does not notice."""
    slices, state = problem(s=2)
    lost = State(state.out_factor.clone(), state.in_factor, state.adapter_factor)
    lost.out_factor[:, 0] = 0
    ridge = torch.zeros(2, 2, dtype=torch.float64)
    swept, error = als_sweep(slices, lost, ridge)
    assert not any(factor[:, 0].any() for factor in swept.factors())
    torch.testing.assert_close(error[:, 0], torch.ones(2, dtype=torch.float64))
    alone, _ = als_sweep(slices, State(*(factor[:, 1:] for factor in state.factors())), ridge[:, 1:])
    torch.testing.assert_close(swept.out_factor[:, 1:], alone.out_factor, rtol=0, atol=1e-6)
