"""k-means for the search over k: hundreds of small fits, each good enough that its minimum is not a matter of luck.

In: rows in float32 and k. Out: centroids and labels. Several short runs from k-means++, and a long one from the best of
them: a start that missed a cluster shows after a few sweeps, and only one start pays for convergence. With too few
starts the stability of k-means measures its local minima and not the data (von Luxburg 2010, section 3).

Source of the strategy: Biernacki, Celeux and Govaert 2003 (short runs, then a long one).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tclora.errors import MissingExtraError
from tclora.shapes import Float, Int

__all__ = ["nearest", "one_thread", "short_runs"]

N_STARTS = 8
_SHORT, _LONG = 4, 60


def short_runs(rows: Float[np.ndarray, "n d"], k: int, *, seed: int) -> Float[np.ndarray, "k d"]:
    """Centroids of a k-means clustering; where rows are fewer than k or alike, some of them repeat each other."""
    if k == 1:
        return rows.mean(axis=0, dtype=np.float64).astype(np.float32)[None]
    from sklearn.cluster import KMeans as Untyped

    # scikit-learn's own annotation of n_init leaves out numbers.
    KMeans: Any = Untyped

    with warnings.catch_warnings():
        # Fewer distinct rows in a resample than k; the point is told as unstable, which it is.
        warnings.simplefilter("ignore")
        first = KMeans(k, n_init=N_STARTS, max_iter=_SHORT, tol=0, random_state=seed % 2**32, algorithm="lloyd")
        starts = first.fit(rows).cluster_centers_
        found = KMeans(k, init=starts, n_init=1, max_iter=_LONG, algorithm="lloyd").fit(rows)
    return np.asarray(found.cluster_centers_, dtype=np.float32)


def nearest(rows: Float[np.ndarray, "n d"], centroids: Float[np.ndarray, "k d"]) -> Int[np.ndarray, " n"]:
    """The nearest centroid of each row; ties go to the lower."""
    offsets = (centroids.astype(np.float64) ** 2).sum(axis=1)
    return np.argmin(offsets - 2 * (rows @ centroids.T), axis=1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold the linear algebra to one thread: several add up in the order they finish, and last bits would differ.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        import sklearn.cluster  # noqa: F401 - its thread pools must be loaded to be held
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise MissingExtraError("clustering needs scikit-learn", do="pip install 'tclora[library]'") from None
    with threadpool_limits(limits=1):
        yield
