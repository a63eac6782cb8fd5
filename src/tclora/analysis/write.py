"""An analysis as files: everything as JSON, three tables as CSV, and a page that says what the columns mean.

In: an `Analysis` and a folder that is being staged. Out: `analysis.json`, `modules.csv`, `pairs.csv`, `adapters.csv`
and `README.md`. Equal analyses give equal bytes. An undefined figure is `null`, or an empty cell.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from tclora.analysis.definitions import ADAPTER_COLUMNS, CP_COLUMNS, MODULE_COLUMNS, PAIR_COLUMNS
from tclora.analysis.records import Analysis, PairFigures
from tclora.artifacts import write_bytes, write_json
from tclora.errors import printable
from tclora.records import to_json

__all__ = ["ANALYSIS_FILES", "fill_analysis_folder"]

ANALYSIS_FILES = ("README.md", "adapters.csv", "analysis.json", "modules.csv", "pairs.csv")

_TABLES = {
    "modules.csv": ("one row per module", MODULE_COLUMNS | {f"cp_{key}": text for key, text in CP_COLUMNS.items()}),
    "pairs.csv": ("one row per module and pair of adapters, then one per pair over all modules", PAIR_COLUMNS),
    "adapters.csv": ("one row per module and adapter", ADAPTER_COLUMNS),
}


def fill_analysis_folder(analysis: Analysis, folder: Path, *, command: str = "") -> None:
    """Write all files of an analysis into `folder`."""
    write_json(folder / "analysis.json", to_json(analysis))
    tables = {"modules.csv": _modules(analysis), "pairs.csv": _pairs(analysis), "adapters.csv": _adapters(analysis)}
    for name, rows in tables.items():
        write_bytes(folder / name, _csv(_TABLES[name][1], rows))
    write_bytes(folder / "README.md", _page(analysis, command).encode())


def _modules(analysis: Analysis) -> Iterable[Mapping[str, object]]:
    for module in analysis.modules:
        cp = {} if module.cp is None else {f"cp_{key}": getattr(module.cp, key) for key in CP_COLUMNS}
        yield {key: getattr(module, key) for key in MODULE_COLUMNS} | cp


def _pairs(analysis: Analysis) -> Iterable[Mapping[str, object]]:
    for module in analysis.modules:
        yield from (_pair(module.module, pair) for pair in module.pairs)
    yield from (_pair("", pair) for pair in analysis.pairs)


def _pair(module: str, pair: PairFigures) -> dict[str, object]:
    figures: dict[str, object] = {key: getattr(pair, key) for key in PAIR_COLUMNS if key != "module"}
    return {"module": module} | figures


def _adapters(analysis: Analysis) -> Iterable[Mapping[str, object]]:
    for module in analysis.modules:
        for adapter in module.adapters:
            fields = {key: getattr(adapter, key) for key in ADAPTER_COLUMNS if key != "module"}
            yield {"module": module.module} | fields


def _csv(columns: Mapping[str, str], rows: Iterable[Mapping[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _page(analysis: Analysis, command: str) -> str:
    rank = "no CP model" if analysis.cp_rank is None else f"CP rank {analysis.cp_rank}"
    lines = [
        "# Analysis of adapters",
        "",
        f"{len(analysis.adapters)} adapters, {analysis.n_modules} modules, {rank}, seed {analysis.seed}.",
        "An empty cell, or `null` in `analysis.json`, is a figure that is not defined there. The JSON file holds all.",
        "",
        *(f"- {printable(name)}" for name in analysis.adapters),
    ]
    for name, (what, columns) in _TABLES.items():
        rows = [f"| `{key}` | {text.replace('|', chr(92) + '|')} |" for key, text in columns.items()]
        lines += ["", f"## {name}: {what}", "", "| column | meaning |", "|---|---|", *rows]
    if command:
        lines += ["", "## Command", "", "```", printable(command).replace("`", "'"), "```"]
    return "\n".join(lines) + "\n"
