"""k-means in three forms: Lloyd's, by cosine, and in small batches.

In: a `FitJob` with a sample `(s, d_embed)`. Out: centroids `(k, d_embed)` float32. Lloyd's is scikit-learn's or, where
it is installed and the sample is large, faiss's, which is several times faster; both start from k-means++ `n_init`
times and keep the best. Equal inputs give equal bits at any number of threads with either, but the two differ from each
other. Refused: a missing package, by its extra.

Source: section 3.2 of arXiv 2508.03999 and its code (k-means++ with 10 starts on a 20 % sample); Dhillon and Modha 2001
(spherical); Sculley 2010 (mini-batch); Johnson, Douze and Jégou, arXiv 1702.08734 (faiss).
"""

import importlib.util
import warnings
from typing import Any

import numpy as np

from tclora.clustering.algorithm import CLUSTER_ALGORITHMS, FitJob, Fitted
from tclora.config import ClusterConfig
from tclora.errors import ConfigError, MissingExtraError
from tclora.shapes import Float

__all__ = ["FAISS_FROM_ROWS", "kmeans", "minibatch_kmeans", "spherical_kmeans"]

# With `engine: auto`, samples from this size go to faiss. Below, both take seconds.
FAISS_FROM_ROWS = 50_000
# faiss stops when the objective falls by less than this share: where scikit-learn's default tolerance stops as well.
_FAISS_TOLERANCE = 1e-5
_BATCH_ROWS = 4096


@CLUSTER_ALGORITHMS.register("kmeans", source="arXiv 2508.03999, section 3.2", max_rows=None, fits=True)
def kmeans(job: FitJob) -> Fitted:
    """k-means on a sample, as in the paper: the best of `n_init` starts."""
    if _engine(job) == "faiss":
        return Fitted(_by_faiss(job.sample, job, spherical=False), engine="faiss")
    return Fitted(_fitted(job.sample, job.n_clusters, job.config, job.seed), engine="scikit-learn")


@CLUSTER_ALGORITHMS.register("spherical_kmeans", source="Dhillon and Modha 2001", max_rows=None, fits=True)
def spherical_kmeans(job: FitJob) -> Fitted:
    """k-means by cosine: centroids of unit length, rows of any length; rows of zeros take no part in the fit."""
    norms = np.linalg.norm(job.sample, axis=1, keepdims=True)
    live = norms[:, 0] > 0
    unit = (job.sample[live] / norms[live]).astype(np.float32)
    if len(unit) < job.n_clusters:
        raise ConfigError(
            "there are fewer rows with a direction than clusters",
            where="cluster.n_clusters",
            found=f"{len(unit)} rows that are not zero, {job.n_clusters} clusters",
            do="lower n_clusters or choose kmeans",
        )
    if _engine(job) == "faiss":
        return Fitted(_by_faiss(unit, job, spherical=True), engine="faiss")
    return Fitted(_best_directions(unit, job), engine="tclora")


@CLUSTER_ALGORITHMS.register("minibatch_kmeans", source="Sculley 2010", max_rows=None, fits=True)
def minibatch_kmeans(job: FitJob) -> Fitted:
    """k-means in batches of 4,096 rows: faster than k-means on large samples, a little worse."""
    from_sklearn, threadpool_limits = _sklearn("MiniBatchKMeans")
    means = from_sklearn(
        job.n_clusters,
        batch_size=_BATCH_ROWS,
        n_init=job.config.n_init,
        max_iter=job.config.max_iter,
        random_state=job.seed % 2**32,
    )
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        means.fit(np.ascontiguousarray(job.sample))
    return Fitted(np.asarray(means.cluster_centers_, dtype=np.float32), engine="scikit-learn")


def _engine(job: FitJob) -> str:
    if job.config.engine != "auto":
        return job.config.engine
    large = len(job.sample) >= FAISS_FROM_ROWS
    return "faiss" if large and importlib.util.find_spec("faiss") is not None else "scikit-learn"


def _fitted(sample: np.ndarray, k: int, config: ClusterConfig, seed: int) -> Float[np.ndarray, "k d_embed"]:
    KMeans, threadpool_limits = _sklearn("KMeans")
    means = KMeans(
        k,
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


def _by_faiss(sample: np.ndarray, job: FitJob, *, spherical: bool) -> Float[np.ndarray, "k d_embed"]:
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("engine: faiss needs faiss", do="pip install 'tclora[faiss]'") from None
    means = faiss.Kmeans(
        sample.shape[1],
        job.n_clusters,
        niter=job.config.max_iter,
        nredo=job.config.n_init,
        seed=job.seed % 2**31,
        spherical=spherical,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        early_stop_threshold=_FAISS_TOLERANCE,
        # Else faiss fits on 256 rows for each cluster, whatever it is given, and warns below 39.
        max_points_per_centroid=len(sample),
        min_points_per_centroid=1,
    )
    means.train(np.ascontiguousarray(sample, dtype=np.float32))
    return np.array(means.centroids, dtype=np.float32)


def _best_directions(unit: np.ndarray, job: FitJob) -> Float[np.ndarray, "k d_embed"]:
    kmeans_plusplus, threadpool_limits = _sklearn("kmeans_plusplus")
    best, centroids = -np.inf, None
    with threadpool_limits(limits=1):
        for start in np.random.SeedSequence(job.seed).generate_state(job.config.n_init):
            starts, _ = kmeans_plusplus(unit, job.n_clusters, random_state=int(start))
            found, cosine = _lloyd_by_cosine(unit, starts, job.config.max_iter)
            if cosine > best:
                best, centroids = cosine, found
    assert centroids is not None  # n_init is at least 1, and a mean cosine is finite
    return centroids


def _lloyd_by_cosine(unit: np.ndarray, centroids: np.ndarray, max_iter: int) -> tuple[np.ndarray, float]:
    """Centroids of unit length and the mean cosine of the rows to theirs, once no row changes its cluster."""
    before = np.full(len(unit), -1)
    cosines = np.zeros(len(unit))
    for _ in range(max_iter):
        scores = unit @ centroids.T
        labels = scores.argmax(axis=1)
        cosines = scores[np.arange(len(unit)), labels]
        if np.array_equal(labels, before):
            break
        members = np.zeros((len(centroids), len(unit)), dtype=unit.dtype)
        members[labels, np.arange(len(unit))] = 1
        sums = members @ unit
        norms = np.linalg.norm(sums, axis=1)
        # A cluster that lost its rows starts again from the row that fits its own cluster least.
        for rank, index in enumerate(np.flatnonzero(norms == 0)):
            sums[index], norms[index] = unit[np.argsort(cosines, kind="stable")[rank]], 1
        centroids, before = (sums / norms[:, None]).astype(np.float32), labels
    return centroids, float(cosines.mean(dtype=np.float64))


def _sklearn(name: str) -> tuple[Any, Any]:
    try:
        import sklearn.cluster
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise MissingExtraError("clustering needs scikit-learn", do="pip install 'tclora[library]'") from None
    return getattr(sklearn.cluster, name), threadpool_limits
