"""`tclora quickstart`: the whole pipeline on the bundled base model and tasks."""

from pathlib import Path
from typing import Annotated

import typer

from tclora.cli.console import progress_for
from tclora.cli.run import show_result

__all__ = ["quickstart"]


def quickstart(
    out: Annotated[str, typer.Option("--out", "-o", help="The run folder.")] = "quickstart",
    seed: Annotated[int, typer.Option(help="Seed of tasks, clusters and training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start afresh: remove the run folder first.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """See it work: data to one proven merged adapter in about two minutes, offline, on two cores."""
    import shlex
    import sys

    from tclora.pipeline.quickstart import quickstart_config
    from tclora.pipeline.run import run_pipeline

    folder = Path(out)
    command = shlex.join(["tclora", *sys.argv[1:]])
    config = quickstart_config(folder, seed=seed)
    result = run_pipeline(config, command=command, overwrite=overwrite, progress=progress_for(quiet))
    show_result(result, as_json)
