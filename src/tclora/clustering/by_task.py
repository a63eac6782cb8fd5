"""Clusters that are groups of tasks: by task label, and by the similarity of adapters trained on each task (MBC).

In: a `FitJob` whose facts hold a task label for each row and, for `mbc`, a folder of adapters named by task. Out:
labels of all rows, and the task labels of each cluster. Rows without a label, or of a task without an adapter, go to
the nearest centroid, and a note counts them. Refused: no labels, fewer tasks than clusters, adapters that belong to
none of the tasks.

Source: Ostapenko et al. 2024, arXiv 2405.11157, section 3.2 (model-based clustering: k-means on the adapters' updates,
compared by cosine).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from tclora.clustering.algorithm import CLUSTER_ALGORITHMS, FitJob, Fitted
from tclora.clustering.passes import assign_clusters, means_of
from tclora.clustering.regroup import join_groups
from tclora.clustering.rows import gathered_chunks
from tclora.errors import ConfigError, MissingExtraError

__all__ = ["by_task", "mbc", "task_labels"]


@CLUSTER_ALGORITHMS.register("task", source="task labels of the data", max_rows=None, fits=False)
def by_task(job: FitJob) -> Fitted:
    """One cluster for each task label; where there are more labels than clusters, the nearest by mean are joined."""
    labels = task_labels(_tasks(job), job.n_clusters)
    names = sorted(set(labels) - {""})
    _check_enough(len(names), job.n_clusters, "tasks")
    group_of = {name: index for index, name in enumerate(names)}
    rows = np.array([group_of.get(label, -1) for label in labels], dtype=np.int64)
    notes = ()
    if len(names) > job.n_clusters:
        means = _means_of_labeled(job, rows, len(names))
        joined = join_groups(means, np.bincount(rows[rows >= 0], minlength=len(names)), job.n_clusters)
        group_of = {name: int(joined[index]) for name, index in group_of.items()}
        notes = (f"{len(names)} tasks were joined to {job.n_clusters} clusters, the nearest by mean first",)
    return _grouped(job, labels, group_of, notes, "without a task")


@CLUSTER_ALGORITHMS.register("mbc", source="arXiv 2405.11157, section 3.2", max_rows=None, fits=False)
def mbc(job: FitJob) -> Fitted:
    """Model-based clustering: tasks whose own adapters are alike go together; needs `cluster.library`."""
    # Loads torch, which no other algorithm needs.
    from tclora.clustering.adapter_similarity import cosine_coordinates, library_tasks

    if job.facts.library is None:
        raise ConfigError(
            "model-based clustering needs an adapter for each task",
            where="cluster.library",
            do="name a folder that holds one adapter folder per task",
        )
    tasks = _tasks(job)
    # An adapter may be trained on a task or on its whole family.
    names = {name for task in set(tasks) for name in (task, _family(task)) if name}
    folders, strangers = library_tasks(job.facts.library, sorted(names))
    _check_enough(len(folders), job.n_clusters, "tasks with an adapter")
    found = _kmeans(cosine_coordinates(list(folders.values())), job)
    group_of = dict(zip(folders, found.tolist(), strict=True))
    named = ", ".join(strangers[:3]) + (", …" if len(strangers) > 3 else "")
    notes = (f"{len(strangers)} adapters of the library belong to no task of the data ({named})",) if strangers else ()
    return _grouped(job, tasks, group_of, notes, "of a task without an adapter")


def task_labels(tasks: Sequence[str], n_clusters: int) -> list[str]:
    """The label each row is grouped by: its family (the task up to the first `/`), or its task where those are few."""
    families = [_family(task) for task in tasks]
    n_families = len(set(families) - {""})
    return families if n_families >= max(2, n_clusters) else list(tasks)


def _grouped(
    job: FitJob, tasks: Sequence[str], group_of: Mapping[str, int], notes: tuple[str, ...], without: str
) -> Fitted:
    """Rows by the group of their task; the others to the nearest mean."""
    rows = np.array([group_of.get(task, group_of.get(_family(task), -1)) for task in tasks], dtype=np.int64)
    strays = np.flatnonzero(rows < 0)
    if len(strays):
        centroids = _means_of_labeled(job, rows, job.n_clusters)
        for places, piece in gathered_chunks(job.embeddings, strays):
            rows[places] = assign_clusters(piece, centroids)
        notes += (f"{len(strays):,} examples {without} went to the nearest cluster",)
    groups = tuple(
        tuple(sorted(task for task, group in group_of.items() if group == index)) for index in range(job.n_clusters)
    )
    return Fitted(labels=rows, groups=groups, notes=notes)


def _family(task: str) -> str:
    return task.split("/", 1)[0]


def _means_of_labeled(job: FitJob, rows: np.ndarray, k: int) -> np.ndarray:
    """The means of the rows that have a label; the others count as one more group, which is left out."""
    return means_of(job.embeddings, np.where(rows < 0, k, rows), k + 1).centroids[:k]


def _tasks(job: FitJob) -> Sequence[str]:
    tasks = job.facts.tasks
    if tasks is None or not any(tasks):
        raise ConfigError(
            "the examples carry no task labels",
            where=f"cluster.algorithm {job.config.algorithm}",
            do="map the field that holds them with data.fields {task: …}, or choose kmeans",
        )
    return tasks


def _check_enough(n_tasks: int, k: int, what: str) -> None:
    if n_tasks < k:
        raise ConfigError(
            "there are fewer tasks than clusters",
            where="cluster.n_clusters",
            found=f"{n_tasks} {what}, {k} clusters",
            do=f"lower n_clusters to {n_tasks} or less",
        )


def _kmeans(points: np.ndarray, job: FitJob) -> np.ndarray:
    """k-means of the tasks. Refused: fewer groups than clusters, which happens where adapters are equal."""
    try:
        import sklearn.cluster
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise MissingExtraError("clustering needs scikit-learn", do="pip install 'tclora[library]'") from None
    means = cast(Any, sklearn.cluster).KMeans(
        job.n_clusters, n_init=job.config.n_init, max_iter=job.config.max_iter, random_state=job.seed % 2**32
    )
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = means.fit_predict(points).astype(np.int64)
    n_found = len(set(labels.tolist()))
    if n_found < job.n_clusters:
        raise ConfigError(
            "the adapters form fewer groups than clusters",
            where="cluster.n_clusters",
            found=f"{n_found} groups of {len(points)} adapters, {job.n_clusters} clusters",
            do=f"lower n_clusters to {n_found} or less; adapters that are equal cannot be told apart",
        )
    return labels
