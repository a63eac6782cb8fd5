"""Algorithms that follow shape rather than a mean: agglomerative, density-based (HDBSCAN) and spectral.

In: a `FitJob` with a sample `(s, d_embed)` of at most a few thousand rows, for their time or memory grows with its
square. The sample is projected onto its leading principal axes first. Out: the means of the groups in the full space,
as centroids `(k, d_embed)`; every other row goes to the nearest. Refused: a sample in which HDBSCAN sees no dense
group.

Source: Ward 1963; Campello, Moulavi and Sander 2013; Ng, Jordan and Weiss 2001, with the assignment of Damle, Minden
and Ying 2019 (`cluster_qr`, which has no random part).
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tclora.clustering.algorithm import CLUSTER_ALGORITHMS, FitJob, Fitted
from tclora.clustering.passes import assign_clusters
from tclora.clustering.regroup import regroup_rows, row_means
from tclora.errors import ConfigError, MissingExtraError

__all__ = ["DENSITY_AXES", "agglomerative", "hdbscan", "spectral"]

_AXES = 50
# Distances between points of more dimensions say little of density, and the search for neighbors gets slow.
DENSITY_AXES = 15
_NEIGHBORS = 15


@CLUSTER_ALGORITHMS.register("agglomerative", source="Ward 1963", max_rows=5_000, fits=True)
def agglomerative(job: FitJob) -> Fitted:
    """The nearest groups joined step by step (Ward's or average linkage), on a sample of at most 5,000 rows."""
    join = _from_sklearn("AgglomerativeClustering")(n_clusters=job.n_clusters, linkage=job.config.linkage)
    rows = _projected(job, _AXES)
    labels = _quiet(partial(join.fit_predict, rows)) if job.n_clusters > 1 else np.zeros(len(rows), dtype=np.int64)
    return _fitted(job, rows, labels)


@CLUSTER_ALGORITHMS.register("hdbscan", source="Campello et al. 2013", max_rows=10_000, fits=True)
def hdbscan(job: FitJob) -> Fitted:
    """Dense groups of any shape, on a sample of at most 10,000 rows; then joined or split to the number asked for."""
    rows = _projected(job, DENSITY_AXES)
    # Finer than asked for: groups that are too many are joined, and joining loses less than splitting.
    smallest = max(5, len(rows) // (20 * job.n_clusters))
    search = _from_sklearn("HDBSCAN")(min_cluster_size=min(smallest, len(rows)), copy=True)
    labels = _quiet(partial(search.fit_predict, rows))
    n_found, n_noise = len(set(labels[labels >= 0].tolist())), int((labels < 0).sum())
    if n_found == 0 and job.n_clusters > 1:
        raise ConfigError(
            "hdbscan found no dense group",
            where="cluster.algorithm",
            found=f"{n_noise:,} rows of noise in a sample of {len(rows):,}, groups from {smallest} rows on",
            do="choose kmeans, or raise sample_fraction",
        )
    return _fitted(job, rows, labels, notes=(f"hdbscan found {n_found} groups and {n_noise:,} rows between them",))


@CLUSTER_ALGORITHMS.register("spectral", source="Ng, Jordan and Weiss 2001", max_rows=3_000, fits=True)
def spectral(job: FitJob) -> Fitted:
    """Groups of the graph of nearest neighbors, on a sample of at most 3,000 rows."""
    rows = _projected(job, _AXES)
    if not 1 < job.n_clusters < len(rows):
        return _fitted(job, rows, np.zeros(len(rows), dtype=np.int64))
    search = _from_sklearn("SpectralClustering")(
        job.n_clusters,
        affinity="nearest_neighbors",
        n_neighbors=min(_NEIGHBORS, len(rows) - 1),
        assign_labels="cluster_qr",
        random_state=job.seed % 2**32,
    )
    return _fitted(job, rows, _quiet(partial(search.fit_predict, rows)))


def _fitted(job: FitJob, rows: np.ndarray, labels: np.ndarray, notes: tuple[str, ...] = ()) -> Fitted:
    """The means of exactly as many groups as were asked for; rows of no group (below 0) go to the nearest first."""
    found, places = np.unique(labels[labels >= 0], return_inverse=True)
    whole = np.zeros(len(rows), dtype=np.int64)
    if len(found):
        whole[labels >= 0] = places
        means = row_means(rows[labels >= 0], places, len(found))
        if (labels < 0).any():
            whole[labels < 0] = assign_clusters(rows[labels < 0], means)
    groups = regroup_rows(rows, whole, job.n_clusters, partial(_halves, job.seed))
    if len(found) != job.n_clusters:
        done = "joined" if len(found) > job.n_clusters else "split"
        notes += (f"{max(1, len(found))} groups were {done} to {job.n_clusters}",)
    centroids = row_means(job.sample, groups, job.n_clusters).astype(np.float32)
    return Fitted(centroids, engine="scikit-learn", notes=notes)


def _halves(seed: int, rows: np.ndarray) -> np.ndarray:
    two = _from_sklearn("KMeans")(2, n_init=3, random_state=seed % 2**32)
    return _quiet(partial(two.fit_predict, rows))


def _projected(job: FitJob, n_axes: int) -> np.ndarray:
    """The sample in its leading principal axes, in float64, with the sign of each axis fixed."""
    try:
        from sklearn.decomposition import PCA
    except ImportError:
        raise _missing() from None
    n_axes = min(n_axes, *job.sample.shape)
    if n_axes == job.sample.shape[1]:
        return job.sample.astype(np.float64)
    project = PCA(n_axes, svd_solver="randomized", random_state=job.seed % 2**32)
    return _quiet(partial(project.fit_transform, job.sample.astype(np.float64)))


def _quiet(work: Callable[[], Any]) -> np.ndarray:
    from threadpoolctl import threadpool_limits

    # One thread: several add up in the order they finish. Warnings (a graph in pieces) are no fault of the request.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()


def _from_sklearn(name: str) -> Any:
    try:
        import sklearn.cluster
    except ImportError:
        raise _missing() from None
    return getattr(sklearn.cluster, name)


def _missing() -> MissingExtraError:
    return MissingExtraError("clustering needs scikit-learn", do="pip install 'tclora[library]'")
