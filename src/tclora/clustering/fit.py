"""From embeddings to a clustering: sample, fit, assign every row, hold the sizes, number the clusters.

In: embeddings `(n_examples, d_embed)`, float16, float32 or float64, memory-mapped or not, read in two passes (sample
and assignment), three where sizes are balanced. Out: `Clustering`. Clusters are numbered by descending number of
training examples, so that `cluster 0` means the same in every report. Refused: more clusters than distinct rows,
clusters to which no training example is nearest, NaN and infinity by row, and sizes that cannot be had.
"""

from dataclasses import dataclass, replace

import numpy as np

from tclora.clustering.algorithm import CLUSTER_ALGORITHMS, FitJob, Fitted
from tclora.clustering.balance import cap_sizes, check_sizes, dissolve_groups, dissolve_small
from tclora.clustering.model import Clustering, ClusterModel, ExampleFacts
from tclora.clustering.passes import assign_clusters, assign_rows, inertia_of, means_of
from tclora.clustering.rows import gathered_chunks
from tclora.clustering.sample import check_distinct, draw_sample
from tclora.config import ClusterConfig
from tclora.errors import ConfigError, ShapeError
from tclora.shapes import Float

__all__ = ["fit_clusters"]


@dataclass(frozen=True, eq=False)
class _Found:
    """Centroids, the label of every row, the rows that were close to a tie, and what was done."""

    centroids: np.ndarray
    labels: np.ndarray
    close: np.ndarray
    inertia: float | None
    groups: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


def fit_clusters(
    embeddings: Float[np.ndarray, "n_examples d_embed"],
    config: ClusterConfig,
    *,
    n_clusters: int,
    seed: int,
    facts: ExampleFacts | None = None,
) -> Clustering:
    """Group the rows into `n_clusters` by the algorithm of the settings, or into fewer where small ones are dissolved.

    Args:
        n_clusters: the number asked for; `config.n_clusters`, which may be `auto`, is not read.
        facts: task labels (task, mbc), lengths (min_tokens, balance_by: tokens) and the adapter folder (mbc).

    Raises:
        ConfigError: fewer distinct rows than clusters, a cluster is left without examples, or a setting asks for what
            the facts or the sizes do not allow.
        NumericalError: a row holds NaN or infinity; names its index.
        MissingExtraError: a package the algorithm needs is not installed.
    """
    given = facts or ExampleFacts()
    _check_request(embeddings, n_clusters, given)
    entry = CLUSTER_ALGORITHMS.entry(config.algorithm)
    check_sizes(config, n_clusters, given)
    if entry.facts["fits"]:
        sample = draw_sample(embeddings, config, n_clusters, seed, entry.facts["max_rows"])  # type: ignore[arg-type]
    else:
        check_distinct(embeddings, n_clusters)
        sample = np.empty((0, embeddings.shape[1]), dtype=np.float32)
    fitted = entry.value(FitJob(sample, n_clusters, config, seed, embeddings, given))
    if fitted.labels is None:
        found = _from_centroids(embeddings, fitted, config, given)
    else:
        found = _from_labels(embeddings, fitted, config, given)
    model = ClusterModel(
        centroids=found.centroids,
        sample_size=len(sample) if entry.facts["fits"] else len(embeddings),
        inertia=inertia_of(embeddings, found.labels, found.centroids) if found.inertia is None else found.inertia,
        algorithm=config.algorithm,
        engine=fitted.engine,
        groups=found.groups,
        sizes=tuple(np.bincount(found.labels, minlength=len(found.centroids)).tolist()),
        notes=fitted.notes + found.notes,
    )
    return Clustering(model, found.labels)


def _from_centroids(embeddings: np.ndarray, fitted: Fitted, config: ClusterConfig, facts: ExampleFacts) -> _Found:
    """Every row to its nearest centroid; then small clusters dissolved, and large ones trimmed."""
    centroids = np.asarray(fitted.centroids, dtype=np.float32)
    assigned = assign_rows(embeddings, centroids)
    _check_no_empty(np.bincount(assigned.labels, minlength=len(centroids)), config.algorithm)
    found = _Found(centroids, assigned.labels, assigned.close, assigned.inertia)
    kept, labels, notes = dissolve_small(embeddings, centroids, assigned.labels, config, facts)
    if len(kept) < len(centroids):
        moved = np.flatnonzero(~np.isin(assigned.labels, kept))
        found = _Found(centroids[kept], labels, np.union1d(assigned.close, moved), None, notes=notes)
    found = _ties_settled(embeddings, _by_size(found))
    labels, notes = cap_sizes(embeddings, found.centroids, found.labels, config, facts)
    if notes:
        moved = replace(found, labels=labels, close=np.empty(0, dtype=np.int64), inertia=None)
        found = _by_size(replace(moved, notes=found.notes + notes))
    return found


def _from_labels(embeddings: np.ndarray, fitted: Fitted, config: ClusterConfig, facts: ExampleFacts) -> _Found:
    """The labels as they are; the centroids are the means of the members."""
    assert fitted.labels is not None
    labels, groups, notes = fitted.labels, fitted.groups, ()
    k = int(labels.max()) + 1
    means = means_of(embeddings, labels, k)
    _check_no_empty(means.sizes, config.algorithm)
    if groups:
        joined, groups, notes = dissolve_groups(means, labels, groups, config, facts)
        if joined is not labels:
            labels, means = joined, means_of(embeddings, joined, len(groups))
    nothing = np.empty(0, dtype=np.int64)
    return _by_size(_Found(means.centroids, labels, nothing, means.inertia, groups, notes))


def _by_size(found: _Found) -> _Found:
    """Number the clusters by size; equal sizes by centroid, so that the numbering does not depend on how they came."""
    sizes = np.bincount(found.labels, minlength=len(found.centroids))
    order = sorted(range(len(sizes)), key=lambda index: (-int(sizes[index]), found.centroids[index].tolist()))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    groups = tuple(found.groups[index] for index in order) if found.groups else ()
    centroids = np.ascontiguousarray(found.centroids[order])
    return replace(found, centroids=centroids, labels=rank[found.labels], groups=groups)


def _ties_settled(embeddings: np.ndarray, found: _Found) -> _Found:
    """Rows at equal distances go to the lower of the new numbers, as `assign_clusters` will say of them."""
    labels = found.labels
    for places, rows in gathered_chunks(embeddings, found.close):
        labels[places] = assign_clusters(rows, found.centroids)
    return found


def _check_request(embeddings: np.ndarray, n_clusters: int, facts: ExampleFacts) -> None:
    if n_clusters < 1:
        raise ConfigError("there is nothing to fit", where="cluster.n_clusters", found=n_clusters, expected="1 or more")
    counts = {"embeddings": len(embeddings)}
    counts |= {} if facts.tasks is None else {"tasks": len(facts.tasks)}
    counts |= {} if facts.n_tokens is None else {"n_tokens": len(facts.n_tokens)}
    if len(set(counts.values())) > 1:
        raise ShapeError("the embeddings and what is known of them differ in number", found=counts, expected="as many")


def _check_no_empty(sizes: np.ndarray, algorithm: str) -> None:
    if not sizes.all():
        k = len(sizes)
        raise ConfigError(
            f"{algorithm} left clusters without a training example",
            where="cluster.n_clusters",
            found=f"{int((sizes == 0).sum())} of {k} clusters empty",
            do=f"lower n_clusters to {int((sizes > 0).sum())} or less",
        )
