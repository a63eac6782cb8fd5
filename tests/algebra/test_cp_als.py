"""Alternating least squares: planted models recovered, symmetries kept, batches independent, terms kept apart."""

import pytest
import torch
from algebra_stacks import KINDS, make_stack, planted_core
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.algebra import ModuleStack, compress_stack, cp_als
from tclora.algebra.cp_run import run_als
from tclora.algebra.cp_starts import make_starts
from tclora.algebra.cp_sweep import als_sweep
from tclora.algebra.slices import Slices, stack_of_core
from tclora.errors import ConfigError, NumericalError, ShapeError

# Two runs whose inputs differ by rounding agree to about the stopping rule: 10 sweeps of 1e-7 each.
SETTLED = 2e-6


def core_of(kind="mixed", *, m=1, ranks=(4,) * 6, seed=0):
    return compress_stack(make_stack(kind, m=m, ranks=ranks, seed=seed)).core


def border_rank_core(size=6):
    """The classic tensor of rank 3 that rank-2 models approach without end (de Silva and Lim 2008)."""
    x, y = torch.eye(size, dtype=torch.float64)[:2]
    terms = ((x, x, y), (x, y, x), (y, x, x))
    return sum(torch.einsum("p,q,n->pqn", *term) for term in terms)[None]


@pytest.mark.parametrize("cp_rank", [2, 4, 6])
def test_a_planted_model_is_recovered(cp_rank):
    core, _ = planted_core(m=2, cp_rank=cp_rank)
    # The ridge vanishes with the error, so only the stopping rule is left.
    assert float(cp_als(core, cp_rank).relative_error.max()) < SETTLED


def test_planted_directions_are_recovered():
    core, (out, _, _) = planted_core(cp_rank=4)
    found = cp_als(core, 4).factors.out_factor
    cosine = (found.mT @ (out / out.norm(dim=1, keepdim=True))).abs()
    assert float(cosine.amax(dim=1).min()) > 1 - 1e-6


def test_a_noisy_planted_model_is_fitted_below_the_noise():
    core, _ = planted_core(cp_rank=4, noise=0.1)
    assert float(cp_als(core, 4).relative_error) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_reported_error_is_that_of_the_dense_tensor(kind):
    stack = make_stack(kind)
    compressed = compress_stack(stack)
    fit = cp_als(compressed.core, 8)
    small = fit.factors.reconstruct()[0]
    full = torch.einsum("op,pqn,iq->oin", compressed.out_basis[0], small, compressed.in_basis[0])
    dense = torch.stack([stack.delta(i)[0] for i in range(stack.n)], dim=2)
    want = float((dense - full).norm() / dense.norm())
    assert float(fit.relative_error) == pytest.approx(want, abs=1e-12)


def test_more_terms_fit_better():
    errors = [float(cp_als(core_of(), cp_rank).relative_error) for cp_rank in (2, 6, 12, 18, 24)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("scale", [1e-150, 1e-8, -3.0, 1e150])
def test_scale_goes_into_the_weights(scale):
    core = core_of()
    plain, scaled = cp_als(core, 5), cp_als(core * scale, 5)
    torch.testing.assert_close(scaled.relative_error, plain.relative_error, rtol=0, atol=SETTLED)
    torch.testing.assert_close(scaled.factors.weights / abs(scale), plain.factors.weights, rtol=1e-3, atol=0)


def test_order_of_the_adapters_does_not_matter():
    stack, order = make_stack(), [3, 1, 5, 0, 2, 4]
    columns = torch.cat([torch.arange(24)[stack.blocks()[i]] for i in order])
    shuffled = ModuleStack(stack.names, stack.out_stack[..., columns], stack.in_stack[..., columns], stack.ranks)
    plain, permuted = (cp_als(compress_stack(s), 8).factors for s in (stack, shuffled))
    torch.testing.assert_close(permuted.adapter_factor, plain.adapter_factor[:, order], rtol=0, atol=1e-6)


def test_how_an_adapter_was_factored_does_not_matter():
    stack = make_stack()
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both = torch.block_diag(*[mix] * 6)
    mixed = ModuleStack(stack.names, stack.out_stack @ both, stack.in_stack @ both.inverse().T, stack.ranks)
    plain, other = (cp_als(compress_stack(s), 8) for s in (stack, mixed))
    torch.testing.assert_close(other.factors.weights, plain.factors.weights, rtol=0, atol=1e-6)


def test_rotation_of_the_bases_does_not_matter():
    core = core_of()
    turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    rotated = torch.einsum("xp,mpqn->mxqn", turn, core)
    # Random starts are not rotated along, so another start may win: equal optima, not equal paths.
    torch.testing.assert_close(cp_als(rotated, 5).relative_error, cp_als(core, 5).relative_error, rtol=0, atol=1e-3)


def test_a_problem_does_not_see_its_neighbors():
    core = core_of(m=5)
    whole, alone = cp_als(core, 8), cp_als(core[3:4], 8)
    torch.testing.assert_close(whole.relative_error[3:4], alone.relative_error, rtol=0, atol=1e-10)
    torch.testing.assert_close(whole.factors.out_factor[3:4], alone.factors.out_factor, rtol=0, atol=1e-6)


def test_padding_with_zeros_changes_nothing():
    core = core_of()
    padded = torch.nn.functional.pad(core, (0, 2, 0, 3, 0, 4))
    plain, wide = cp_als(core, 8), cp_als(padded, 8)
    torch.testing.assert_close(wide.relative_error, plain.relative_error, rtol=0, atol=1e-8)
    assert not wide.factors.adapter_factor[:, 6:].any()


def test_the_same_call_gives_the_same_bytes():
    first, second = cp_als(core_of(), 8, seed=3), cp_als(core_of(), 8, seed=3)
    assert torch.equal(first.factors.out_factor, second.factors.out_factor)


def test_nothing_touches_the_global_generator():
    before = torch.random.get_rng_state()
    cp_als(core_of(), 8)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_seeds_agree_about_the_error():
    errors = [float(cp_als(core_of(), 8, seed=seed).relative_error) for seed in (0, 1)]
    assert errors[0] == pytest.approx(errors[1], abs=5e-3)  # local optima differ by less than one percent here


def test_input_is_left_alone():
    core = core_of()
    before = core.clone()
    cp_als(core, 5)
    assert torch.equal(core, before)


def walk(core, cp_rank):
    compressed = compress_stack(stack_of_core(core / core.flatten(1).norm(dim=1)[:, None, None, None]))
    slices = Slices(compressed.out_blocks, compressed.in_blocks, compressed.ranks)
    return slices, make_starts(slices, cp_rank, n_starts=3, seed=0)[0]


def residual(slices, state):
    """The dense relative error of every start, `(m, s)`; the slices have norm 1."""
    core = torch.stack([slices.dense(j) for j in range(slices.m)])
    rebuilt = torch.einsum("mspr,msqr,msnr->mspqn", *state.factors())
    return (core[:, None] - rebuilt).flatten(2).norm(dim=2)


def test_a_plain_sweep_never_raises_the_objective():
    slices, state = walk(core_of(), 8)
    ridge = torch.full(state.out_factor.shape[:2], 1e-5, dtype=torch.float64)
    objectives = []
    for _ in range(30):
        state, error = als_sweep(slices, state, ridge)
        objectives.append(error + ridge * sum((f * f).sum(dim=(2, 3)) for f in state.factors()))
    steps = torch.stack(objectives).diff(dim=0)
    assert float(steps.max()) <= 1e-14  # rounding of a number of order one


def test_a_sweep_knows_its_error():
    slices, state = walk(core_of(), 8)
    state, error = als_sweep(slices, state, torch.zeros(state.out_factor.shape[:2], dtype=torch.float64) + 1e-6)
    torch.testing.assert_close(error.sqrt(), residual(slices, state), rtol=0, atol=1e-10)


def test_more_sweeps_do_not_fit_worse():
    slices, state = walk(core_of("private"), 8)
    errors = [residual(slices, run_als(slices, state, sweeps=sweeps, tol=0.0).state) for sweeps in (10, 20, 40, 80)]
    # The guard may trade a little error for terms that do not cancel; adapters that share nothing give it no cause.
    assert float(torch.stack(errors).diff(dim=0).max()) < 1e-6


def test_a_start_at_the_solution_stays_there():
    core, _ = planted_core(cp_rank=3)
    slices, start = walk(core, 3)
    there = run_als(slices, start, sweeps=200, tol=1e-9).state
    further, _ = als_sweep(slices, there, torch.full(there.out_factor.shape[:2], 1e-12, dtype=torch.float64))
    good = residual(slices, there) < 1e-5
    assert bool(good.any())
    assert float(residual(slices, further)[good].max()) < 1e-5


def test_a_run_reports_its_errors():
    slices, start = walk(core_of(m=2), 8)
    run = run_als(slices, start, sweeps=25, tol=0.0)
    torch.testing.assert_close(run.error, residual(slices, run.state), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_stack_and_its_dense_core_have_the_same_model(kind):
    compressed = compress_stack(make_stack(kind, m=2, ranks=(4, 2, 0, 3)))
    sparse, full = cp_als(compressed, 6), cp_als(compressed.core, 6)
    # Signs of singular vectors are fixed in the axes given, so random starts differ: equal optima, not equal paths.
    torch.testing.assert_close(sparse.relative_error, full.relative_error, rtol=0, atol=1e-3)


def test_terms_that_cancel_are_kept_apart():
    fit = cp_als(border_rank_core(), 2)
    assert not fit.degenerate.any()
    assert float(fit.weight_energy) <= 10


def test_without_the_guard_the_fit_is_flagged(monkeypatch):
    monkeypatch.setattr("tclora.algebra.cp_run._WATCHED_COSINE", -2.0)
    monkeypatch.setattr("tclora.algebra.cp_run._WATCHED_ENERGY", float("inf"))
    fit = cp_als(border_rank_core(), 2)
    assert fit.degenerate.all()
    assert float(fit.triple_cosine) < -0.85


def test_the_border_rank_tensor_is_still_fitted():
    # The best rank-1 model leaves 1 - 4/9 of the energy, an error of 0.75; two bounded terms do better.
    assert float(cp_als(border_rank_core(), 2).relative_error) < 0.5


def test_its_true_rank_fits_the_border_rank_tensor():
    assert float(cp_als(border_rank_core(), 3).relative_error) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_real_shaped_fits_are_not_degenerate(kind):
    assert not cp_als(core_of(kind, m=2), 10).degenerate.any()


def test_facts_of_the_fit_are_consistent():
    fit = cp_als(core_of(m=2), 8)
    assert fit.converged.all()
    assert (fit.n_iter > 0).all()
    assert not fit.exact.any()
    assert (fit.start_spread >= 0).all()
    assert set(fit.start) <= {"task_svd", "hosvd", *(f"normal_{k}" for k in range(20))}


def test_too_few_sweeps_are_reported():
    fit = cp_als(core_of(), 8, max_iter=5)
    assert int(fit.n_iter) == 5
    assert not fit.converged.any()


@settings(max_examples=12, deadline=None)
@given(st.tuples(*[st.integers(1, 6)] * 3), st.integers(1, 9), st.integers(0, 99))
def test_any_shape_is_fitted_no_worse_than_by_nothing(shape, cp_rank, seed):
    core = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fit = cp_als(core, cp_rank, max_iter=40)
    assert 0 <= float(fit.relative_error) < 1


def test_settings_may_be_extreme():
    for request in ({"n_starts": 0}, {"max_iter": 1}, {"tol": 0.0, "max_iter": 40}, {"tol": 1.0}):
        assert float(cp_als(core_of(), 4, **request).relative_error) < 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite_by_problem(bad):
    core = core_of(m=3)
    core[1, 0, 0, 0] = bad
    with pytest.raises(NumericalError, match="problem 1 of 3"):
        cp_als(core, 4)


def test_refuses_an_empty_axis():
    with pytest.raises(ShapeError, match=r"\(1, 3, 0, 2\)"):
        cp_als(torch.zeros(1, 3, 0, 2), 4)


def test_refuses_no_terms():
    with pytest.raises(ShapeError, match="cp_rank 0"):
        cp_als(core_of(), 0)


@pytest.mark.parametrize("request_", [{"max_iter": 0}, {"tol": -1.0}, {"tol": float("nan")}, {"n_starts": -1}])
def test_refuses_settings_out_of_range(request_):
    with pytest.raises(ConfigError, match="out of range"):
        cp_als(core_of(), 4, **request_)
