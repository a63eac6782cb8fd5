"""Problems with a known optimum are solved by singular value decompositions, and say so."""

import pytest
import torch
from algebra_stacks import make_stack, planted_core

from tclora.algebra import ModuleStack, compress_stack, cp_als

EXACT = 1e-12  # what the shortcuts count as negligible


def equal_adapters(scales, r=4):
    one = make_stack("private", ranks=(r,))
    out = torch.cat([scale * one.out_stack for scale in scales], dim=2)
    return one, ModuleStack(one.names, out, one.in_stack.repeat(1, 1, len(scales)), (r,) * len(scales))


def best_matrix_error(matrix, rank):
    s = torch.linalg.svdvals(matrix)
    return float(s[rank:].norm() / s.norm())


def test_as_many_terms_as_ranks_is_exact():
    core = compress_stack(make_stack("mixed", m=2, ranks=(4, 2, 0, 3))).core
    fit = cp_als(core, 9)
    assert fit.exact.all()
    assert float(fit.relative_error.max()) < EXACT
    assert fit.n_terms.tolist() == [9, 9]


def test_more_terms_than_needed_stay_zero():
    fit = cp_als(compress_stack(make_stack("mixed", ranks=(2, 2))).core, 7)
    assert int(fit.n_terms) == 4
    assert not fit.factors.weights[:, 4:].any()


def test_one_term_fewer_than_needed_is_not_exact():
    fit = cp_als(compress_stack(make_stack("private", ranks=(3, 3))).core, 5)
    assert not fit.exact.any()
    assert float(fit.relative_error) > 1e-3


def test_equal_adapters_at_their_own_rank_are_exact():
    _, stack = equal_adapters((1, 1, 1, 1))
    fit = cp_als(compress_stack(stack).core, 4)
    assert bool(fit.exact)
    assert float(fit.relative_error) < EXACT


def test_mean_of_equal_adapters_is_the_adapter():
    one, stack = equal_adapters((1, 1, 1))
    compressed = compress_stack(stack)
    mean = cp_als(compressed.core, 4).factors.reconstruct().mean(dim=3)
    got = compressed.out_basis @ mean @ compressed.in_basis.mT
    torch.testing.assert_close(got, one.delta(0), rtol=0, atol=EXACT * float(one.delta(0).norm()))


@pytest.mark.parametrize("cp_rank", [1, 2, 3])
def test_proportional_adapters_get_the_best_matrix_approximation(cp_rank):
    one, stack = equal_adapters((1, -2, 0.5))
    fit = cp_als(compress_stack(stack).core, cp_rank)
    assert bool(fit.exact)
    assert float(fit.relative_error) == pytest.approx(best_matrix_error(one.delta(0)[0], cp_rank), abs=EXACT)


@pytest.mark.parametrize("cp_rank", [1, 3, 4])
def test_one_adapter_is_a_matrix(cp_rank):
    stack = make_stack("private", ranks=(4,))
    fit = cp_als(compress_stack(stack).core, cp_rank)
    assert bool(fit.exact)
    assert float(fit.relative_error) == pytest.approx(best_matrix_error(stack.delta(0)[0], cp_rank), abs=EXACT)


@pytest.mark.parametrize("axis", [0, 1])
def test_one_shared_direction_is_a_matrix(axis):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    direction = torch.randn(7, generator=generator, dtype=torch.float64)
    core = torch.einsum("p,qn->pqn", direction, matrix)
    core = core if axis == 0 else core.transpose(0, 1)
    fit = cp_als(core[None], 3)
    assert bool(fit.exact)
    assert float(fit.relative_error) == pytest.approx(best_matrix_error(matrix, 3), abs=EXACT)


def test_two_pairs_of_proportional_adapters_need_two_adapters_ranks():
    pair = make_stack("private", ranks=(3, 3))
    out = torch.cat([pair.out_stack, -2 * pair.out_stack], dim=2)
    stack = ModuleStack(pair.names, out, pair.in_stack.repeat(1, 1, 2), (3,) * 4)
    fit = cp_als(compress_stack(stack).core, 6)
    assert bool(fit.exact)
    assert float(fit.relative_error) < EXACT


def test_a_short_out_axis_is_exact_with_few_terms():
    core = torch.randn(1, 2, 3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = cp_als(core, 6)
    assert bool(fit.exact)
    assert float(fit.relative_error) < EXACT


def test_a_wide_core_of_few_terms_is_still_found_exact():
    core, _ = planted_core(p=60, q=60, n=1, cp_rank=2)
    other, _ = planted_core(p=60, q=60, n=1, cp_rank=3, seed=1)
    fit = cp_als(torch.cat([core, other], dim=3), 5)
    assert bool(fit.exact)
    assert float(fit.relative_error) < EXACT


def test_zero_is_fitted_by_nothing():
    fit = cp_als(torch.zeros(2, 3, 4, 5), 2)
    assert fit.relative_error.tolist() == [0, 0]
    assert fit.n_terms.tolist() == [0, 0]
    assert fit.converged.all()
