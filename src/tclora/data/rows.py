"""From a file to its rows: JSON lines, a JSON array, CSV, TSV or Parquet, told apart by the file's name.

A row is a mapping with the place it came from (`file:line`). A `.json` file may hold an array or one row per line, as
many published data sets do. Refused: an unknown ending, a row that is not an object, JSON that is broken or nested too
deeply, a table with doubled or missing column names or a row of another width, a file with no rows.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tclora.data.files import peek, read_lines, read_whole
from tclora.errors import DataError, MissingExtraError

__all__ = ["Row", "json_rows", "read_rows", "stem"]

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the file has it."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path, *, allow_empty: bool = False) -> Iterator[Row]:
    """Yield the rows of a data file in order; blank lines are no rows.

    Raises:
        DataError: the file cannot be read as rows, or has none and `allow_empty` is false; names file and line.
        MissingExtraError: a Parquet file without pyarrow.
    """
    empty = True
    for row in _reader(path):
        empty = False
        yield row
    if empty and not allow_empty:
        raise DataError("the data file has no rows", where=path)


def json_rows(path: Path, *, start: int = 0, stop: int | None = None) -> Iterator[Row]:
    """Yield rows `start` to `stop` of a file of JSON lines; those before `start` are not parsed."""
    held = ((number, line.strip()) for number, line in read_lines(path) if not line.isspace() and line)
    for number, line in islice(held, start, stop):
        where = f"{path}:{number}"
        value, end = _json_value(line, 0, where)
        if end != len(line):
            raise _broken(where, "more than one value on the line")
        yield _row(where, value)


def stem(path: Path) -> str:
    """The file's name without `.gz` and without its data ending."""
    return Path(path.name.removesuffix(".gz")).stem


def _reader(path: Path) -> Iterator[Row]:
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending == ".json":
        return _json_array(path) if peek(path) == "[" else json_rows(path)
    if ending in (".jsonl", ".ndjson"):
        return json_rows(path)
    if ending in (".csv", ".tsv"):
        return _table(path, "\t" if ending == ".tsv" else ",")
    if path.suffix == ".parquet":
        return _parquet(path)
    raise DataError(
        "a data file's name does not tell what it holds",
        where=path,
        found=path.suffix or "no ending",
        expected=", ".join(ENDINGS) + "; all but .parquet also with .gz",
    )


def _json_array(path: Path) -> Iterator[Row]:
    text = read_whole(path)
    at, line = _skip(text, text.index("[") + 1), 1
    counted = 0
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path}:{line}"
        value, at = _json_value(text, at, where)
        yield _row(where, value)
        at = _skip(text, at)
        if text[at : at + 1] not in (",", "]"):
            raise _broken(where, "no comma or closing bracket after the row")
        at = _skip(text, at + 1) if text[at] == "," else at
    if at >= len(text) or text[_skip(text, at + 1) :]:
        raise _broken(str(path), "the array is not closed, or something follows it")


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    reader = csv.reader((line + "\n" for _, line in read_lines(path)), delimiter=delimiter, strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not columns:
                columns = _columns(cells, where)
            elif cells:
                yield Row(where, dict(zip(columns, _cells(cells, columns, where), strict=True)))
    except csv.Error as error:
        where = f"{path}:{reader.line_num}"
        raise DataError(
            "the table cannot be read", where=where, found=str(error), do="check the quotes, or write JSON lines"
        ) from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(
            "Parquet files need pyarrow", where=path, do="pip install 'tclora[library]', or convert to JSON lines"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=256, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:row {number}", values)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        found = str(error).split("\n")[0][:200]
        raise DataError("the Parquet file cannot be read", where=path, found=found) from None


def _json_value(text: str, at: int, where: str) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _broken(where, f"{error.msg} at character {error.pos - at + 1} of the row") from None
    except RecursionError:
        raise _broken(where, "nested too deeply") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise _broken(where, str(error)) from None


def _broken(where: str, found: str) -> DataError:
    return DataError(
        "the JSON cannot be read",
        where=where,
        found=found,
        expected="one object on each line (.jsonl), or an array of objects (.json)",
    )


def _row(where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise DataError("a row is not a JSON object", where=where, found=type(value).__name__)
    return Row(where, value)


def _columns(cells: list[str], where: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if len(set(columns)) < len(columns) or "" in columns:
        raise DataError("the table's first line does not name its columns", where=where, found=", ".join(columns)[:200])
    return columns


def _cells(cells: list[str], columns: list[str], where: str) -> list[str]:
    if len(cells) != len(columns):
        raise DataError(
            "a table row has the wrong width", where=where, found=f"{len(cells)} cells", expected=f"{len(columns)}"
        )
    return cells


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
