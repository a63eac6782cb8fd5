"""`tclora experiment`: one YAML file, one command, one page of results."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tclora.cli.console import emit_json, progress_for, show_table
from tclora.cli.run import AsJson, Debug, DryRun, Overrides, Quiet

__all__ = ["experiment"]

ExperimentFile = Annotated[str, typer.Argument(metavar="FILE", help="The experiment's YAML file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Forget what the experiment has kept; libraries stay.")]


def experiment(
    config: ExperimentFile,
    set_: Overrides = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run an experiment: libraries, seeds and contestants of one file, to a page with its figures and pictures.

    Killed and started again, it goes on: trained libraries and known losses are kept. --overwrite forgets what the
    experiment itself has kept, and no library.
    """
    from tclora.pipeline.experiments.run import clear_experiment, load_experiment, plan_experiment, run_experiment

    kind, settings = load_experiment(Path(config), set_ or [])
    if dry_run:
        plan = plan_experiment(kind, settings)
        return emit_json(plan) if as_json else _show_plan(plan)
    if overwrite:
        clear_experiment(settings)
    words = ["tclora", "experiment", config, *(word for given in set_ or [] for word in ("--set", given))]
    found = run_experiment(kind, settings, command=shlex.join(words), progress=progress_for(quiet))
    if as_json:
        facts = {"out": str(found.folder), "page": str(found.page_folder or found.folder), "wall_s": found.wall_s}
        return emit_json({**facts, "answer": found.page.answer, **found.page.results})
    for one in found.page.tables[:1]:
        show_table(found.page.title, one.header, one.rows)
    typer.echo(found.page.answer)
    typer.echo(f"page     {(found.page_folder or found.folder) / 'README.md'}")
    typer.echo(f"time     {found.wall_s:.1f} s")


def _show_plan(plan: dict[str, object]) -> None:
    for key, value in plan.items():
        for place, row in enumerate(value if isinstance(value, list) else [value]):
            typer.echo(f"{key if place == 0 else '':<12} {row}")
