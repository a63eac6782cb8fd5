"""`tclora library`: make a library from adapter folders, look at it, rename and remove adapters."""

from typing import Annotated, Any

import typer

from tclora.cli.console import emit_json, progress_for, show_table

__all__ = ["library_app"]

library_app = typer.Typer(
    help="A library of adapters: a run folder, or the output of `library import`.", no_args_is_help=True
)

Library = Annotated[str, typer.Argument(help="A run folder, or an imported library.")]
Name = Annotated[str, typer.Argument(help="An adapter of the library.")]
AsJson = Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress; warnings still.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks.")]


@library_app.command("import")
def import_(
    sources: Annotated[list[str], typer.Argument(help="PEFT folders, NAME=FOLDER, or an export of export-jobs.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The library to make.")],
    clusters: Annotated[str | None, typer.Option(help="A run's cluster folder: RUN/cluster.")] = None,
    add: Annotated[bool, typer.Option("--add", help="Add to the library at OUT.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make adapter folders, of any trainer, a library; refuses what the merger would refuse."""
    from tclora.pipeline.libraries.edit import list_library
    from tclora.pipeline.libraries.import_folders import ImportRequest, import_library

    request = ImportRequest(tuple(sources), out, clusters=clusters, add=add)
    library = import_library(request, progress_for(quiet))
    _show_rows(list_library(library.root), out, as_json)


@library_app.command("list")
def list_(library: Library, as_json: AsJson = False, debug: Debug = False) -> None:
    """Every adapter: cluster, rank, modules, examples, dev loss, size, digest."""
    from tclora.pipeline.libraries.edit import list_library

    _show_rows(list_library(library), library, as_json)


@library_app.command("show")
def show(library: Library, name: Name, as_json: AsJson = False, debug: Debug = False) -> None:
    """All that is known of one adapter: files, training, and its cluster's words, examples and tasks."""
    from tclora.pipeline.libraries.edit import show_adapter

    facts = show_adapter(library, name)
    if as_json:
        return emit_json(facts)
    cluster, training = facts.pop("cluster"), facts.pop("training")
    for key, value in {**facts, **training}.items():
        typer.echo(f"{key:<14} {_plain(value)}")
    if cluster is None:
        return typer.echo("cluster        none")
    typer.echo(f"cluster        {cluster['index']}: {cluster['n_train']} training and {cluster['n_dev']} dev examples")
    typer.echo(f"words          {', '.join(cluster['top_terms'])}")
    typer.echo(f"tasks          {', '.join(f'{task} {n}' for task, n in list(cluster['tasks'].items())[:10])}")
    for line in cluster["nearest"]:
        typer.echo(f"nearest        {line}")


@library_app.command("rename")
def rename(
    library: Library,
    old: Name,
    new: Annotated[str, typer.Argument(help="Its new name.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Give an adapter another name. No file moves."""
    from tclora.pipeline.libraries.edit import rename_adapter

    rename_adapter(library, old, new)
    emit_json({"library": library, "old": old, "new": new}) if as_json else typer.echo(f"{old} is now {new}")


@library_app.command("remove")
def remove(library: Library, name: Name, as_json: AsJson = False, debug: Debug = False) -> None:
    """Take an adapter out of the library. Other adapters, clusters and numbers stay as they are."""
    from tclora.pipeline.libraries.edit import remove_adapter

    gone = remove_adapter(library, name)
    if as_json:
        return emit_json({"library": library, "removed": name, "files_removed": gone})
    typer.echo(f"removed {name}" + ("" if gone else "; its files stay, for the run that owns them"))


def _show_rows(rows, library: str, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        return emit_json({"library": library, "adapters": [asdict(row) for row in rows]})
    header = ("adapter", "cluster", "rank", "modules", "examples", "dev loss", "size", "sha256", "")
    show_table(f"{library}: {len(rows)} adapters", header, [_cells(row) for row in rows])


def _cells(row) -> list[str]:
    ranks = "–" if not row.ranks else str(row.ranks[0]) if len(row.ranks) == 1 else f"{row.ranks[0]}–{row.ranks[-1]}"
    state = "" if row.state == "whole" else row.state
    waiting = f"{row.n_waiting} waiting" if row.n_waiting else ""
    return [
        row.name,
        _plain(row.cluster),
        ranks,
        str(row.n_modules),
        _plain(row.n_examples),
        "–" if row.dev_loss is None else f"{row.dev_loss:.3f}",
        f"{row.bytes / 2**20:.1f} MiB",
        row.sha256[:12],
        ", ".join(filter(None, (state, waiting))),
    ]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "–" if value is None else str(value)
