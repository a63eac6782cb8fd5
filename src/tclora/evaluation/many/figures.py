"""From values item by item to figures with intervals and compared pairs.

In: `TaskValues` of every task, entrants' names, the pairs to compare. Out: records. All entrants of a task share its
resamples; tasks are resampled apart. A metric that is lower where better keeps its sign: a difference is always the
first's value less the second's.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tclora.evaluation.many.comparing import bootstrap_p, draw_means, interval, is_binary, mcnemar_p, mean_score
from tclora.evaluation.many.scoring import TaskValues
from tclora.evaluation.seed_draws import holm
from tclora.records import ComparisonRecord, FigureRecord, Score
from tclora.shapes import Float

__all__ = ["MACRO", "Figures", "figures_of"]

MACRO = "macro mean"

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Figures:
    """Everything a table shows."""

    figures: tuple[FigureRecord, ...]
    comparisons: tuple[ComparisonRecord, ...]
    macro: Mapping[str, Score] = field(default_factory=dict)
    macro_tasks: tuple[str, ...] = ()
    macro_chance: float | None = None


@dataclass(frozen=True)
class _Drawn:
    """One metric of one task: values, and draws of their means."""

    task: str
    metric: str
    values: Float[np.ndarray, "n entrants"]
    means: Float[np.ndarray, "n_bootstrap entrants"]


def figures_of(
    tasks: Sequence[TaskValues], names: Sequence[str], pairs: Pairs, *, n_bootstrap: int, seed: int
) -> Figures:
    """Make every figure and comparison.

    Args:
        names: of the entrants, in the order of the columns.
        pairs: names of entrants; the p values of one task and metric are corrected together.
    """
    figures, comparisons, mains = [], [], []
    for task in tasks:
        own_seed = _task_seed(seed, task.task.name)
        for drawn in _draws(task, n_bootstrap, own_seed):
            figures += _figures(task, drawn, names, n_bootstrap, own_seed)
            comparisons += _compared(drawn, names, pairs)
            if drawn.metric == task.task.metrics[0] and _counts_in_mean(task, drawn):
                mains.append(drawn)
    if len(mains) < 2:
        return Figures(tuple(figures), tuple(comparisons))
    macro, more = _macro(mains, names, pairs)
    chances = [t.task.chance.get(t.task.metrics[0]) for t in tasks if t.task.name in {one.task for one in mains}]
    known = [chance for chance in chances if chance is not None]
    chance = float(np.mean(known)) if len(known) == len(chances) else None
    return Figures(tuple(figures), (*comparisons, *more), macro, tuple(one.task for one in mains), chance)


def _draws(task: TaskValues, n_bootstrap: int, seed: int) -> list[_Drawn]:
    # Every metric stands in one matrix, so that one set of resamples serves them all.
    matrix = np.concatenate([task.values[metric] for metric in task.task.metrics], axis=1)
    means = np.split(draw_means(matrix, n_bootstrap=n_bootstrap, seed=seed), len(task.task.metrics), axis=1)
    return [
        _Drawn(task.task.name, metric, task.values[metric], mean)
        for metric, mean in zip(task.task.metrics, means, strict=True)
    ]


def _figures(task: TaskValues, drawn: _Drawn, names: Sequence[str], n_bootstrap: int, seed: int) -> list[FigureRecord]:
    binary = is_binary(drawn.values)
    labels = list(dict.fromkeys(item.group for item in task.items))
    groups = np.array([labels.index(item.group) for item in task.items])
    by_group: list[dict[str, Score]] = [{} for _ in names]
    means: list[Score | None] = [None for _ in names]
    if len(labels) > 1:
        together = draw_means(drawn.values, n_bootstrap=n_bootstrap, seed=seed, groups=groups)
        for place, label in enumerate(labels):
            mine = drawn.values[groups == place]
            own = together if binary else draw_means(mine, n_bootstrap=n_bootstrap, seed=seed)
            for column in range(len(names)):
                by_group[column][label] = mean_score(mine[:, column], own[:, column], binary=binary)
        points = np.mean([drawn.values[groups == place].mean(axis=0) for place in range(len(labels))], axis=0)
        means = [interval(float(points[c]), together[:, c], len(task.items)) for c in range(len(names))]
    return [
        FigureRecord(
            adapter=name,
            task=drawn.task,
            metric=drawn.metric,
            score=mean_score(drawn.values[:, column], drawn.means[:, column], binary=binary),
            interval="wilson" if binary else "bootstrap",
            by_group=by_group[column],
            group_mean=means[column],
        )
        for column, name in enumerate(names)
    ]


def _compared(drawn: _Drawn, names: Sequence[str], pairs: Pairs) -> list[ComparisonRecord]:
    binary, found = is_binary(drawn.values), []
    for first, second in pairs:
        a, b = names.index(first), names.index(second)
        one, other = drawn.values[:, a], drawn.values[:, b]
        difference = drawn.means[:, a] - drawn.means[:, b]
        p = mcnemar_p(one == 1, other == 1) if binary else bootstrap_p(difference)
        found.append(
            ComparisonRecord(
                task=drawn.task,
                metric=drawn.metric,
                first=first,
                second=second,
                difference=interval(float((one - other).mean()), difference, len(one)),
                n_first=int((one > other).sum()),
                n_second=int((other > one).sum()),
                test="mcnemar" if binary else "bootstrap",
                p=p,
                p_holm=1.0,
            )
        )
    return _corrected(found)


def _macro(
    mains: Sequence[_Drawn], names: Sequence[str], pairs: Pairs
) -> tuple[dict[str, Score], list[ComparisonRecord]]:
    """Means over tasks, each counting alike, and their differences."""
    means = np.mean([one.means for one in mains], axis=0)
    points = np.mean([one.values.mean(axis=0) for one in mains], axis=0)
    n = sum(len(one.values) for one in mains)
    macro = {name: interval(float(points[c]), means[:, c], n) for c, name in enumerate(names)}
    found = []
    for first, second in pairs:
        a, b = names.index(first), names.index(second)
        drawn = means[:, a] - means[:, b]
        found.append(
            ComparisonRecord(
                task=MACRO,
                metric="main",
                first=first,
                second=second,
                difference=interval(float(points[a] - points[b]), drawn, n),
                n_first=sum(int((one.values[:, a] > one.values[:, b]).sum()) for one in mains),
                n_second=sum(int((one.values[:, b] > one.values[:, a]).sum()) for one in mains),
                test="bootstrap",
                p=bootstrap_p(drawn),
                p_holm=1.0,
            )
        )
    return macro, _corrected(found)


def _corrected(found: Sequence[ComparisonRecord]) -> list[ComparisonRecord]:
    p_values = holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, p_values, strict=True)]


def _counts_in_mean(task: TaskValues, drawn: _Drawn) -> bool:
    # A mean over tasks is of one kind of figure: shares that are better where higher.
    return drawn.metric not in task.task.lower_is_better and bool(((drawn.values >= 0) & (drawn.values <= 1)).all())


def _task_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big")
