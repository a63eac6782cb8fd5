"""From answers to the values of every metric, item by item.

In: a task and each entrant's answers. Out: `TaskValues`, one matrix per metric, items by entrants. Equal answers to one
item are scored once. Programs are run several at a time, and their values are kept on disk one by one. Refused: a task
that leaves a metric out, and values that are not finite.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tclora.errors import NumericalError
from tclora.evaluation.many.judged import JudgedStore, judged_key
from tclora.evaluation.tasks.task import Answer, Item, Task
from tclora.sandbox import run_many
from tclora.shapes import Float

__all__ = ["TaskValues", "score_task"]

Values = Mapping[str, float]


@dataclass(frozen=True)
class TaskValues:
    """The value of each metric: rows are items, columns entrants."""

    task: Task
    items: tuple[Item, ...]
    values: Mapping[str, Float[np.ndarray, "n entrants"]]


def score_task(
    task: Task,
    answers: Sequence[Sequence[Answer]],
    *,
    workers: int = 1,
    kept: JudgedStore | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TaskValues:
    """Score each entrant's answers.

    Args:
        workers: programs run at once; a task without code is scored one answer after the other.
        kept: values of programs made before, to which new ones are added.
        on_progress: called with the different answers scored and their number, kept ones included.

    Raises:
        NumericalError: a value is absent or not finite; names task, item and metric.
    """
    items = tuple(task.items())
    wanted = list(dict.fromkeys((row, own[row]) for row in range(len(items)) for own in answers))
    found: dict[tuple[int, Answer], Values] = {}
    pairs = [(items[row], answer) for row, answer in wanted]
    for place, value in _scored(task, pairs, workers, kept):
        found[wanted[place]] = value
        if on_progress is not None:
            on_progress(len(found), len(wanted))
    values = {
        metric: np.array([[found[row, own[row]][metric] for own in answers] for row in range(len(items))])
        for metric in task.metrics
    }
    return TaskValues(task, items, values)


def _scored(
    task: Task, pairs: Sequence[tuple[Item, Answer]], workers: int, kept: JudgedStore | None
) -> Iterator[tuple[int, Values]]:
    """The place of each pair and its values: those on disk first, then the others in their order."""
    keys = ["" if kept is None else judged_key(*pair) for pair in pairs]
    todo = []
    for place, key in enumerate(keys):
        if kept is not None and key in kept:
            yield place, _checked(task, pairs[place][0], kept[key])
        else:
            todo.append(place)
    for place, value in zip(todo, _made(task, [pairs[place] for place in todo], workers), strict=True):
        checked = _checked(task, pairs[place][0], value)
        if kept is not None:
            kept.add([(keys[place], checked)])
        yield place, checked


def _made(task: Task, pairs: Sequence[tuple[Item, Answer]], workers: int) -> Iterator[Values]:
    if not task.runs_code:
        return (task.score(item, answer) for item, answer in pairs)
    return run_many(
        [lambda item=item, answer=answer: task.score(item, answer) for item, answer in pairs], workers=workers
    )


def _checked(task: Task, item: Item, found: Values) -> Values:
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
