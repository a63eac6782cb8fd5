"""`tclora tasks`: every benchmark task in one table, or one task as the model will see it.

With a name, or the path of the user's own YAML, the task's file is read and its first item shown: so a prompt can be
checked without a model.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tclora.cli.console import emit_json, show_table

if TYPE_CHECKING:
    from tclora.evaluation.tasks import BuiltTask, Item

__all__ = ["tasks"]


def tasks(
    task: Annotated[
        str | None, typer.Argument(help="A task's name, or a YAML file of your own; none: list all.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with eval/; else $TCLORA_DATA, then the Hub.")] = None,
    shots: Annotated[int | None, typer.Option(help="Solved examples before each question.")] = None,
    limit: Annotated[int | None, typer.Option(help="That many items, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(help="Draws shots and limited items.")] = 0,
    template: Annotated[bool, typer.Option("--template", help="Prompts for the base's own template.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
) -> None:
    """List the benchmark tasks, or show what one task asks: its items, metrics, chance line and first prompt."""
    from tclora.evaluation.tasks import load_task

    if task is None:
        return _list(as_json)
    built = load_task(task, data=data, shots=shots, limit=limit, seed=seed, plain=not template)
    shown = _described(built)
    if as_json:
        return emit_json(shown)
    first = shown.pop("first")
    typer.echo("\n".join(f"{key:<16} {_text(value)}" for key, value in shown.items()))
    for key, value in first.items():
        typer.echo(f"\n--- first item: {key}\n{_text(value)}")


def _list(as_json: bool) -> None:
    from tclora.evaluation.tasks import EVAL_TASKS

    rows = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "n_items": entry.facts["n"],
            "source": entry.source,
            "metrics": _listed(entry.facts["metrics"]),
            "chance": entry.facts.get("chance"),
            "file": f"eval/{entry.facts['file']}.jsonl.gz",
            "runs_code": entry.facts.get("runs_code", False),
        }
        for entry in EVAL_TASKS.entries()
    ]
    if as_json:
        return emit_json({"tasks": rows})
    header = ["task", "what it asks", "items", "source", "metrics, main first", "chance", "runs code"]
    show_table("Benchmark tasks", header, [_cells(row) for row in rows])


def _described(built: "BuiltTask") -> dict:
    return {
        "task": built.name,
        "n_items": len(built.items()),
        "metrics": list(built.metrics),
        "lower_is_better": list(built.lower_is_better),
        "chance": dict(built.chance),
        "runs_code": built.runs_code,
        **built.facts,
        "first": _first(built.items()[0]),
    }


def _first(item: "Item") -> dict[str, object]:
    ask = item.ask
    if isinstance(ask, tuple):
        prompts = list(dict.fromkeys(continuation.prompt.text for continuation in ask))
        asked = {"prompts" if len(prompts) > 1 else "prompt": prompts if len(prompts) > 1 else prompts[0]}
        return {"id": item.id, **asked, "scored": [continuation.text for continuation in ask], "right": _right(item)}
    stop = {"max_new_tokens": ask.max_new_tokens, "stop": list(ask.stop)}
    return {"id": item.id, "prompt": ask.prompt.text, **stop, "right": _right(item)}


def _right(item: "Item") -> object:
    answer = getattr(item.gold, "answer", None)
    if answer is not None:
        return answer
    return item.gold if isinstance(item.gold, float | tuple) else "what passes its tests"


def _text(value: object) -> str:
    from tclora.errors import printable

    if isinstance(value, dict):
        return ", ".join(f"{key} {part:.4g}" for key, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(repr(part) if isinstance(part, str) else str(part) for part in value) or "none"
    return printable(str(value))


def _cells(row: dict[str, object]) -> list[str]:
    chance = row["chance"]
    shown = f"{100 * chance:.1f} %" if isinstance(chance, float) else ""
    metrics = ", ".join(_listed(row["metrics"]))
    runs = "yes" if row["runs_code"] else ""
    return [str(row["name"]), str(row["summary"]), str(row["n_items"]), str(row["source"]), metrics, shown, runs]


def _listed(metrics: object) -> list[str]:
    return [str(metric) for metric in metrics] if isinstance(metrics, tuple | list) else []
