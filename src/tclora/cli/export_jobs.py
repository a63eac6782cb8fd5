"""`tclora export-jobs`: a run's clusters as data and ready configs for another trainer."""

from pathlib import Path
from typing import Annotated

import typer

from tclora.cli.console import emit_json, progress_for

__all__ = ["export_jobs"]


def export_jobs(
    config: Annotated[str, typer.Argument(help="The run's YAML file.")],
    trainer: Annotated[str, typer.Option("--for", help="axolotl, llama-factory or unsloth.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The folder to write.")],
    prompts: Annotated[
        str, typer.Option(help="rendered: finished text; messages: the trainer applies the chat template.")
    ] = "rendered",
    template: Annotated[str | None, typer.Option(help="With messages: the trainer's name for a template.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: a.b=value.")] = None,
    seed: Annotated[int | None, typer.Option(help="Override the config's seed.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; writes nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export without adapters.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """Write each cluster's data and a ready config for axolotl, LLaMA-Factory or unsloth."""
    from tclora.config import load_config
    from tclora.pipeline.exports.jobs import ExportRequest, check_request
    from tclora.pipeline.exports.jobs import export_jobs as export

    settings = load_config(Path(config), [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])])
    request = ExportRequest(trainer, out, prompts=prompts, template=template, overwrite=overwrite)
    if dry_run:
        from tclora.pipeline.dry_run import plan_run

        check_request(settings, request)
        plan = plan_run(settings, until="cluster") | {"out": out, "for": trainer, "prompts": prompts}
        return emit_json(plan) if as_json else _show(plan)
    record = export(settings, request, progress_for(quiet))
    if as_json:
        from dataclasses import asdict

        return emit_json(asdict(record) | {"out": out})
    _show({"out": out, "for": trainer, "clusters": len(record.adapters), "rows": record.counts["n_rows"]})
    typer.echo(f"train    {Path(out) / 'run_all.sh'}\nthen     tclora library import {out} -o LIBRARY")


def _show(facts: dict[str, object]) -> None:
    for key, value in facts.items():
        typer.echo(f"{key:<22} {value}")
