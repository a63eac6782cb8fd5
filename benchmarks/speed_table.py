"""The results of `methods.py` as a page of Markdown."""

from collections.abc import Mapping
from typing import Any

__all__ = ["markdown"]

Row = Mapping[str, Any]

HEAD = """# Every merge method beside its textbook form

One module of {d} × {d}, {n} made adapters of rank {r} (two for `slerp` and `nuslerp`), {threads} thread. The dense form
works on float64 matrices of the size in column *d*, smaller where it would take minutes; *there* is the package at that
size. *MB* is what the work took beside libraries and adapters. *Difference* is between the two results, relative; where
a method cuts a flat spectrum or ends in a local optimum the two may lie apart, and their own errors (smaller is better)
are what compares them.
"""

COLUMNS = (
    ("method", "---"),
    ("s", "--:"),
    ("MB", "--:"),
    ("d", "--:"),
    ("there s", "--:"),
    ("dense s", "--:"),
    ("ratio", "--:"),
    ("dense MB", "--:"),
    ("difference", "--:"),
    ("own error, dense", "---"),
    ("note", "---"),
)


def markdown(results: Row) -> str:
    """The page; every figure on it is in the JSON."""
    lines = [[name for name, _ in COLUMNS], [side for _, side in COLUMNS]]
    lines += [_cells(row) for row in results["rows"] if "dense" in row]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"{HEAD.format(**results)}\n{table}\n\n{_how(results)}\n"


def _cells(row: Row) -> list[str]:
    full, there, dense = row["ours"], row["ours_there"], row["dense"]
    ratio = row["time_ratio"]
    own = "" if dense["model_error"] is None else f"{there['model_error']:.4f}, {dense['model_error']:.4f}"
    return [
        f"`{row['method']}`",
        f"{full['wall_s']:.3f}",
        f"{full['raised_bytes'] / 1e6:.0f}",
        str(row["compared_at_d"]),
        f"{there['wall_s']:.3f}",
        f"{dense['wall_s']:.2f}",
        f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}",
        f"{dense['raised_bytes'] / 1e6:.0f}",
        f"{row['difference']:.0e}" if row["difference"] else "0",
        own,
        row["note"],
    ]


def _how(results: Row) -> str:
    machine, tree = results["machine"], " with changes not committed" if results["uncommitted"] else ""
    return (
        f"`{results['command']}`, {results['date']}, commit {results['commit']}{tree} "
        f"(sources {results['source_sha256']}), {machine['cpu']} ({machine['n_cpu']} cores, shared with other work), "
        f"torch {results['versions']['torch']}."
    )
