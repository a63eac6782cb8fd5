"""The CP model as a value: one canonical form, true residuals, cosines of terms."""

import pytest
import torch
from algebra_stacks import planted_core

from tclora.algebra import relative_residual, triple_cosine
from tclora.algebra.cp_model import canonical, lowest_cosine

EXACT = 1e-13  # sums of a few terms of order one, in float64


def normals(*sizes, m=2, cp_rank=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(m, size, cp_rank, generator=generator, dtype=torch.float64) for size in sizes]


def dense(factors):
    return torch.einsum("mpr,mqr,mnr->mpqn", *factors)


def test_canonical_form_keeps_the_sum_of_terms():
    factors = normals(5, 6, 4)
    torch.testing.assert_close(canonical(*factors).reconstruct(), dense(factors), rtol=EXACT, atol=EXACT)


def test_canonical_columns_have_unit_norm():
    model = canonical(*normals(5, 6, 4))
    for factor in (model.out_factor, model.in_factor, model.adapter_factor):
        torch.testing.assert_close(factor.norm(dim=1), torch.ones(2, 3, dtype=torch.float64), rtol=0, atol=EXACT)


def test_canonical_weights_descend():
    weights = canonical(*normals(5, 6, 4)).weights
    assert (weights.diff(dim=1) <= 0).all()


def test_canonical_largest_entries_are_positive():
    model = canonical(*normals(5, 6, 4))
    for factor in (model.out_factor, model.in_factor):
        assert (factor.gather(1, factor.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_canonical_form_does_not_see_scales_signs_or_order():
    out, into, adapter = normals(5, 6, 4)
    scale = torch.tensor([-2.0, 3.0, -0.5], dtype=torch.float64)
    order = [2, 0, 1]
    other = canonical((out * scale)[..., order], (into / scale)[..., order], adapter[..., order])
    model = canonical(out, into, adapter)
    torch.testing.assert_close(other.out_factor, model.out_factor, rtol=0, atol=EXACT)
    torch.testing.assert_close(other.adapter_factor, model.adapter_factor, rtol=0, atol=EXACT)


def test_a_zero_term_comes_last_with_zero_columns():
    out, into, adapter = normals(5, 6, 4)
    adapter[:, :, 0] = 0
    model = canonical(out, into, adapter)
    assert (model.weights[:, 2] == 0).all()
    assert not model.out_factor[:, :, 2].any()


def test_mean_of_the_reconstruction_is_the_mean_of_the_coordinates():
    model = canonical(*normals(5, 6, 4))
    mean = model.coordinates().mean(dim=1)
    want = (model.out_factor * mean[:, None]) @ model.in_factor.mT
    torch.testing.assert_close(model.reconstruct().mean(dim=3), want, rtol=EXACT, atol=EXACT)


def test_residual_is_the_dense_one():
    core, _ = planted_core(m=2, p=5, q=6, n=4)
    model = canonical(*normals(5, 6, 4))
    want = (core - model.reconstruct()).flatten(1).norm(dim=1) / core.flatten(1).norm(dim=1)
    torch.testing.assert_close(relative_residual(core, model), want, rtol=EXACT, atol=0)


def test_residual_of_zero_is_zero():
    zeros = [torch.zeros(1, size, 3, dtype=torch.float64) for size in (5, 6, 4)]
    assert relative_residual(dense(zeros), canonical(*zeros)).tolist() == [0]


@pytest.mark.parametrize(("cosine", "signs"), [(1.0, 1), (-1.0, -1)])
def test_triple_cosine_of_parallel_terms(cosine, signs):
    factors = [torch.ones(1, size, 2, dtype=torch.float64) for size in (3, 3, 3)]
    factors[0][..., 1] *= signs
    torch.testing.assert_close(triple_cosine(*factors), torch.tensor([cosine], dtype=torch.float64))


def test_triple_cosine_of_one_term_is_one():
    assert triple_cosine(*normals(5, 6, 4, cp_rank=1)).tolist() == [1, 1]


def test_terms_that_die_out_do_not_hide_a_pair_that_cancels():
    """Their weights vanish in float32 where their norms do not."""
    factors = [torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    for k, factor in enumerate(factors):
        factor[:, :, 1] = -factor[:, :, 0] if k == 0 else factor[:, :, 0]
        factor[:, :, 2:] *= 1e-15
    cosine = lowest_cosine([factor.mT @ factor for factor in factors])
    torch.testing.assert_close(cosine, torch.tensor([-1.0]), rtol=0, atol=1e-5)
