"""`tclora extend`: new examples into a library, training only what changes."""

from typing import Annotated

import typer

from tclora.cli.console import emit_json, progress_for, show_table

__all__ = ["extend"]


def extend(
    library: Annotated[str, typer.Argument(help="A run folder, or an import with clusters.")],
    data: Annotated[list[str], typer.Argument(help="Files of new examples.")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="Extend a copy instead of the library.")] = None,
    threshold: Annotated[
        str, typer.Option(help="Above it an example is far: a distance, or pN of the cluster's training distances.")
    ] = "p99",
    min_size: Annotated[int, typer.Option(help="Fewer far examples than this open no cluster.")] = 20,
    new_clusters: Annotated[
        int | None, typer.Option(help="Open so many clusters; as many as needed without it.")
    ] = None,
    only_new: Annotated[bool, typer.Option("--only-new", help="Train new clusters only; the others wait.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting of the library: a.b=value.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show where the examples would go; writes nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks.")] = False,
) -> None:
    """Add new examples to a library: assign them, open clusters for what is new, train and merge what changed.

    Killed at any point and started again, it goes on; the old library is whole until the new one is.
    """
    from tclora.pipeline.extension.assign import AssignSettings
    from tclora.pipeline.extension.extend import ExtendRequest, extend_library, plan_extension

    request = ExtendRequest(
        library=library,
        data=tuple(data),
        out=out,
        assign=AssignSettings(threshold=threshold, min_size=min_size, new_clusters=new_clusters),
        only_new=only_new,
        overrides=tuple(set_ or ()),
    )
    told = progress_for(quiet)
    record = plan_extension(request, told) if dry_run else extend_library(request, told)
    if as_json:
        from tclora.records import to_json

        return emit_json(to_json(record) | {"library": out or library, "dry_run": dry_run})
    _show(record, out or library, dry_run)


def _show(record, library: str, dry_run: bool) -> None:
    typer.echo(
        f"{record.n_given} examples given, {record.n_known} known, {record.n_train} to train, {record.n_dev} dev"
    )
    if record.already:
        return typer.echo("the library holds all of them already; nothing was done")
    header = ("cluster", "had", "new", "dev", "far", "threshold", "median", f"distances 0 to {record.largest:.2f}")
    show_table(
        f"far: {record.n_far}, by {record.threshold}",
        header,
        [_cells(share, record.largest) for share in record.shares],
    )
    if dry_run:
        return typer.echo(f"would open {len(record.opened)} clusters: {', '.join(record.opened) or 'none'}")
    for label, names in (("opened", record.opened), ("retrained", record.retrained), ("merged", record.merged)):
        typer.echo(f"{label:<10} {', '.join(names) or 'none'}")
    typer.echo(f"library    {library}")


def _cells(share, largest: float) -> list[str]:
    from tclora.pipeline.extension.record import histogram_line

    return [
        share.name + (" (new)" if share.is_new else ""),
        str(share.n_before),
        str(share.n_train),
        str(share.n_dev),
        str(share.n_far),
        "–" if share.threshold is None else f"{share.threshold:.3f}",
        "–" if share.median is None else f"{share.median:.3f}",
        histogram_line(share, largest),
    ]
