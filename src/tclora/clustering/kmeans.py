"""k-means as in the paper: centroids fitted on a sample of the training rows, then every row assigned.

Clusters are numbered by descending number of training examples, so that `cluster 0` means the same in every report.
Refused: more clusters than distinct rows, and clusters to which no training example is nearest.

Source: section 3.2 of arXiv 2508.03999 and its code: scikit-learn's k-means++ with 10 starts on a 20 % sample.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from tclora.config import ClusterConfig
from tclora.errors import ConfigError, MissingExtraError, NumericalError, ShapeError
from tclora.shapes import Float, Int

__all__ = ["ClusterModel", "assign_clusters", "fit_clusters"]

# Fewer rows than this for each cluster make a sample's centroids a matter of luck (and cost nothing to add).
_ROWS_PER_CLUSTER = 50
_CHUNK = 16_384


@dataclass(frozen=True)
class ClusterModel:
    """Fitted centroids, the rows they were fitted on, and the mean squared distance of all training rows to them."""

    centroids: Float[np.ndarray, "k d_embed"]
    sample_size: int
    inertia: float


def fit_clusters(
    embeddings: Float[np.ndarray, "n_examples d_embed"], config: ClusterConfig, *, seed: int
) -> ClusterModel:
    """Fit `n_clusters` centroids on a random sample and number them by how many of all rows they attract.

    The sample is `sample_fraction` of the rows, or 50 for each cluster where that is more. The fit uses one thread, so
    that equal inputs give equal bits whatever the machine's thread count is.

    Raises:
        ConfigError: fewer distinct rows than clusters, or a cluster is left without examples.
        NumericalError: a row holds NaN or infinity; names its index.
        MissingExtraError: scikit-learn is not installed.
    """
    _check_finite(embeddings)
    k = config.n_clusters
    _check_distinct(embeddings, k)
    sample = _sample(embeddings, config, seed)
    if _n_distinct(sample, k) < k:
        sample = embeddings
    centroids = _fitted(sample, config, seed)
    sizes = np.bincount(assign_clusters(embeddings, centroids), minlength=k)
    if not sizes.all():
        raise ConfigError(
            "k-means left clusters without a training example",
            where="cluster.n_clusters",
            found=f"{int((sizes == 0).sum())} of {k} clusters empty",
            do=f"lower n_clusters to {int((sizes > 0).sum())} or less",
        )
    # Equal sizes are ordered by centroid, so that the numbering does not depend on how k-means found them.
    order = sorted(range(k), key=lambda index: (-int(sizes[index]), centroids[index].tolist()))
    centroids = np.ascontiguousarray(centroids[order])
    return ClusterModel(centroids, len(sample), _inertia(embeddings, centroids))


def assign_clusters(
    embeddings: Float[np.ndarray, "n_examples d_embed"], centroids: Float[np.ndarray, "k d_embed"]
) -> Int[np.ndarray, " n_examples"]:
    """Give each example the index of its nearest centroid by squared Euclidean distance.

    Ties go to the lower index. Memory is bounded by chunks of rows, whatever their number.

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
    _check_finite(embeddings)
    wide = centroids.astype(np.float64)
    offsets = (wide**2).sum(axis=1)
    labels = np.empty(len(embeddings), dtype=np.int64)
    for start in range(0, len(embeddings), _CHUNK):
        rows = embeddings[start : start + _CHUNK].astype(np.float64)
        # |x - c|² less |x|², which is the same for every centroid; argmin takes the first of equals.
        labels[start : start + _CHUNK] = np.argmin(offsets - 2 * rows @ wide.T, axis=1)
    return labels


def _sample(rows: Float[np.ndarray, "n d_embed"], config: ClusterConfig, seed: int) -> Float[np.ndarray, "s d_embed"]:
    wanted = max(math.ceil(config.sample_fraction * len(rows)), _ROWS_PER_CLUSTER * config.n_clusters)
    if wanted >= len(rows):
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), wanted, replace=False)
    return rows[np.sort(chosen)]


def _fitted(sample: Float[np.ndarray, "s d_embed"], config: ClusterConfig, seed: int) -> Float[np.ndarray, "k d_embed"]:
    KMeans, threadpool_limits = _sklearn()
    means = KMeans(
        config.n_clusters,
        init="k-means++",
        n_init=config.n_init,
        max_iter=config.max_iter,
        # scikit-learn takes 32 bits; larger seeds are folded rather than refused.
        random_state=seed % 2**32,
        algorithm="lloyd",
    )
    # Several threads add up partial sums in the order they finish, so the last bits would differ from run to run.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # Fewer distinct clusters than asked for: told as an error by the caller, which sees the empty ones.
        warnings.simplefilter("ignore")
        means.fit(np.ascontiguousarray(sample))
    return np.asarray(means.cluster_centers_, dtype=np.float32)


def _sklearn() -> tuple[Any, Any]:
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise MissingExtraError("clustering needs scikit-learn", do="pip install 'tclora[library]'") from None
    return KMeans, threadpool_limits


def _inertia(rows: Float[np.ndarray, "n d_embed"], centroids: Float[np.ndarray, "k d_embed"]) -> float:
    labels = assign_clusters(rows, centroids)
    total = 0.0
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        total += float(((rows[part].astype(np.float64) - centroids[labels[part]]) ** 2).sum())
    return total / len(rows)


def _check_finite(rows: Float[np.ndarray, "n d_embed"]) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise NumericalError("an embedding holds NaN or infinity", where=f"row {bad}", expected="finite numbers")


def _check_distinct(rows: Float[np.ndarray, "n d_embed"], k: int) -> None:
    n_distinct = _n_distinct(rows, k)
    if n_distinct < k:
        raise ConfigError(
            "there are fewer distinct examples than clusters",
            where="cluster.n_clusters",
            found=f"{n_distinct} distinct embeddings in {len(rows)} examples, {k} clusters",
            do=f"lower n_clusters to {n_distinct} or less, or bring more data" if n_distinct else "bring data",
        )


def _n_distinct(rows: Float[np.ndarray, "n d_embed"], enough: int) -> int:
    """Distinct rows, counted until there are `enough`."""
    seen: set[bytes] = set()
    for row in rows:
        seen.add((row + 0.0).tobytes())  # adding zero makes -0.0 and 0.0 one
        if len(seen) >= enough:
            break
    return len(seen)
