"""An analysis as files: everything as JSON, three tables as CSV, and a page that says what the columns mean.

In: an `Analysis` and a folder that is being staged. Out: `analysis.json`, `modules.csv`, `pairs.csv`, `adapters.csv`
and `README.md`. Equal analyses give equal bytes. An undefined figure is `null`, or an empty cell.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path

from tclora.analysis.definitions import ADAPTER_COLUMNS, CP_COLUMNS, MODULE_COLUMNS, PAIR_COLUMNS
from tclora.analysis.records import Analysis
from tclora.artifacts import write_bytes
from tclora.errors import printable

__all__ = ["ANALYSIS_FILES", "fill_analysis_folder"]

ANALYSIS_FILES = ("README.md", "adapters.csv", "analysis.json", "modules.csv", "pairs.csv")

_TABLES = {
    "modules.csv": ("one row per module", MODULE_COLUMNS | {f"cp_{key}": text for key, text in CP_COLUMNS.items()}),
    "pairs.csv": ("one row per module and pair of adapters, then one per pair over all modules", PAIR_COLUMNS),
    "adapters.csv": ("one row per module and adapter", ADAPTER_COLUMNS),
}


def fill_analysis_folder(analysis: Analysis, folder: Path, *, command: str = "") -> None:
    """Write all files of an analysis into `folder`."""
    write_bytes(folder / "analysis.json", _json(analysis))
    tables = {"modules.csv": _modules(analysis), "pairs.csv": _pairs(analysis), "adapters.csv": _adapters(analysis)}
    for name, rows in tables.items():
        write_bytes(folder / name, _csv(_TABLES[name][1], rows))
    write_bytes(folder / "README.md", _page(analysis, command).encode())


def _json(analysis: Analysis) -> bytes:
    """Strict JSON of the record, a module to a line: with an indent it would take longer than the analysis."""
    fields = dict(vars(analysis))
    modules = ",\n".join(_line(module) for module in fields.pop("modules"))
    head = ",\n".join(f"{_line(key)}: {_line(value)}" for key, value in fields.items())
    return f'{{\n{head},\n"modules": [\n{modules}\n]\n}}\n'.encode()


def _line(value: object) -> str:
    # A record is written as its fields; tuples become lists.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=vars)


_Rows = Iterable[tuple[object, ...]]


def _modules(analysis: Analysis) -> _Rows:
    figures, of_cp = attrgetter(*MODULE_COLUMNS), attrgetter(*CP_COLUMNS)
    none = (None,) * len(CP_COLUMNS)
    return ((*figures(module), *(none if module.cp is None else of_cp(module.cp))) for module in analysis.modules)


def _pairs(analysis: Analysis) -> _Rows:
    figures = attrgetter(*(key for key in PAIR_COLUMNS if key != "module"))
    for module in analysis.modules:
        yield from ((module.module, *figures(pair)) for pair in module.pairs)
    yield from (("", *figures(pair)) for pair in analysis.pairs)


def _adapters(analysis: Analysis) -> _Rows:
    figures = attrgetter(*(key for key in ADAPTER_COLUMNS if key != "module"))
    for module in analysis.modules:
        yield from ((module.module, *figures(adapter)) for adapter in module.adapters)


def _csv(columns: Mapping[str, str], rows: _Rows) -> bytes:
    """A header and the rows; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
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
