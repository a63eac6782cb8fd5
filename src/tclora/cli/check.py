"""`tclora check`: what is in an adapter, what would be refused, and why."""

from typing import Annotated

import typer

from tclora.cli.console import emit_json

__all__ = ["check"]


def check(
    adapters: Annotated[list[str], typer.Argument(help="PEFT folders or Hub ids.")],
    base: Annotated[str | None, typer.Option(help="Check against this base's config and headers.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """Say what adapters hold and what would be refused, alone and together; exit status 2 if anything would be."""
    from dataclasses import asdict

    from tclora.errors import printable
    from tclora.pipeline.check_folders import check_folders

    result = check_folders(adapters, base=base)
    if as_json:
        emit_json(asdict(result) | {"passed": result.passed})
    else:
        for summary in result.summaries:
            _show(summary)
        for refusal in result.refusals:
            typer.echo(f"refused together\n{refusal}")
        for warning in result.warnings:
            typer.echo(f"warning: {printable(warning)}")
    raise typer.Exit(0 if result.passed else 2)


def _show(summary) -> None:
    from dataclasses import asdict

    from tclora.errors import printable

    facts = asdict(summary)
    typer.echo(printable(facts.pop("name")))
    refusals, notes = facts.pop("refusals"), facts.pop("notes")
    for key, value in facts.items():
        typer.echo(f"  {key:<14} {printable(_words(value))}")
    for note in notes:
        typer.echo(f"  note           {printable(note)}")
    for refusal in refusals:
        typer.echo("  refused        " + refusal.replace("\n", "\n  "))
    if not refusals:
        typer.echo("  accepted")


def _words(value) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    return "not stated" if value is None else str(value)
