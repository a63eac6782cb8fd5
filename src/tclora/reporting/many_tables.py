"""Tables of an evaluation of many adapters, and the page that holds them.

In: a `ManyEvalRecord`. Out: tables of plain text and one Markdown page. Every figure stands with its interval, every
task's table with what guessing would reach; a difference is the first's figure less the second's.
"""

import json
from collections.abc import Sequence

from tclora.records import ComparisonRecord, FigureRecord, ManyEvalRecord, ManyTaskRecord, Score
from tclora.reporting.markdown import bullets, code_block, escape, table
from tclora.reporting.wording import NONE, count, number, percent, share
from tclora.reporting.wording import loss as plain_score

__all__ = ["many_comparison_table", "many_page", "many_table", "many_task_table"]

Table = tuple[list[str], list[list[str]]]

_LEVEL = 0.05

_NOTES = (
    "Brackets hold 95 % intervals over items: Wilson's for values of 0 and 1, else bootstrap percentiles. They say "
    "how far a figure would move with other items of the same kind, not with another training seed.",
    "Differences are paired: both adapters answered the same items, and are resampled together. p is McNemar's exact "
    "test for values of 0 and 1, else from the bootstrap; Holm's correction is over all comparisons of one task and "
    "metric, and not over tasks and metrics.",
    "A bootstrap interval without width means that all its values were alike (none right, or the same answers), "
    "and not that the figure is certain.",
    "Chance is what a uniform guess would reach. Where a figure's interval holds it, nothing was shown to be learned.",
)


def many_table(record: ManyEvalRecord) -> Table:
    """The main table: a row for each adapter, a column for each task's main metric, the mean over tasks, and chance."""
    header = ["adapter", "rank"]
    header += [f"{task.name}, {task.metrics[0]} (n={count(task.n)}){_unsafe(task)}" for task in record.tasks]
    figures = {(one.adapter, one.task, one.metric): one for one in record.figures}
    rows = [
        [one.name, str(one.rank), *[_cell(figures.get((one.name, t.name, t.metrics[0])), t) for t in record.tasks]]
        for one in record.entrants
    ]
    chance = ["chance", "", *[_chance(task, task.metrics[0]) for task in record.tasks]]
    if record.macro:
        header.append(f"mean of {len(record.macro_tasks)} tasks")
        rows = [[*row, share(record.macro.get(row[0]))] for row in rows]
        chance.append(NONE if record.macro_chance is None else percent(record.macro_chance))
    return header, [*rows, chance]


def many_task_table(record: ManyEvalRecord, task: ManyTaskRecord) -> Table:
    """Every metric of one task; the mean of its parts where it has parts."""
    parts = any(one.group_mean is not None for one in record.figures if one.task == task.name)
    header = ["adapter", *task.metrics, *([f"{task.metrics[0]}, mean of parts"] if parts else [])]
    rows = []
    for entrant in record.entrants:
        own = {one.metric: one for one in record.figures if (one.adapter, one.task) == (entrant.name, task.name)}
        row = [entrant.name, *[_cell(own.get(metric), task) for metric in task.metrics]]
        main = own.get(task.metrics[0])
        rows.append([*row, *([_mean_of_parts(main, task)] if parts else [])])
    chance = ["chance", *[_chance(task, metric) for metric in task.metrics], *([NONE] if parts else [])]
    return header, [*rows, chance]


def many_comparison_table(found: Sequence[ComparisonRecord], tasks: Sequence[ManyTaskRecord]) -> Table:
    """Compared pairs: the difference, on how many items each was ahead, and the p values."""
    header = ["task", "metric", "first", "second", "difference", "first higher", "second higher", "test", "p"]
    header += ["p (Holm)", "better"]
    lower = {(task.name, metric) for task in tasks for metric in task.lower_is_better}
    rows = [
        [
            *(one.task, one.metric, one.first, one.second, _difference(one.difference)),
            *(count(one.n_first), count(one.n_second), one.test, _p(one.p), _p(one.p_holm)),
            _better(one, lower=(one.task, one.metric) in lower),
        ]
        for one in found
    ]
    return header, rows


def many_page(record: ManyEvalRecord) -> str:
    """The whole evaluation as one Markdown page: figures, comparisons, then the prompts word for word."""
    mains = {task.name: task.metrics[0] for task in record.tasks}
    first = [one for one in record.comparisons if mains.get(one.task, one.metric) == one.metric]
    rest = [one for one in record.comparisons if mains.get(one.task, one.metric) != one.metric]
    sections = [f"# Evaluation on {escape(record.base)}", bullets(_settings(record)), table(*many_table(record))]
    sections += [bullets(_NOTES)]
    if first:
        sections += ["## Compared on the same items", table(*many_comparison_table(first, record.tasks))]
    for task in record.tasks:
        sections += _task_sections(record, task)
    if rest:
        sections += ["## Comparisons of the other metrics", table(*many_comparison_table(rest, record.tasks))]
    return "\n\n".join(sections) + "\n"


def _settings(record: ManyEvalRecord) -> list[str]:
    prompts = "plain texts" if record.template == "plain" else "instructions in the base's template"
    lines = [
        f"{len(record.entrants)} entrants, one base load, {record.dtype}, window {count(record.window)} tokens",
        f"prompts: {prompts} ({record.template}); answers by {record.backend}; seed {record.seed}; "
        f"{count(record.n_bootstrap)} resamples",
    ]
    return [*lines, *([record.sandbox] if record.sandbox else []), *record.notes]


def _task_sections(record: ManyEvalRecord, task: ManyTaskRecord) -> list[str]:
    facts = json.dumps(task.facts, ensure_ascii=False, default=str)
    cut = f"; {count(task.n_truncated)} prompts were cut to fit the window" if task.n_truncated else ""
    sections = [f"## {escape(task.name)}", table(*many_task_table(record, task))]
    parts = _parts_table(record, task)
    sections += [table(*parts)] if parts[1] else []
    said = escape(f"{count(task.n)} items{cut}. What decides prompts and scores: {facts}. Digest of all prompts:")
    return [*sections, f"{said} `{task.prompts_sha256}`. The first prompt:", code_block(task.first_prompt)]


def _parts_table(record: ManyEvalRecord, task: ManyTaskRecord) -> Table:
    mine = [one for one in record.figures if (one.task, one.metric) == (task.name, task.metrics[0])]
    labels = list(dict.fromkeys(label for one in mine for label in one.by_group))
    header = ["part", *[one.adapter for one in mine]]
    rows = [
        [
            f"{label} (n={count(next(one.by_group[label].n for one in mine if label in one.by_group))})",
            *[_score(one.by_group.get(label), task, one.metric) for one in mine],
        ]
        for label in labels
    ]
    return header, rows


def _unsafe(task: ManyTaskRecord) -> str:
    # Where nothing held a program back, it could have written its own verdict.
    facts = task.facts.get("sandbox")
    return ", NO SANDBOX" if isinstance(facts, dict) and facts.get("backend") == "none" else ""


def _cell(figure: FigureRecord | None, task: ManyTaskRecord) -> str:
    return NONE if figure is None else _score(figure.score, task, figure.metric)


def _mean_of_parts(figure: FigureRecord | None, task: ManyTaskRecord) -> str:
    return NONE if figure is None else _score(figure.group_mean, task, figure.metric)


def _score(score: Score | None, task: ManyTaskRecord, metric: str) -> str:
    if score is None:
        return NONE
    is_share = metric not in task.lower_is_better and 0 <= score.value <= 1
    return share(score) if is_share else plain_score(score)


def _chance(task: ManyTaskRecord, metric: str) -> str:
    if metric not in task.chance:
        return NONE
    value = task.chance[metric]
    return percent(value) if metric not in task.lower_is_better and 0 <= value <= 1 else number(value)


def _difference(score: Score) -> str:
    return f"{score.value:+.4f} [{score.low:+.4f}, {score.high:+.4f}]"


def _p(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _better(one: ComparisonRecord, *, lower: bool) -> str:
    if one.p_holm > _LEVEL or one.difference.value == 0:
        return NONE
    return one.first if (one.difference.value > 0) != lower else one.second
