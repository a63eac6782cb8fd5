"""Single passes over the embeddings: the nearest centroid of every row, and the mean of every cluster.

In: embeddings `(n_examples, d_embed)`, in memory or mapped, read once and by chunks; centroids or labels. Out: labels,
means and the mean squared distance. Refused: NaN and infinity, by row; centroids that do not fit.

The products are taken in the precision of the rows (float32 for float16); a row whose two nearest centroids differ by
less than the rounding can amount to is measured again in float64, so that labels are those of float64.
"""

from dataclasses import dataclass

import numpy as np

from tclora.clustering.rows import for_each_chunk
from tclora.errors import NumericalError, ShapeError
from tclora.shapes import Float, Int

__all__ = ["Assigned", "Means", "assign_clusters", "assign_rows", "inertia_of", "means_of"]

# Where distances are this much smaller than the norms, |x|² - 2 x·c + |c|² has lost digits: differences are taken.
_CANCELS = 1e-2
# Elements of float64 differences held at once: 8 MB.
_PAIR_ELEMENTS = 2**20


@dataclass(frozen=True, eq=False)
class Assigned:
    """The nearest centroid of each row, which rows were decided in float64, and the mean squared distance."""

    labels: Int[np.ndarray, " n"]
    close: Int[np.ndarray, " c"]
    inertia: float


@dataclass(frozen=True, eq=False)
class Means:
    """The mean and the number of the members of each cluster, and their mean squared distance to it."""

    centroids: Float[np.ndarray, "k d_embed"]
    sizes: Int[np.ndarray, " k"]
    inertia: float


def assign_clusters(
    embeddings: Float[np.ndarray, "n_examples d_embed"], centroids: Float[np.ndarray, "k d_embed"]
) -> Int[np.ndarray, " n_examples"]:
    """Give each example the index of its nearest centroid by squared Euclidean distance.

    Ties go to the lower index. Memory is bounded by chunks of rows, whatever their number; a memory map is welcome.

    Raises:
        ShapeError: there are no centroids, or they have another width than the rows.
        NumericalError: a row holds NaN or infinity; names its index.

    Source: section 3.2 of arXiv 2508.03999 (k-means on a 20 % sample, then all examples).
    """
    if len(centroids) == 0 or embeddings.shape[1] != centroids.shape[1]:
        raise ShapeError(
            "the centroids do not fit the embeddings",
            found=f"embeddings {embeddings.shape}, centroids {centroids.shape}",
            expected="at least one centroid, as wide as the embeddings",
        )
    return assign_rows(embeddings, centroids).labels


def assign_rows(
    embeddings: Float[np.ndarray, "n_examples d_embed"], centroids: Float[np.ndarray, "k d_embed"]
) -> Assigned:
    """As `assign_clusters`, with the mean squared distance and the rows that were close to a tie, from one pass."""
    nearest = _Nearest(centroids)
    labels, close, total = np.empty(len(embeddings), dtype=np.int64), [np.empty(0, dtype=np.int64)], 0.0
    for start, found, near, part in for_each_chunk(embeddings, nearest.of_chunk):
        labels[start : start + len(found)] = found
        close.append(near)
        total += part
    return Assigned(labels, np.concatenate(close), total / max(1, len(embeddings)))


def means_of(embeddings: Float[np.ndarray, "n d_embed"], labels: Int[np.ndarray, " n"], k: int) -> Means:
    """The means of given clusters, summed in float64, in one pass (two where clusters are tight)."""

    def work(start: int, rows: np.ndarray) -> tuple[np.ndarray, float]:
        norms = _finite_norms(start, rows)
        members = np.zeros((k, len(rows)), dtype=rows.dtype)
        members[labels[start : start + len(rows)], np.arange(len(rows))] = 1
        # A chunk has a few thousand rows, so its sums keep nearly all digits of float32.
        return members @ rows, float(norms.sum(dtype=np.float64))

    sums, squares = np.zeros((k, embeddings.shape[1])), 0.0
    for part, norms in for_each_chunk(embeddings, work):
        sums += part
        squares += norms
    sizes = np.bincount(labels, minlength=k)
    means = sums / np.maximum(sizes, 1)[:, None]
    total = squares - float((sizes * (means**2).sum(axis=1)).sum())
    centroids = means.astype(np.float32)
    if total < _CANCELS * squares:
        return Means(centroids, sizes, inertia_of(embeddings, labels, centroids))
    return Means(centroids, sizes, total / max(1, len(embeddings)))


def inertia_of(
    embeddings: Float[np.ndarray, "n d_embed"], labels: Int[np.ndarray, " n"], centroids: Float[np.ndarray, "k d_embed"]
) -> float:
    """The mean squared distance of the rows to the centroids of their clusters, from differences."""

    def work(start: int, rows: np.ndarray) -> float:
        return _squared_differences(rows, centroids[labels[start : start + len(rows)]])

    return sum(for_each_chunk(embeddings, work)) / max(1, len(embeddings))


class _Nearest:
    """The nearest of some centroids, for chunks of rows in float32 or float64."""

    def __init__(self, centroids: np.ndarray):
        self.wide = centroids.astype(np.float64)
        self.offsets = np.einsum("kd,kd->k", self.wide, self.wide)
        self.peak = float(np.sqrt(self.offsets.max()))

    def of_chunk(self, start: int, rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, float]:
        """First row, labels, places that were decided in float64, and the sum of squared distances."""
        norms = _finite_norms(start, rows)
        # |x - c|² less |x|², which is the same for every centroid; argmin takes the first of equals.
        with np.errstate(over="ignore", invalid="ignore"):
            scores = rows @ (-2 * self.wide.T).astype(rows.dtype)
            scores += self.offsets.astype(rows.dtype)
        labels = scores.argmin(axis=1)
        best = scores[np.arange(len(rows)), labels]
        limits = best + self._rounding(rows, norms)
        near = np.flatnonzero(self._in_doubt(scores, labels, limits))
        if len(near):
            # NaN, which an overflow leaves, compares as false: then every centroid is a candidate.
            labels[near] = self._exactly(rows[near], ~(scores[near] > limits[near, None]))
        distances = np.maximum(norms.astype(np.float64) + best, 0)
        total, size = float(distances.sum()), float(norms.sum(dtype=np.float64))
        if not total > _CANCELS * size or not np.isfinite(total):
            total = _squared_differences(rows, self.wide[labels])
        return start, labels, start + near, total

    def _rounding(self, rows: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """By how much rounding can change the difference of two scores of a row."""
        # A dot product of d terms is off by at most d units of rounding of |x| |c|; two scores are compared.
        unit = (rows.shape[1] + 4) * float(np.finfo(rows.dtype).eps)
        return unit * (2 * np.sqrt(norms.astype(np.float64)) * self.peak + self.peak**2)

    def _in_doubt(self, scores: np.ndarray, labels: np.ndarray, limits: np.ndarray) -> np.ndarray:
        if len(self.wide) == 1:
            return np.zeros(len(scores), dtype=bool)
        every = np.arange(len(scores))
        best = scores[every, labels]
        scores[every, labels] = np.inf
        second = scores.min(axis=1)
        scores[every, labels] = best
        return ~(second > limits)

    def _exactly(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """The first of the nearest candidates, from differences, so that a row's label depends on the row alone."""
        places, indices = np.nonzero(candidates)
        distances = np.empty(len(places))
        step = max(1, _PAIR_ELEMENTS // rows.shape[1])
        for start in range(0, len(places), step):
            part = slice(start, start + step)
            apart = rows[places[part]].astype(np.float64) - self.wide[indices[part]]
            distances[part] = np.einsum("nd,nd->n", apart, apart)
        starts = np.searchsorted(places, np.arange(len(rows)))
        nearest = np.flatnonzero(distances == np.minimum.reduceat(distances, starts)[places])
        return indices[nearest[np.unique(places[nearest], return_index=True)[1]]]


def _finite_norms(start: int, rows: np.ndarray) -> np.ndarray:
    """The squared norms of the rows, which also tell whether all is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.einsum("nd,nd->n", rows, rows)
    if not np.isfinite(norms).all():
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise NumericalError(
                "an embedding holds NaN or infinity",
                where=f"row {start + int(np.argmin(finite))}",
                expected="finite numbers",
                do="encode the examples again, or leave that row out",
            )
    return norms


def _squared_differences(rows: np.ndarray, centroids: np.ndarray) -> float:
    apart = rows.astype(np.float64) - centroids
    return float(np.einsum("nd,nd->", apart, apart))
