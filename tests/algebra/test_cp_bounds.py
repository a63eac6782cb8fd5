"""Bounds on CP errors from singular values: between them lies every fit, and dense unfoldings give the same numbers."""

import pytest
import torch
from algebra_stacks import KINDS, make_stack
from hypothesis import given, settings
from hypothesis import strategies as st

from tclora.algebra import compress_stack, cp_als
from tclora.algebra.cp_bounds import adapter_gram, cp_bounds, joint_spectrum
from tclora.errors import ConfigError

# Spectra come from eigenvalues of Gram matrices: squares are good to 1e-14 or so, values to the root of that.
SPECTRUM = 1e-7


def tensor_of(stack, j=0):
    """The dense tensor `(d_out, d_in, n)` of one module in float64."""
    return torch.stack([stack.delta(i)[j].double() for i in range(stack.n)], dim=2)


@pytest.mark.parametrize("side", ["out", "in"])
@pytest.mark.parametrize("ranks", [(4,) * 6, (1, 5, 0, 3), (20, 20, 20)])
def test_the_joint_spectrum_is_that_of_the_dense_unfolding(ranks, side):
    stack = make_stack(ranks=ranks)
    tensor = tensor_of(stack)
    unfolding = tensor.flatten(1) if side == "out" else tensor.transpose(0, 1).flatten(1)
    wanted = torch.linalg.svdvals(unfolding)
    found = joint_spectrum(compress_stack(stack), side)[0]
    k = min(len(found), len(wanted))
    assert torch.allclose(found[:k], wanted[:k], atol=SPECTRUM * float(wanted[0]))
    assert float(wanted[k:].sum()) <= SPECTRUM * float(wanted[0])


def test_the_gram_matrix_holds_inner_products_of_dense_deltas():
    stack = make_stack(ranks=(4, 0, 2, 7))
    flat = tensor_of(stack).flatten(0, 1)
    # Sums of a few thousand products in float64.
    assert torch.allclose(adapter_gram(compress_stack(stack))[0], flat.T @ flat, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fit_lies_between_the_bounds(kind):
    compressed = compress_stack(make_stack(kind, m=2, ranks=(3,) * 5))
    bounds = cp_bounds(compressed)
    for cp_rank in (1, 4, 15):
        error = cp_als(compressed, cp_rank, n_starts=0, max_iter=20).relative_error
        least, reached = bounds.relative_errors(cp_rank)
        assert (error >= least - SPECTRUM).all()
        # The solver starts from the model that reaches the upper bound, moved by a hundredth.
        assert (error <= reached + 0.01).all()


def test_orthogonal_adapters_have_one_answer():
    """Adapters with orthogonal spaces on both sides: both bounds are the tail of their singular values."""
    generator = torch.Generator().manual_seed(0)
    out = torch.linalg.qr(torch.randn(40, 12, generator=generator, dtype=torch.float64))[0]
    into = torch.linalg.qr(torch.randn(40, 12, generator=generator, dtype=torch.float64))[0]
    values = torch.linspace(3, 1, 12, dtype=torch.float64)
    from tclora.algebra import ModuleStack

    bounds = cp_bounds(compress_stack(ModuleStack(("a",), (out * values)[None], into[None], (2,) * 6)))
    # The adapter mode has 6 slices only, so its tails vanish beyond 6; the other modes decide.
    wanted = [float(values[r:].square().sum() / values.square().sum()) for r in range(13)]
    assert bounds.least[0].tolist() == pytest.approx(wanted, abs=1e-13)
    assert bounds.reached[0].tolist() == pytest.approx(wanted, abs=1e-13)


@settings(max_examples=25, deadline=None)
@given(ranks=st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any), energy=st.floats(0.01, 1.0))
def test_the_bracket_of_ranks_is_ordered_and_within_one_and_p(ranks, energy):
    bounds = cp_bounds(compress_stack(make_stack(ranks=tuple(ranks), d_out=14, d_in=11)))
    low, high = (int(r[0]) for r in bounds.ranks(energy))
    assert 1 <= low <= high <= max(1, sum(ranks))
    assert float(bounds.reached[0, high]) <= 1 - energy + 1e-12
    assert low == 1 or float(bounds.least[0, low - 1]) > 1 - energy


def test_no_energy_and_too_much_are_refused():
    bounds = cp_bounds(compress_stack(make_stack(ranks=(2, 2))))
    for energy in (0.0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="no share"):
            bounds.ranks(energy)
