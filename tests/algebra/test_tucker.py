"""Tucker models: planted ones recovered, TensorLy no better, errors those of the dense tensor."""

import pytest
import torch
from algebra_stacks import KINDS, make_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.algebra import ModuleStack, compress_stack, tucker_hooi
from tclora.errors import ConfigError, ShapeError

EXACT = 1e-12  # products of orthonormal factors in float64


def dense(stack, j=0):
    return torch.stack([stack.delta(i)[j] for i in range(stack.n)], dim=-1)


def rebuilt(stack, fit, j=0):
    """The model at full size, by plain mode products."""
    compressed = compress_stack(stack)
    out = compressed.out_basis[j] @ fit.out_factor[j]
    into = compressed.in_basis[j] @ fit.in_factor[j]
    return torch.einsum("abc,pa,qb,nc->pqn", fit.core[j], out, into, fit.adapter_factor[j])


def planted_stack(noise=0.0, *, n=6, rank=4, m=1):
    """Adapters that all lie in the same bases of 3 out and 3 in directions, mixed from 2 patterns."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    out, into = (torch.linalg.qr(normal(d, 3))[0] for d in (20, 17))
    mix, patterns = normal(n, 2), normal(2, 3, 3)
    slices = torch.einsum("na,aij,pi,qj->npq", mix, patterns, out, into) + noise * normal(n, 20, 17)
    u, s, vh = torch.linalg.svd(slices, full_matrices=False)
    columns = [(side[:, :, :rank] * s[:, None, :rank].sqrt()).permute(1, 0, 2).flatten(1) for side in (u, vh.mT)]
    return ModuleStack(tuple(f"x{j}" for j in range(m)), *(c.expand(m, -1, -1) for c in columns), (rank,) * n)


def test_a_planted_model_is_found_exactly():
    fit = tucker_hooi(compress_stack(planted_stack()), 3, adapter_rank=2)
    assert float(fit.relative_error) < EXACT
    assert fit.converged.all()


def test_one_direction_fewer_in_any_mode_is_not_enough():
    compressed = compress_stack(planted_stack())
    assert float(tucker_hooi(compressed, 2, adapter_rank=2).relative_error) > 1e-3
    assert float(tucker_hooi(compressed, 3, adapter_rank=1).relative_error) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rank", "adapter_rank"), [(3, None), (6, 2), (10, 4)])
def test_the_error_is_that_of_the_dense_tensor(kind, rank, adapter_rank):
    stack = make_stack(kind)
    fit = tucker_hooi(compress_stack(stack), rank, adapter_rank=adapter_rank)
    tensor = dense(stack)
    error = float((tensor - rebuilt(stack, fit)).norm() / tensor.norm())
    assert float(fit.relative_error) == pytest.approx(error, rel=1e-10)


def test_a_small_error_keeps_its_digits():
    """An expanded norm would end at 1e-8."""
    stack = planted_stack(noise=1e-10)
    fit = tucker_hooi(compress_stack(stack), 3, adapter_rank=2)
    tensor = dense(stack)
    error = float((tensor - rebuilt(stack, fit)).norm() / tensor.norm())
    assert 1e-11 < error < 1e-9
    assert float(fit.relative_error) == pytest.approx(error, rel=1e-3)  # 1e-15 of rounding in 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_hooi_never_ends_above_hosvd_and_hosvd_is_what_no_sweeps_give(kind):
    compressed = compress_stack(make_stack(kind, m=2))
    fit, start = (tucker_hooi(compressed, 5, adapter_rank=3, max_iter=x) for x in (100, 0))
    assert (fit.relative_error < fit.hosvd_error).all()
    assert torch.equal(start.relative_error, start.hosvd_error)
    assert torch.equal(fit.hosvd_error, start.hosvd_error)
    assert start.n_iter.tolist() == [0, 0]


def test_hosvd_has_the_factors_of_the_unfoldings():
    """De Lathauwer: its factors are the left singular vectors of the three unfoldings, as projectors."""
    stack = make_stack("mixed")
    compressed = compress_stack(stack)
    fit = tucker_hooi(compressed, 4, adapter_rank=3, max_iter=0)
    factors = (compressed.out_basis[0] @ fit.out_factor[0], compressed.in_basis[0] @ fit.in_factor[0])
    for mode, factor in enumerate(factors):
        u = torch.linalg.svd(dense(stack).movedim(mode, 0).flatten(1), full_matrices=False)[0][:, :4]
        torch.testing.assert_close(factor @ factor.T, u @ u.T, rtol=0, atol=1e-9)  # gaps of a few percent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rank", "adapter_rank"), [(4, 6), (8, 3)])
def test_tensorly_is_no_better(kind, rank, adapter_rank):
    pytest.importorskip("tensorly", minversion="0.10")
    from tensorly import tucker_to_tensor
    from tensorly.decomposition import tucker

    compressed = compress_stack(make_stack(kind))
    tensor = compressed.core[0].numpy()
    model = tucker(tensor, rank=[rank, rank, adapter_rank], init="svd", n_iter_max=100, tol=1e-8)
    theirs = float(torch.from_numpy(tensor - tucker_to_tensor(model)).norm() / compressed.core.norm())
    ours = float(tucker_hooi(compressed, rank, adapter_rank=adapter_rank, tol=1e-8).relative_error)
    assert ours <= theirs + 1e-6  # both stop when a sweep gains less than 1e-8


@settings(max_examples=20, deadline=None)
@given(
    ranks=st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any),
    shape=st.sampled_from([(13, 11), (5, 11), (9, 4)]),
    rank=st.integers(1, 14),
    adapter_rank=st.one_of(st.none(), st.integers(1, 6)),
    seed=st.integers(0, 10**6),
)
def test_factors_are_orthonormal_and_errors_dense_for_any_sizes(ranks, shape, rank, adapter_rank, seed):
    stack = make_stack("mixed", ranks=tuple(ranks), d_out=shape[0], d_in=shape[1], seed=seed, m=2)
    fit = tucker_hooi(compress_stack(stack), rank, adapter_rank=adapter_rank)
    for factor in (fit.out_factor, fit.in_factor, fit.adapter_factor):
        eye = torch.eye(factor.shape[2], dtype=torch.float64).expand(2, -1, -1)
        torch.testing.assert_close(factor.mT @ factor, eye, rtol=0, atol=EXACT)
    for j in range(2):
        error = float((dense(stack, j) - rebuilt(stack, fit, j)).norm() / dense(stack, j).norm())
        assert float(fit.relative_error[j]) == pytest.approx(error, abs=EXACT)


def test_more_directions_than_the_other_modes_can_use_are_still_orthonormal():
    """With 4 in directions and one adapter direction the sixth out direction has nothing to hold."""
    stack = make_stack("mixed", ranks=(4, 4, 4), d_out=9, d_in=4)
    fit = tucker_hooi(compress_stack(stack), 6, adapter_rank=1)
    torch.testing.assert_close(fit.out_factor.mT @ fit.out_factor, torch.eye(6).double()[None], rtol=0, atol=EXACT)
    error = float((dense(stack) - rebuilt(stack, fit)).norm() / dense(stack).norm())
    assert float(fit.relative_error) == pytest.approx(error, rel=1e-10)


def test_full_ranks_are_exact_without_a_sweep():
    fit = tucker_hooi(compress_stack(make_stack("private")), 100)
    assert float(fit.relative_error) < EXACT
    assert int(fit.n_iter) == 0


def test_the_weighted_core_is_the_sum_of_the_models_adapters():
    stack = make_stack("mixed")
    compressed = compress_stack(stack)
    fit = tucker_hooi(compressed, 5, adapter_rank=3)
    weights = torch.tensor([[0.5, -1.0, 2.0, 0.0, 0.3, 1.0]]).double()
    out, into = compressed.out_basis[0] @ fit.out_factor[0], compressed.in_basis[0] @ fit.in_factor[0]
    found = out @ fit.weighted_core(weights)[0] @ into.T
    torch.testing.assert_close(found, rebuilt(stack, fit) @ weights[0], rtol=0, atol=EXACT)


def test_a_problem_does_not_depend_on_its_batch():
    stack = make_stack("mixed", m=3)
    together = tucker_hooi(compress_stack(stack), 5, adapter_rank=3)
    for j in range(3):
        alone = ModuleStack((stack.names[j],), stack.out_stack[j : j + 1], stack.in_stack[j : j + 1], stack.ranks)
        fit = tucker_hooi(compress_stack(alone), 5, adapter_rank=3)
        assert float(fit.relative_error) == pytest.approx(float(together.relative_error[j]), rel=1e-9)
        assert int(fit.n_iter) == int(together.n_iter[j])


def test_scale_carries_over():
    stack = make_stack("mixed")
    large = ModuleStack(stack.names, 1e120 * stack.out_stack, 1e30 * stack.in_stack, stack.ranks)
    fits = [tucker_hooi(compress_stack(s), 4) for s in (stack, large)]
    assert float(fits[1].relative_error) == pytest.approx(float(fits[0].relative_error), rel=1e-9)
    assert float(fits[1].core.norm()) == pytest.approx(1e150 * float(fits[0].core.norm()), rel=1e-9)


def test_zero_adapters_have_no_error():
    stack = make_stack("mixed", m=2)
    fit = tucker_hooi(compress_stack(ModuleStack(stack.names, 0 * stack.out_stack, stack.in_stack, stack.ranks)), 3)
    assert fit.relative_error.tolist() == [0.0, 0.0]
    assert not fit.core.any()


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 2, "adapter_rank": 0}])
def test_ranks_below_one_are_refused(options):
    with pytest.raises(ShapeError, match="at least one direction"):
        tucker_hooi(compress_stack(make_stack()), **options)


@pytest.mark.parametrize("options", [{"max_iter": -1}, {"tol": -1.0}, {"tol": float("nan")}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="out of range"):
        tucker_hooi(compress_stack(make_stack()), 2, **options)
