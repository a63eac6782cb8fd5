"""STI and CP-STI against closed forms, dense definitions and planted overlap."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_overlap import EXACT, dense_deltas, planted_overlap, rough_stack

from tclora.algebra import ModuleStack, compress_stack, cp_als
from tclora.analysis import cp_singular_task_interference, singular_task_interference


def dense_sti(deltas: list[np.ndarray], ranks) -> tuple[float, float]:
    """The definition: leading singular triplets of every dense delta side by side."""
    left, values, right = [], [], []
    for delta, rank in zip(deltas, ranks, strict=True):
        u, s, vh = np.linalg.svd(delta)
        left.append(u[:, :rank])
        values.append(s[:rank])
        right.append(vh[:rank].T)
    u, s, v = np.hstack(left), np.concatenate(values), np.hstack(right)
    raw = np.abs((u.T @ u - np.eye(len(s))) @ np.diag(s) @ (v.T @ v - np.eye(len(s)))).sum()
    return raw, raw / s.sum()


@pytest.mark.parametrize(("out_cosine", "in_cosine"), [(0.0, 0.0), (0.0, 1.0), (0.3, 0.5), (0.8, 0.8), (1.0, 1.0)])
def test_sti_of_planted_overlap_has_its_closed_form(out_cosine, in_cosine):
    """Directions meet their own kind only, so the ratio is `c_out c_in (n - 1)^2` whatever the singular values."""
    found = singular_task_interference(compress_stack(planted_overlap(out_cosine, in_cosine, n=4)))
    assert float(found.ratio) == pytest.approx(out_cosine * in_cosine * 9, abs=EXACT)
    assert float(found.raw) == pytest.approx(out_cosine * in_cosine * 9 * 24, abs=24 * EXACT)


@settings(max_examples=25, deadline=None)
@given(ranks=st.lists(st.integers(0, 5), min_size=2, max_size=5).filter(any), seed=st.integers(0, 99))
def test_sti_is_its_dense_definition(ranks, seed):
    stack = rough_stack(ranks, seed=seed)
    found = singular_task_interference(compress_stack(stack))
    raw, ratio = dense_sti(dense_deltas(stack), ranks)
    # Vectors of close singular values turn into one another by rounding over their gap.
    assert float(found.raw) == pytest.approx(raw, rel=1e-6, abs=1e-9)
    assert float(found.ratio) == pytest.approx(ratio, rel=1e-6, abs=1e-9)


def test_sti_counts_numerical_rank_only():
    """Spare columns, zero or made of others, add no direction."""
    stack = planted_overlap(0.5, 0.5)
    out, into = (side.unflatten(2, (4, 3)) for side in (stack.out_stack, stack.in_stack))
    wide_out = torch.cat([out, out[..., :1], torch.zeros_like(out[..., :1])], 3).flatten(2)
    wide_in = torch.cat([into, 0 * into[..., :1], into[..., :1]], 3).flatten(2)
    wide = ModuleStack(stack.names, wide_out, wide_in, (5,) * 4)
    found = singular_task_interference(compress_stack(wide))
    assert float(found.ratio) == pytest.approx(0.25 * 9, abs=1e-9)


def test_cp_sti_is_its_dense_definition():
    compressed = compress_stack(rough_stack((3, 2, 4), d_out=30, d_in=30))
    fit = cp_als(compressed, 5, n_starts=0, max_iter=20)
    found = cp_singular_task_interference(fit.factors)
    b = (compressed.out_basis[0] @ fit.factors.out_factor[0]).numpy()
    c = (compressed.in_basis[0] @ fit.factors.in_factor[0]).numpy()
    a = fit.factors.coordinates()[0].numpy()
    sizes = np.linalg.norm(a, axis=0)
    b, a = (side * np.sign(a.sum(axis=0)) for side in (b, a))
    rebuilt = np.einsum("pr,qr,nr->pqn", b, c, a)
    tensor = np.stack(dense_deltas(rough_stack((3, 2, 4), d_out=30, d_in=30)), axis=2)
    error = np.linalg.norm(rebuilt - tensor) / np.linalg.norm(tensor)
    assert error == pytest.approx(float(fit.relative_error), abs=EXACT)
    raw = np.abs((b.T @ b - np.eye(5)) @ np.diag(sizes) @ (c.T @ c - np.eye(5))).sum()
    assert float(found.raw) == pytest.approx(raw, rel=1e-9)
    assert float(found.ratio) == pytest.approx(raw / sizes.sum(), rel=1e-9)


def cp_sti_ratio(cosine: float, cp_rank: int) -> float:
    compressed = compress_stack(planted_overlap(cosine, cosine))
    return float(cp_singular_task_interference(cp_als(compressed, cp_rank, n_starts=2, max_iter=60).factors).ratio)


@pytest.mark.parametrize("cp_rank", [6, 12])
def test_cp_sti_rises_with_planted_overlap_from_zero(cp_rank):
    ratios = [cp_sti_ratio(cosine, cp_rank) for cosine in (0.0, 0.2, 0.4, 0.6)]
    # Alternating least squares brings terms of private adapters to right angles only slowly.
    assert ratios[0] < 0.02
    assert ratios == sorted(ratios)
    assert ratios[-1] > 0.5


@pytest.mark.parametrize("cosine", [0.3, 0.7])
def test_cp_sti_of_an_exact_model_is_sti(cosine):
    """At R = P each term is a singular triplet of one adapter."""
    assert cp_sti_ratio(cosine, 12) == pytest.approx(9 * cosine**2, rel=1e-9)


def test_equal_adapters_are_one_set_of_terms_and_interfere_no_more():
    assert cp_sti_ratio(1.0, 3) < EXACT
    assert cp_sti_ratio(1.0, 12) < EXACT
