"""From answers to the values of every metric, item by item.

In: a task and each entrant's answers. Out: `TaskValues`, one matrix per metric, items by entrants. Refused: a task that
leaves a metric out, and values that are not finite.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tclora.errors import NumericalError
from tclora.evaluation.tasks.task import Answer, Item, Task
from tclora.shapes import Float

__all__ = ["TaskValues", "score_task"]


@dataclass(frozen=True)
class TaskValues:
    """The value of each metric: rows are items, columns entrants."""

    task: Task
    items: tuple[Item, ...]
    values: Mapping[str, Float[np.ndarray, "n entrants"]]


def score_task(
    task: Task, answers: Sequence[Sequence[Answer]], *, on_item: Callable[[], None] | None = None
) -> TaskValues:
    """Score each entrant's answers; equal answers to one item are scored once.

    Raises:
        NumericalError: a value is absent or not finite; names task, item and metric.
    """
    items = tuple(task.items())
    values = {metric: np.zeros((len(items), len(answers))) for metric in task.metrics}
    for row, item in enumerate(items):
        known: dict[Answer, Mapping[str, float]] = {}
        for column, own in enumerate(answers):
            if own[row] not in known:
                known[own[row]] = _checked(task, item, task.score(item, own[row]))
            for metric in task.metrics:
                values[metric][row, column] = known[own[row]][metric]
            if on_item is not None:
                on_item()
    return TaskValues(task, items, values)


def _checked(task: Task, item: Item, found: Mapping[str, float]) -> Mapping[str, float]:
    for metric in task.metrics:
        if metric not in found or not math.isfinite(found[metric]):
            raise NumericalError(
                "a task gives an item no value of a metric",
                where=f"{task.name}, item {item.id}",
                found=f"{metric}: {found.get(metric, 'absent')}",
                expected="a finite number for each of its metrics",
                do="correct the task",
            )
    return found
