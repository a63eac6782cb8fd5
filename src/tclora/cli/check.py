"""`tclora check`: what is in an adapter, what would be refused and why; which servers take it, and a copy they take.

Exit status without `--target`: 0, or 2 if an adapter would be refused. With it also 1: the adapter is sound, and a
server would refuse it or serve another delta. With `--fix`: 0 once every copy is written.
"""

from typing import Annotated

import typer

from tclora.cli.console import emit_json
from tclora.errors import ConfigError

__all__ = ["check"]

_STATUS_UNSERVED, _STATUS_REFUSED = 1, 2


def check(
    adapters: Annotated[list[str], typer.Argument(help="PEFT folders or Hub ids.")],
    base: Annotated[str | None, typer.Option(help="Check against this base's config and headers.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="peft, vllm, sglang, llama.cpp or all; repeatable.")] = None,
    max_rank: Annotated[int | None, typer.Option(help="The servers' own limit, as in --max-lora-rank.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write a copy that loads to -o OUT.")] = False,
    out: Annotated[str | None, typer.Option("--out", "-o", help="With --fix: the folder to write.")] = None,
    rank: Annotated[int | None, typer.Option(help="With --fix: the rank to write, padding or cutting.")] = None,
    dtype: Annotated[str | None, typer.Option(help="With --fix: bf16 (the default), fp16 or fp32.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --fix: replace an existing adapter.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """Say what adapters hold, what would be refused, alone, together or by servers, and why."""
    from tclora.pipeline.checks.fix import FixRequest, fix_folders
    from tclora.pipeline.checks.folders import check_folders

    given = {"-o": out, "--rank": rank, "--dtype": dtype, "--overwrite": overwrite or None}
    _check_options(fix, given)
    targets = tuple(target or (["all"] if fix else []))
    result = check_folders(adapters, base=base, targets=targets, max_rank=max_rank)
    if not as_json:
        _show(result)
    copies = ()
    if fix:
        request = FixRequest(
            adapters=tuple(adapters),
            out=str(out),
            targets=targets,
            max_rank=max_rank,
            rank=rank,
            dtype=dtype or "bf16",
            base=base,
            overwrite=overwrite,
        )
        copies = fix_folders(request)
    if as_json:
        _emit(result, copies)
    else:
        for copy in copies:
            _show_copy(copy)
    raise typer.Exit(0 if fix else _status(result))


def _check_options(fix: bool, given: dict[str, object]) -> None:
    if fix and given["-o"] is None:
        raise ConfigError("no output is named", where="tclora check --fix", do="add -o OUT")
    stray = [name for name, value in given.items() if value is not None]
    if not fix and stray:
        raise ConfigError(f"{stray[0]} needs --fix", where="tclora check", do="add --fix, or leave it out")


def _status(result) -> int:
    if not result.passed:
        return _STATUS_REFUSED
    return 0 if result.served else _STATUS_UNSERVED


def _emit(result, copies) -> None:
    from dataclasses import asdict

    facts = asdict(result) | {"passed": result.passed, "served": result.served if result.targets else None}
    emit_json(facts | {"copies": [asdict(copy) for copy in copies]})


def _show(result) -> None:
    from tclora.errors import printable

    for index, summary in enumerate(result.summaries):
        _show_summary(summary)
        # Reports stand in the order of the adapters, as many for each.
        per_adapter = len(result.targets) // len(result.summaries)
        for report in result.targets[index * per_adapter : (index + 1) * per_adapter]:
            _show_report(report)
    for refusal in result.refusals:
        typer.echo(f"refused together\n{refusal}")
    for warning in result.warnings:
        typer.echo(f"warning: {printable(warning)}")


def _show_summary(summary) -> None:
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


def _show_report(report) -> None:
    words = {"loads": "loads it", "refuses": "refuses it", "ignores": "loads it wrong", "unreadable": "not checked"}
    typer.echo(f"  {report.target:<14} {words[report.verdict]}")
    for finding in report.findings:
        _show_finding(finding)


def _show_finding(finding) -> None:
    from tclora.errors import printable

    typer.echo(f"    {finding.severity:<12} {printable(f'{finding.what}: {finding.found}')}")
    typer.echo(f"    {'':<12} expected {printable(finding.expected)}; {printable(finding.do)}")


def _show_copy(copy) -> None:
    from tclora.errors import printable

    typer.echo(printable(f"{copy.adapter} -> {copy.out} (rank {copy.rank}, {copy.dtype})"))
    for line in copy.fixed:
        typer.echo(f"  put right      {printable(line)}")
    cut = f"{copy.n_cut} modules, at worst {copy.cut_error:.3g} of {copy.cut_module}" if copy.n_cut else "nothing"
    typer.echo(f"  cut            {printable(cut)}")
    typer.echo(f"  distance       {copy.distance:.1e} from the source at worst, rounding included")
    for flag in copy.flags:
        typer.echo(f"  start with     {flag}")
    for finding in copy.findings:
        _show_finding(finding)


def _words(value) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    return "not stated" if value is None else str(value)
