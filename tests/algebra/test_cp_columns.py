"""Sweeps in the adapters' own columns are the sweeps in the joint bases, written down in other coordinates."""

import pytest
import torch
from algebra_stacks import make_stack

from tclora.algebra import ModuleStack, compress_stack, cp, cp_als
from tclora.algebra.cp_columns import columns_apart, to_basis, to_columns, with_grams
from tclora.algebra.cp_run import run_als
from tclora.algebra.cp_starts import make_starts
from tclora.algebra.cp_sweep import als_sweep, term_grams
from tclora.algebra.slices import Slices


def slices_of(stack: ModuleStack) -> Slices:
    """The slices of a stack at norm 1."""
    compressed = compress_stack(stack)
    root = compressed.size().sqrt()[:, None, None]
    return Slices(compressed.out_blocks / root, compressed.in_blocks / root, compressed.ranks)


def problem(ranks=(4, 4, 4), *, d=40, cp_rank=5):
    slices = slices_of(make_stack("private", m=2, ranks=ranks, d_out=d, d_in=d + 5))
    return slices, make_starts(slices, cp_rank, n_starts=2, seed=0)[0]


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 1, 2, 3)])
def test_a_sweep_in_columns_is_the_sweep_in_the_bases(ranks):
    slices, start = problem(ranks)
    ridge = torch.full(start.out_factor.shape[:2], 1e-4, dtype=torch.float64)
    plain, error = als_sweep(slices, start, ridge)
    wide = with_grams(slices)
    mixed, same = als_sweep(wide, to_columns(wide, start), ridge)
    torch.testing.assert_close(same, error, rtol=0, atol=1e-10)
    for one, other in zip(plain.factors(), to_basis(wide, mixed).factors(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-9)
    for one, other in zip(term_grams(slices, plain), term_grams(wide, mixed), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 1, 2, 3)])
def test_a_run_in_columns_is_the_run_in_the_bases(ranks):
    slices, start = problem(ranks)
    wide = with_grams(slices)
    plain = run_als(slices, start, sweeps=25, tol=0.0)
    mixed = run_als(wide, to_columns(wide, start), sweeps=25, tol=0.0)
    torch.testing.assert_close(mixed.error, plain.error, rtol=0, atol=1e-8)
    for one, other in zip(plain.state.factors(), to_basis(wide, mixed.state).factors(), strict=True):
        # Twenty-five sweeps of a map that may pull roundings apart.
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)


def test_starts_come_back_from_the_columns():
    slices, start = problem()
    wide = with_grams(slices)
    there = to_columns(wide, start)
    torch.testing.assert_close(to_basis(wide, there).out_factor, start.out_factor, rtol=0, atol=1e-12)
    torch.testing.assert_close(there.out_side, slices.out_blocks.mT[:, None] @ start.out_factor, rtol=0, atol=1e-12)


def test_slices_without_grams_stay_in_the_bases():
    slices, start = problem()
    assert to_columns(slices, start) is start
    assert to_basis(slices, start) is start


def test_columns_that_nearly_depend_on_one_another_are_not_apart():
    """The second module's adapters differ by a hundredth; the third has one adapter in twice."""
    apart = torch.randn(60, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near, twice = apart.clone(), apart.clone()
    near[:, 4:8], twice[:, 8:] = near[:, :4] + 0.01 * near[:, 4:8], twice[:, :4]
    columns = torch.stack([apart, near, twice])
    slices = slices_of(ModuleStack(("a", "b", "c"), columns, columns.clone(), (4, 4, 4)))
    assert columns_apart(with_grams(slices)).tolist() == [True, False, False]


def test_the_way_of_sweeping_does_not_show_in_the_model(monkeypatch):
    compressed = compress_stack(make_stack("private", m=2, ranks=(4, 4, 4), d_out=40, d_in=45))
    monkeypatch.setattr(cp, "_MANY", 1)
    in_columns = cp_als(compressed, 6, n_starts=2)
    monkeypatch.setattr(cp, "columns_apart", lambda slices: torch.zeros(slices.m, dtype=torch.bool))
    in_bases = cp_als(compressed, 6, n_starts=2)
    # Sweeps in float32, an error that they no longer change by 1e-7 each.
    torch.testing.assert_close(in_columns.relative_error, in_bases.relative_error, rtol=0, atol=1e-5)


def test_problems_of_either_kind_in_one_batch_are_solved_as_if_alone(monkeypatch):
    monkeypatch.setattr(cp, "_MANY", 1)
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn(2, 60, 12, dtype=torch.float64, generator=generator)
    columns[1, :, 4:8] = columns[1, :, :4] + 0.01 * columns[1, :, 4:8]
    stack = ModuleStack(
        ("apart", "near"), columns, torch.randn(2, 50, 12, dtype=torch.float64, generator=generator), (4,) * 3
    )
    both = cp_als(compress_stack(stack), 5, n_starts=1)
    for j, name in enumerate(stack.names):
        alone = ModuleStack((name,), stack.out_stack[j : j + 1], stack.in_stack[j : j + 1], stack.ranks)
        fit = cp_als(compress_stack(alone), 5, n_starts=1)
        torch.testing.assert_close(both.relative_error[j : j + 1], fit.relative_error, rtol=0, atol=1e-5)


def test_more_columns_than_dimensions_make_no_gram_matrices(monkeypatch):
    """They would be larger than the stack, and say nothing."""
    monkeypatch.setattr(cp, "_MANY", 1)
    monkeypatch.setattr(cp, "with_grams", lambda _: pytest.fail("Gram matrices were made"))
    generator = torch.Generator().manual_seed(0)
    out_stack, in_stack = (torch.randn(2, d, 40, generator=generator) for d in (12, 30))
    stack = ModuleStack(("a", "b"), out_stack, in_stack, (10, 10, 10, 10))
    fit = cp_als(compress_stack(stack), 4, max_iter=5, n_starts=1)
    assert bool((fit.relative_error < 1).all())
