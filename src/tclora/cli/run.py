"""`tclora run` and one command per stage. A stage command first brings the stages before it up to date."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tclora.cli.console import emit_json, progress_for, show_table

__all__ = ["register_stages", "run", "run_until", "show_result"]

Config = Annotated[str, typer.Argument(help="The run's YAML file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value. May be repeated.")]
Seed = Annotated[int | None, typer.Option(help="Override the config's seed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; writes nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start afresh: remove the run folder first.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks.")]

_HELP = {
    "encode": "Read the data and embed every example.",
    "cluster": "Cluster the embedded examples.",
    "train": "Train one adapter per cluster, and the controls.",
    "report": "Write report.json and report.md.",
}


def run(
    config: Config,
    set_: Overrides = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run the whole pipeline: data, encode, cluster, train, merge, evaluate, report.

    Killed at any point and started again, it goes on; unchanged stages are skipped.
    """
    run_until(
        config, "report", set_ or [], seed=seed, dry_run=dry_run, as_json=as_json, overwrite=overwrite, quiet=quiet
    )


def register_stages(app: typer.Typer) -> None:
    """Add one command per stage; `merge` and `evaluate` have their own files, for they are also front doors."""
    for stage, text in _HELP.items():
        app.command(name=stage, help=text)(_stage_command(stage))


def run_until(
    config: str,
    stage: str,
    overrides: list[str],
    *,
    seed: int | None = None,
    dry_run: bool = False,
    as_json: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Load the config, bring the run up to `stage`, and show the result."""
    from tclora.config import load_config

    words = [*overrides, *([f"seed={seed}"] if seed is not None else [])]
    settings = load_config(Path(config), words)
    if dry_run:
        from tclora.pipeline.dry_run import plan_run

        return _show_plan(plan_run(settings, until=stage), as_json)
    from tclora.pipeline.run import run_pipeline

    command, progress = shlex.join(["tclora", *sys.argv[1:]]), progress_for(quiet)
    result = run_pipeline(settings, until=stage, command=command, overwrite=overwrite, progress=progress)
    show_result(result, as_json)


def show_result(result, as_json: bool) -> None:
    """The final table, or where the finished stage lies."""
    if as_json:
        return emit_json(_summary(result))
    if result.until == "cluster":
        _show_choice(result)
    if result.report is None:
        return typer.echo(f"{result.until}: done, {_embedded_words(result)}in {result.folder}")
    from tclora.reporting import results_table

    header, rows = results_table(result.report)
    show_table(f"{result.report.name}: figures with 95 % intervals", header, rows)
    typer.echo(f"report   {result.folder / 'report' / 'report.md'}")
    typer.echo(f"time     {result.wall_s:.1f} s")


def _summary(result) -> dict[str, object]:
    summary: dict[str, object] = {"out": str(result.folder), "until": result.until, "wall_s": result.wall_s}
    if result.report is None:
        return summary | _embedded(result) | _clustered(result)
    from tclora.records import to_json

    contestants = to_json(result.report.evaluation)["contestants"]
    return summary | {"report": str(result.folder / "report" / "report.json"), "contestants": contestants}


def _embedded(result) -> dict[str, object]:
    """What the encode stage made, where that was the stage asked for."""
    if result.until != "encode":
        return {}
    from tclora.pipeline.layout import RunFolder
    from tclora.pipeline.stages.encode import read_encode_record

    record = read_encode_record(RunFolder(result.folder))
    return {
        "encoder": record.model or record.encoder,
        "n": record.n_train + record.n_dev,
        "d": record.d_embed,
        "texts_per_s": record.texts_per_s,
        "dtype": record.dtype,
        "bytes": record.n_bytes,
    }


def _clustered(result) -> dict[str, object]:
    """The clusters, and how their number was chosen, where that was the stage asked for."""
    if result.until != "cluster":
        return {}
    from tclora.pipeline.layout import RunFolder
    from tclora.pipeline.stages.cluster import read_cluster_record
    from tclora.records import to_json

    record = read_cluster_record(RunFolder(result.folder))
    sizes = [cluster.n_train for cluster in record.clusters]
    return {"n_clusters": record.n_clusters, "sizes": sizes, "choice": to_json(record.choice)}


def _show_choice(result) -> None:
    """The curve that the number of clusters was read from, where it was chosen."""
    from tclora.pipeline.layout import RunFolder
    from tclora.pipeline.stages.cluster import read_cluster_record
    from tclora.reporting import n_clusters_table

    choice = read_cluster_record(RunFolder(result.folder)).choice
    if choice is not None:
        show_table("How many clusters", *n_clusters_table(choice))
        typer.echo(choice.reasons)


def _embedded_words(result) -> str:
    facts = _embedded(result)
    if not facts:
        return ""
    rate = f"{facts['texts_per_s']:,} texts/s, " if facts["texts_per_s"] else ""
    return f"{facts['n']:,} texts x {facts['d']} {facts['dtype']}, {facts['bytes']:,} bytes, {rate}"


def _stage_command(stage: str):
    def command(
        config: Config,
        set_: Overrides = None,
        seed: Seed = None,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        run_until(config, stage, set_ or [], seed=seed, dry_run=dry_run, as_json=as_json, quiet=quiet)

    return command


def _show_plan(plan: dict[str, object], as_json: bool) -> None:
    if as_json:
        return emit_json(plan)
    for key, value in plan.items():
        typer.echo(f"{key:<22} {value}")
