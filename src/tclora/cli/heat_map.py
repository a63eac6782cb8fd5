"""A grid of numbers on stdout: colored cells on a terminal, aligned plain text elsewhere."""

import sys
from collections.abc import Mapping, Sequence

__all__ = ["show_heat_map"]

Values = Mapping[tuple[str, str], float | None]


def show_heat_map(title: str, rows: Sequence[str], columns: Sequence[str], values: Values) -> None:
    """Print the grid; a cell with no value stays empty. Colors run from the lowest to the highest value shown."""
    if sys.stdout.isatty():
        return _colored(title, rows, columns, values)
    widths = [max(len(column), 6) for column in columns]
    label = max(5, *(len(row) for row in rows))
    lines = [title, f"{'layer':<{label}}" + _row(columns, widths)]
    lines += [f"{row:<{label}}" + _row([_text(values.get((row, c))) for c in columns], widths) for row in rows]
    sys.stdout.write("\n" + "\n".join(line.rstrip() for line in lines) + "\n")


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _colored(title: str, rows: Sequence[str], columns: Sequence[str], values: Values) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    known = [value for value in values.values() if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    table = Table(title=f"{title} ({_text(low)} to {_text(high)})", title_justify="left", title_style="bold", box=None)
    table.add_column("layer")
    for column in columns:
        table.add_column(Text(column), justify="right")
    for row in rows:
        cells = [values.get((row, column)) for column in columns]
        table.add_row(Text(row), *(Text(f" {_text(x)} ", style=_style(x, low, high)) for x in cells))
    Console().print(table)


def _style(value: float | None, low: float, high: float) -> str:
    """White through yellow to dark red; black or white letters, whichever can be read."""
    if value is None:
        return ""
    heat = (value - low) / (high - low) if high > low else 0.0
    green, blue = int(245 - 205 * heat), int(max(0.0, 220 - 420 * heat))
    return f"{'white' if heat > 0.6 else 'black'} on rgb({int(250 - 60 * heat)},{green},{blue})"


def _text(value: float | None) -> str:
    # Rounded first, so that no zero has a sign.
    return "" if value is None else f"{round(value, 3) + 0.0:.3f}"
