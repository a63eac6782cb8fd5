"""The groups of examples that a control library is trained on: random ones of the clusters' sizes, or the tasks.

In: a finished data, encode and cluster stage. Out: `ControlGroups`: for each adapter its name, and for each training
and dev example the adapter it belongs to; and the same for new texts. Refused: tasks as groups where the data name no
tasks, or all tasks are too small.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tclora.clustering import assign_clusters
from tclora.data import Example, iter_examples
from tclora.errors import DataError
from tclora.pipeline.layout import PER_TASK, RANDOM_CLUSTERS, RunFolder
from tclora.pipeline.stages.cluster import read_labels
from tclora.shapes import Float, Int

__all__ = ["OTHER_TASKS", "ControlGroups", "known_or_nearest", "random_groups", "shuffled", "task_groups_of"]

OTHER_TASKS = "other-tasks"

_ROWS = 1 << 14
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class ControlGroups:
    """A control's adapters by name, and the index of each example's adapter."""

    control: str
    names: tuple[str, ...]
    train: Int[np.ndarray, " n_train"]
    dev: Int[np.ndarray, " n_dev"]
    tasks: dict[str, int]
    """Tasks to adapters; empty where groups are not made of tasks."""
    centroids: Float[np.ndarray, "n_groups d_embed"] | None = None
    """Mean embeddings of the groups, by which texts of other tasks find an adapter."""


def random_groups(run: RunFolder, n_clusters: int, *, seed: int) -> ControlGroups:
    """Groups of exactly the clusters' sizes, in training and dev, with the examples shuffled among them."""
    return ControlGroups(
        control=RANDOM_CLUSTERS,
        names=tuple(f"random-{index}" for index in range(n_clusters)),
        train=shuffled(read_labels(run, "train"), seed=seed, use="train"),
        dev=shuffled(read_labels(run, "dev"), seed=seed, use="dev"),
        tasks={},
    )


def shuffled(labels: Int[np.ndarray, " n"], *, seed: int, use: str) -> Int[np.ndarray, " n"]:
    """The same labels, as many of each, in an order drawn from the seed and the use."""
    return np.random.default_rng([seed, *use.encode()]).permutation(labels).astype(np.int64)


def task_groups_of(run: RunFolder, *, min_size: int) -> ControlGroups:
    """One group for each task of at least `min_size` training examples, and one for all smaller tasks together.

    A dev example of a task that was not trained on goes to the group whose mean embedding is nearest.

    Raises:
        DataError: there are no tasks, or none of that size.
    """
    tasks = {part: [example.task for example in _examples(run, part)] for part in ("train", "dev")}
    counts = Counter(task for task in tasks["train"] if task)
    large = sorted(task for task, n in counts.items() if n >= min_size)
    if not large:
        raise DataError(
            "the control per_task has no task to train on",
            where="train.controls",
            found=f"{len(counts)} named tasks, the largest with {max(counts.values(), default=0)} examples",
            expected=f"a task with at least {min_size} training examples",
            do="lower train.min_task_size, name the tasks in the data, or leave per_task out",
        )
    names = _folder_names(large)
    places = {task: index for index, task in enumerate(large)}
    if len(large) < len(set(tasks["train"])):
        names = (*names, OTHER_TASKS)
        places |= {task: len(large) for task in set(tasks["train"]) - set(large)}
    train = np.array([places[task] for task in tasks["train"]], dtype=np.int64)
    centroids = _means(np.load(run.encode / "train.npy", mmap_mode="r", allow_pickle=False), train, len(names))
    rows = np.load(run.encode / "dev.npy", mmap_mode="r", allow_pickle=False)
    dev = known_or_nearest(tasks["dev"], places, rows, centroids)
    return ControlGroups(PER_TASK, names, train, dev, places, centroids)


def known_or_nearest(
    tasks: Sequence[str],
    places: dict[str, int],
    rows: Float[np.ndarray, "n d_embed"],
    centroids: Float[np.ndarray, "n_groups d_embed"],
) -> Int[np.ndarray, " n"]:
    """Each text's group: its task's where that was trained on, else the one whose mean embedding is nearest."""
    unknown = np.flatnonzero([task not in places for task in tasks])
    found = np.array([places.get(task, 0) for task in tasks], dtype=np.int64)
    if unknown.size:
        found[unknown] = assign_clusters(np.ascontiguousarray(rows[unknown]), centroids)
    return found


def _examples(run: RunFolder, part: str) -> list[Example]:
    return list(iter_examples(run.data / f"{part}.jsonl"))


def _folder_names(tasks: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each task: its own where that is plain and no other task's, else with a number."""
    plain = [_NOT_PLAIN.sub("-", task).strip("-.")[:80] or "task" for task in tasks]
    # Two names must not be one folder where case does not count either.
    twice = {name for name, n in Counter(name.casefold() for name in plain).items() if n > 1} | {OTHER_TASKS}
    return tuple(f"{name}-{index}" if name.casefold() in twice else name for index, name in enumerate(plain))


def _means(
    rows: Float[np.ndarray, "n d_embed"], groups: Int[np.ndarray, " n"], n_groups: int
) -> Float[np.ndarray, "n_groups d_embed"]:
    """The mean row of every group, from a matrix that may be larger than memory."""
    sums = np.zeros((n_groups, rows.shape[1]))
    for start in range(0, len(rows), _ROWS):
        np.add.at(sums, groups[start : start + _ROWS], rows[start : start + _ROWS].astype(np.float64))
    return (sums / np.bincount(groups, minlength=n_groups)[:, None]).astype(np.float32)
