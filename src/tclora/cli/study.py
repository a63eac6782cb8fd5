"""`tclora study clustering`: every combination of encoder, algorithm, number of clusters and seed, measured alike."""

from pathlib import Path

import typer

from tclora.cli.console import emit_json, progress_for, show_table
from tclora.cli.run import AsJson, Config, Debug, DryRun, Overrides, Overwrite, Quiet

__all__ = ["study"]

study = typer.Typer(help="Studies: many settings of one stage, measured alike.", no_args_is_help=True)


@study.callback()
def _studies() -> None:
    """Studies: many settings of one stage, measured alike."""


@study.command()
def clustering(
    config: Config,
    set_: Overrides = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare ways to cluster: agreement, purity against tasks, and the dev loss of a small library of each.

    CONFIG is a run's file with one more key, `study`. Killed and started again, it goes on; unchanged cells are kept.
    """
    from tclora.config.study import load_study
    from tclora.pipeline.studies.cells import cells_of

    run, settings = load_study(Path(config), set_ or [])
    if dry_run:
        cells = cells_of(run, settings)
        plan = {"out": run.output, "n_cells": len(cells), "n_trained": sum(cell.trains for cell in cells)}
        plan["cells"] = [cell.name for cell in cells]
        return emit_json(plan) if as_json else _show_plan(plan)
    from tclora.pipeline.studies.clustering import study_clustering
    from tclora.records import to_json
    from tclora.reporting import study_table

    found = study_clustering(run, settings, progress_for(quiet), overwrite=overwrite)
    if as_json:
        return emit_json({"out": str(found.folder), "wall_s": found.wall_s, **to_json(found.record)})
    header, rows = study_table(found.record)
    show_table(f"{found.record.name}: ways to cluster", header, rows)
    typer.echo(f"table and plot   {found.folder / 'study.md'}, {found.folder / 'study.svg'}")
    typer.echo(f"time             {found.wall_s:.1f} s")


def _show_plan(plan: dict) -> None:
    for key, value in plan.items():
        for place, row in enumerate(value if isinstance(value, list) else [value]):
            typer.echo(f"{key if place == 0 else '':<12} {row}")
