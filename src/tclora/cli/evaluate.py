"""`tclora evaluate`: many adapters on one base load; or, with a run's YAML file, the evaluation stage of that run."""

from pathlib import Path
from typing import Annotated

import typer

from tclora.cli.console import emit_json, progress_for, show_table
from tclora.cli.run import run_until
from tclora.errors import ConfigError

__all__ = ["evaluate", "is_run_file"]

Model = Annotated[str, typer.Argument(help="A base model (folder, Hub id, 'bundled'), or a run's YAML file.")]
Adapters = Annotated[
    list[str] | None, typer.Option("--adapters", help="PEFT folders, Hub ids, folders of adapters, NAME=FOLDER.")
]
Tasks = Annotated[list[str] | None, typer.Option("--tasks", help="Names (see `tclora tasks`) or your own YAML files.")]
Pairs = Annotated[list[str] | None, typer.Option("--pairs", help="A:B, to be compared; else with base and the first.")]
Shots = Annotated[list[str] | None, typer.Option("--shots", help="Few-shot examples: 3, or TASK=3; else the task's.")]
Include = Annotated[list[str] | None, typer.Option("--include-path", help="lm-eval: folders of task files.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="With a run's file: override a setting, a.b=value.")]


def evaluate(
    model: Model,
    adapters: Adapters = None,
    tasks: Tasks = None,
    pairs: Pairs = None,
    limit: Annotated[int | None, typer.Option(help="At most so many items of each task.")] = None,
    shots: Shots = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in one pass. [default: 16]")] = None,
    template: Annotated[
        str | None, typer.Option(help="plain (as lm-eval) or base (its template). [default: plain]")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="A folder for results; needed to go on later.")] = None,
    data: Annotated[str | None, typer.Option(help="Where benchmark files lie; else $TCLORA_DATA.")] = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="Leave the bare base out.")] = False,
    backend: Annotated[str | None, typer.Option(help="tclora or lm-eval. [default: tclora]")] = None,
    include_path: Include = None,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Run code that the model writes, in the sandbox.")
    ] = False,
    sandbox: Annotated[
        str | None, typer.Option(help="auto, bubblewrap, landlock, or unsafe-none (your rights). [default: auto]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Programs run at once. [default: CPUs]")] = None,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. [default: auto]")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16. [default: auto]")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of prompt and answer. [default: 2048]")] = None,
    n_bootstrap: Annotated[int | None, typer.Option(help="Resamples. [default: 10000]")] = None,
    set_: Set = None,
    seed: Annotated[int | None, typer.Option(help="Of shots, limits, drawn answers, resamples. [default: 0]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; writes nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Another request into the same folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """Evaluate many adapters with one base load: figures with intervals, differences on the same items.

    With a run's YAML file instead of a model: the evaluation stage of that run.
    """
    own = {
        "adapters": tuple(adapters or ()) or None,
        "tasks": tuple(tasks or ()) or None,
        "pairs": tuple(pairs or ()) or None,
        "limit": limit,
        **_shots(shots or []),
        "batch_size": batch_size,
        "template": template,
        "out": out,
        "data": data,
        "with_base": False if no_base else None,
        "backend": backend,
        "include_path": tuple(include_path or ()) or None,
        "allow_code_execution": allow_code_execution or None,
        "sandbox": sandbox,
        "workers": workers,
        "n_bootstrap": n_bootstrap,
        "overwrite": overwrite or None,
    }
    given = {name: value for name, value in own.items() if value is not None}
    base = {"threads": threads, "device": device, "dtype": dtype, "max_length": max_length}
    loading = {name: value for name, value in base.items() if value is not None}
    if is_run_file(model):
        _refuse(model, [*given, *loading])
        return run_until(model, "evaluate", set_ or [], seed=seed, dry_run=dry_run, as_json=as_json, quiet=quiet)
    if set_:
        raise ConfigError("--set needs a run's YAML file", where="tclora evaluate", found=model, do="use the options")
    _evaluate(model, given | ({} if seed is None else {"seed": seed}), loading, dry_run, as_json, quiet)


def is_run_file(word: str) -> bool:
    """Whether the argument is a run's file and no model: a file, or a name that ends as YAML files do."""
    return word.endswith((".yaml", ".yml")) or Path(word).expanduser().is_file()


def _shots(words: list[str]) -> dict[str, object]:
    """`3` holds for every task, `TASK=3` for one."""
    found: dict[str, object] = {"shots": None, "shots_of": None}
    own = []
    for word in words:
        name, _, number = word.rpartition("=")
        if not (number.isascii() and number.isdigit()) or (not name and found["shots"] is not None):
            raise ConfigError(
                "--shots is not a number of examples",
                where="tclora evaluate",
                found=" ".join(words),
                expected="one number for all tasks, or TASK=NUMBER for one, such as --shots 3 humaneval=0",
            )
        if name:
            own.append((name, int(number)))
        else:
            found["shots"] = int(number)
    return found | {"shots_of": tuple(own) or None}


def _refuse(model: str, given: list[str]) -> None:
    if given:
        option = "--no-base" if given[0] == "with_base" else "--" + given[0].replace("_", "-")
        raise ConfigError(
            f"{option} needs a base model, not a run's file",
            where="tclora evaluate",
            found=model,
            expected="a model's folder, a Hub id, or 'bundled'",
            do="name the model; with a run's file use --set",
        )


def _evaluate(model: str, given: dict, loading: dict, dry_run: bool, as_json: bool, quiet: bool) -> None:
    from tclora.config import BaseModelConfig, validate
    from tclora.pipeline.evaluations.many import evaluate_many, plan_facts
    from tclora.pipeline.evaluations.request import EvaluateManyRequest

    base = validate(BaseModelConfig, {"path": model, "max_length": 2048, **loading}, where="tclora evaluate")
    request = EvaluateManyRequest(base=base, **given)
    if dry_run:
        return _show_plan(plan_facts(request), as_json)
    result = evaluate_many(request, progress_for(quiet))
    if as_json:
        return emit_json(_plain(result))
    _show(result)


def _show_plan(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        return emit_json(facts)
    for key, value in facts.items():
        rows = list(value.items()) if isinstance(value, dict) else value
        for place, row in enumerate(rows if isinstance(rows, list) else [rows]):
            words = f"{row[0]}: {row[1]:,} items" if isinstance(row, tuple) else row
            typer.echo(f"{key if place == 0 else '':<14} {words}")


def _plain(result) -> dict[str, object]:
    from tclora.records import to_json

    return {"out": result.out, "wall_s": round(result.wall_s, 3), **to_json(result.record)}


def _show(result) -> None:
    from tclora.reporting import many_comparison_table, many_table

    record = result.record
    show_table(f"{record.base}: figures with 95 % intervals", *many_table(record))
    mains = {task.name: task.metrics[0] for task in record.tasks}
    found = [one for one in record.comparisons if mains.get(one.task, one.metric) == one.metric]
    if found:
        show_table("Compared on the same items", *many_comparison_table(found, record.tasks))
    if record.sandbox:
        typer.echo(record.sandbox)
    typer.echo(f"prompts  {record.template}, answers by {record.backend}")
    typer.echo(f"results  {result.out}" if result.out else "results  not kept; give --out FOLDER to keep them")
    typer.echo(f"time     {result.wall_s:.1f} s")
