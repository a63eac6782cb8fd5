"""The user's own file as a task: a few lines of YAML over JSON lines, CSV or Parquet.

In: the path of the YAML and a `Request`, whose shots and limit go before the file's. Out: a `BuiltTask`. A loss task
without a prompt takes instruction examples in any format that training reads, through the base's own template. Refused:
columns that the data lack (near ones are named), ids given twice, conversations in a loss task, and rows at fault, with
file and line.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tclora.config.task_file import TaskFile, load_task_file
from tclora.data import Example, expand_paths, read_examples
from tclora.data.formats import as_text
from tclora.data.rows import Row, read_rows
from tclora.errors import ConfigError, DataError
from tclora.evaluation.tasks.built import BuiltTask, Request, Scorer, chosen, draw_shots
from tclora.evaluation.tasks.prompts import Template, parse_template
from tclora.evaluation.tasks.scorers import (
    CHOICE_METRICS,
    LOSS_METRICS,
    NUMERIC_METRICS,
    ChoiceGold,
    score_choice,
    score_exact,
    score_loss,
    score_numeric,
    score_rouge,
)
from tclora.evaluation.tasks.source import file_facts
from tclora.evaluation.tasks.task import Continuation, Generation, Item, Prompt
from tclora.evaluation.tasks.user_rows import choice_gold, number_gold, text_gold

__all__ = ["load_user_task"]

_SCORERS: dict[str, tuple[tuple[str, ...], Scorer]] = {
    "choice": (CHOICE_METRICS, score_choice),
    "exact_match": (("exact_match",), score_exact),
    "rouge": (("rouge_l", "exact_match"), score_rouge),
    "numeric": (NUMERIC_METRICS, score_numeric),
    "loss": (LOSS_METRICS, score_loss),
}
_STOPS = {"exact_match": ("\n",), "rouge": ("\n\n",), "numeric": ("\n\n",)}


@dataclass(frozen=True)
class _Plan:
    """A task file, its parsed prompt, and how the task is wanted."""

    task: TaskFile
    where: Path
    template: Template
    request: Request


def load_user_task(path: Path, request: Request) -> BuiltTask:
    """Build the task that a YAML file describes.

    Raises:
        ConfigError: the YAML is at fault, or names columns that the data do not have.
        DataError: a row is at fault; names file and line.
    """
    task = load_task_file(path)
    request = replace(
        request,
        shots=task.shots if request.shots is None else request.shots,
        limit=task.limit if request.limit is None else request.limit,
        plain=task.plain and request.plain,
    )
    if task.prompt is None:
        return _examples_task(task, request)
    plan = _Plan(task, path, parse_template(task.prompt, where=str(path)), request)
    rows = _rows(task.path)
    _check_columns(plan, rows[0])
    ids = _ids(plan, rows)
    shots, shot_facts = _shots(plan, rows)
    kept = chosen(list(zip(ids, rows, strict=True)), request, lambda pair: pair[0])
    items = tuple(_item(plan, name, row, shots) for name, row in kept)
    return _built(task, items, request, shot_facts)


def _built(task: TaskFile, items: tuple[Item, ...], request: Request, more: dict[str, object]) -> BuiltTask:
    metrics, scorer = _SCORERS[task.kind]
    (first, *others) = expand_paths(task.path)
    facts = {"kind": task.kind, **file_facts(first), **request.facts(request.shots or 0), **more}
    facts |= {f"file_{number}_sha256": file_facts(file)["file_sha256"] for number, file in enumerate(others, start=2)}
    return BuiltTask(
        task.name or "task",
        metrics,
        items,
        scorer,
        facts,
        lower_is_better=metrics if task.kind == "loss" else (),
        chance=_chance(items) if task.kind == "choice" else {},
    )


def _chance(items: tuple[Item, ...]) -> dict[str, float]:
    share = sum(1 / len(item.gold.choices) for item in items if isinstance(item.gold, ChoiceGold)) / len(items)
    return dict.fromkeys(CHOICE_METRICS, share)


def _rows(path: str) -> list[Row]:
    return [row for file in expand_paths(path) for row in read_rows(file)]


def _check_columns(plan: _Plan, row: Row) -> None:
    fields = plan.task.fields
    choices = (fields.choices,) if isinstance(fields.choices, str) else fields.choices
    named = [("prompt", column) for column in plan.template.columns]
    named += [("fields.answer", fields.answer), ("fields.id", fields.id), ("fields.group", fields.group)]
    named += [("fields.choices", column) for column in choices] if plan.task.kind == "choice" else []
    for key, column in named:
        if column is None or column in row.values:
            continue
        near = difflib.get_close_matches(column, [str(name) for name in row.values], n=1, cutoff=0.5)
        raise ConfigError(
            f"{key} names a column that the data do not have: {column}",
            where=plan.where,
            found=f"{', '.join(str(name) for name in row.values)[:200]} in {row.where}",
            do=f"did you mean '{near[0]}'?" if near else f"set {key} to one of these columns",
        )


def _ids(plan: _Plan, rows: Sequence[Row]) -> list[str]:
    column = plan.task.fields.id
    if column is None:
        return [str(index) for index in range(len(rows))]
    places: dict[str, str] = {}
    for row in rows:
        name = as_text(row, column)
        if name in places:
            raise DataError("two rows have one id", where=row.where, found=f"'{name}', also at {places[name]}")
        places[name] = row.where
    return list(places)


def _item(plan: _Plan, name: str, row: Row, shots: str) -> Item:
    task, plain = plan.task, plan.request.plain
    gold = _gold(task, row)
    prompt = Prompt(shots + plan.template.fill(row), plain)
    group = as_text(row, task.fields.group) if task.fields.group else ""
    if task.kind in ("choice", "loss"):
        texts = gold.choices if isinstance(gold, ChoiceGold) else text_gold(row, task.fields.answer)[:1]
        lead = task.delimiter if plain else ""
        return Item(name, tuple(Continuation(prompt, lead + text) for text in texts), gold, group)
    stop = task.stop if task.stop is not None else _STOPS[task.kind] if plain else ()
    return Item(name, Generation(prompt, task.max_new_tokens, stop), gold, group)


def _gold(task: TaskFile, row: Row) -> object:
    if task.kind == "choice":
        return choice_gold(row, task.fields.choices, task.fields.answer)
    return number_gold(row, task.fields.answer) if task.kind == "numeric" else text_gold(row, task.fields.answer)


def _shots(plan: _Plan, tested: Sequence[Row]) -> tuple[str, dict[str, object]]:
    n = plan.request.shots or 0
    if not n:
        return "", {}
    if plan.task.fewshot is None:
        do = "name a file of examples as fewshot, or ask for 0 shots"
        raise ConfigError("the task has no examples to be shown", where=plan.where, found=f"{n} shots", do=do)
    examples, fill = _rows(plan.task.fewshot), plan.template.fill
    _check_columns(plan, examples[0])
    asked = [fill(row) for row in tested]
    drawn = draw_shots(examples, n, seed=plan.request.seed, text=fill, tested=asked, where=plan.task.fewshot)
    shown = "".join(_solved(plan, row) for row in drawn)
    return shown, dict(file_facts(expand_paths(plan.task.fewshot)[0], "fewshot_file"))


def _solved(plan: _Plan, row: Row) -> str:
    gold = _gold(plan.task, row)
    right = gold.choices[gold.answer] if isinstance(gold, ChoiceGold) else text_gold(row, plan.task.fields.answer)[0]
    between = plan.task.delimiter if plan.request.plain else "\n"
    return f"{plan.template.fill(row)}{between}{right}\n\n"


def _examples_task(task: TaskFile, request: Request) -> BuiltTask:
    if request.shots:
        raise ConfigError(
            "a loss task without a prompt shows no examples", found=f"{request.shots} shots", do="ask for 0"
        )
    examples = list(enumerate(read_examples(task.path)))
    kept = chosen(examples, request, lambda pair: str(pair[0]))
    items = tuple(_example_item(index, example, task.path) for index, example in kept)
    return _built(task, items, replace(request, plain=False), {})


def _example_item(index: int, example: Example, path: str) -> Item:
    if example.history:
        raise DataError(
            "an example has turns before its instruction, which a loss task cannot show",
            where=f"{path}, example {index + 1}",
            do="leave it out, or measure it as the run's dev data",
        )
    asked = f"{example.instruction}\n{example.input}" if example.input else example.instruction
    return Item(str(index), (Continuation(Prompt(asked, plain=False), example.output),), (), example.family)
