"""Where the number of clusters is searched for: a sample on its principal axes, and data without clusters beside it.

In: embeddings `(n, d)`, memory-mapped or not. Out: a `SearchSpace`. The axes bound the cost whatever the width of the
embeddings: k-means on the first `k / e` of them is within `1 + e` of the best (Cohen et al. 2015, arXiv 1410.6801,
theorem 1), and 64 axes or twice the largest k are kept. Refused: NaN and infinity, by row.
"""

from dataclasses import dataclass

import numpy as np

from tclora.clustering.rows import gather_rows
from tclora.errors import NumericalError
from tclora.shapes import Float, Int

__all__ = ["SearchSpace", "boxed_rows", "normal_rows", "principal_axes", "search_space"]

N_AXES = 64
# Above this width the covariance is not formed; the leading axes are found by subspace iteration.
_WIDE = 1024
_ROUNDS = 12


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Sampled rows on their principal axes, and where in the embeddings they stand."""

    rows: Float[np.ndarray, "s n_axes"]
    places: Int[np.ndarray, " s"]
    variances: Float[np.ndarray, " n_axes"]
    """Along each axis, descending."""
    variance_kept: float
    n_distinct: int


def search_space(embeddings: Float[np.ndarray, "n d"], *, n_rows: int, n_axes: int, seed: int) -> SearchSpace:
    """Draw `n_rows` rows, or all where there are no more, and turn them to at most `n_axes` principal axes.

    Raises:
        NumericalError: a drawn row holds NaN or infinity; names its index.
    """
    places = np.arange(len(embeddings))
    if n_rows < len(embeddings):
        places = np.sort(np.random.default_rng(seed).choice(len(embeddings), n_rows, replace=False))
    found = gather_rows(embeddings, places)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        bad = int(places[int(np.argmin(finite))])
        raise NumericalError("an embedding holds NaN or infinity", where=f"row {bad}", expected="finite numbers")
    wide = found.astype(np.float64)
    center, axes, variances = principal_axes(wide, n_axes, seed=seed)
    rows = ((wide - center) @ axes).astype(np.float32)
    total = float(wide.var(axis=0).sum()) if len(wide) else 0.0
    kept = min(1.0, float(variances.sum()) / total) if total > 0 else 1.0
    # Adding zero makes -0.0 and 0.0 one.
    n_distinct = len({row.tobytes() for row in found + np.float32(0)})
    return SearchSpace(rows, places, variances, kept, n_distinct)


def principal_axes(
    rows: Float[np.ndarray, "n d"], n_axes: int, *, seed: int
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d q"], Float[np.ndarray, " q"]]:
    """The mean of the rows, their `q = min(n_axes, d)` directions of largest variance, and those variances.

    Each direction's largest entry is positive. Exact up to width 1024, by subspace iteration above.

    Source: Pearson 1901; Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithm 4.4.
    """
    center = rows.mean(axis=0)
    apart = rows - center
    n_axes = min(n_axes, rows.shape[1])
    if rows.shape[1] <= _WIDE:
        spread, axes = np.linalg.eigh(apart.T @ apart / len(rows))
        order = np.argsort(-spread, kind="stable")[:n_axes]
        spread, axes = spread[order], axes[:, order]
    else:
        spread, axes = _leading_axes(apart, n_axes, seed)
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return center, axes * np.where(largest < 0, -1.0, 1.0), np.maximum(spread, 0)


def normal_rows(space: SearchSpace, rng: np.random.Generator) -> Float[np.ndarray, "s n_axes"]:
    """As many rows from one normal distribution with the same variances: what a single cluster looks like.

    Source: Liu, Hayes, Nobel and Marron 2008 (SigClust).
    """
    return (rng.standard_normal(space.rows.shape) * np.sqrt(space.variances)).astype(np.float32)


def boxed_rows(space: SearchSpace, rng: np.random.Generator) -> Float[np.ndarray, "s n_axes"]:
    """As many rows, uniform in the box around the sample that is aligned with its principal axes.

    Source: Tibshirani, Walther and Hastie 2001, section 3, reference (b).
    """
    low, high = space.rows.min(axis=0), space.rows.max(axis=0)
    return (low + (high - low) * rng.random(space.rows.shape)).astype(np.float32)


def _leading_axes(apart: np.ndarray, n_axes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    start = np.random.default_rng(seed).standard_normal((apart.shape[1], min(apart.shape[1], n_axes + 16)))
    basis = np.linalg.qr(start)[0]
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(apart.T @ (apart @ basis))[0]
    _, values, turn = np.linalg.svd(apart @ basis, full_matrices=False)
    axes = (basis @ turn.T)[:, :n_axes]
    return values[:n_axes] ** 2 / len(apart), axes
