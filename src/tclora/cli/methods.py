"""`tclora methods`: every merge method in one table."""

from typing import Annotated

import typer

from tclora.cli.console import emit_json, show_table

__all__ = ["methods"]


def methods(as_json: Annotated[bool, typer.Option("--json", help="One last line of JSON on stdout.")] = False) -> None:
    """List the merge methods: what each does, its source, what it needs and what it leaves."""
    import dataclasses

    from tclora.merging import MERGE_METHODS

    rows = []
    for entry in MERGE_METHODS.entries():
        kind = entry.facts["params"]
        fields = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
        # What a method learned is passed in by the program, not set on the command line.
        params = {field.name: field.default for field in fields if field.metadata.get("recorded", True)}
        rows.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "source": entry.source,
                "needs": entry.facts["needs"],
                "leaves": entry.facts["leaves"],
                "params": params,
            }
        )
    if as_json:
        return emit_json({"methods": rows})
    table = [[r["name"], r["summary"], r["source"], r["needs"], r["leaves"], _params(r["params"])] for r in rows]
    show_table("Merge methods", ["method", "what it does", "source", "needs", "leaves", "parameters"], table)


def _params(params: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items()) or "none"
