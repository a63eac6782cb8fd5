"""Files in, examples out; and back: one canonical JSON-lines file with the same bytes for the same examples."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tclora.artifacts import write_bytes
from tclora.data.example import Example
from tclora.data.files import expand_paths, read_lines
from tclora.data.formats import FORMATS, Format, detect
from tclora.data.rows import Row, json_rows, read_rows
from tclora.errors import ArtifactError, ConfigError, DataError, UnknownNameError

__all__ = ["count_examples", "iter_examples", "read_examples", "write_examples"]

_COLUMNS = frozenset(
    {"instruction", "input", "output", "task", "task_name", "history", "messages", "conversations"}
    | {"prompt", "completion", "source", "target", "text"}
)


def read_examples(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    require_output: bool = True,
    allow_empty: bool = False,
) -> list[Example]:
    """Read instruction examples, in the order of the paths and of the rows in them.

    Args:
        format: a name of `FORMATS`; `auto` tells it for each file from the columns of its first row.
        fields: our column names to the files'. A file whose first row has none of those columns is read as it is.
        require_output: refuse rows without an output; without it a prompt alone is an example.
        allow_empty: take a file without rows for no examples, rather than for a mistake.

    Raises:
        DataError: a file or a row cannot be read; names file, line and column.
        ConfigError: the format or a name in `fields` is unknown.
    """
    if format != "auto" and format not in FORMATS:
        raise UnknownNameError(f"there is no data format called '{format}'", expected="auto, " + ", ".join(FORMATS))
    renames = _checked(fields or {})
    rows = (read_rows(path, allow_empty=allow_empty) for path in expand_paths(paths))
    kind = FORMATS.get(format)
    return [example for file in rows for example in _parsed(file, kind, renames, require_output)]


def iter_examples(path: str | Path, *, start: int = 0, stop: int | None = None) -> Iterator[Example]:
    """Stream examples `start` to `stop` of a file that `write_examples` wrote; one is held at a time.

    Raises:
        DataError: the file or a row of it cannot be read; names file and line.
    """
    (file,) = expand_paths(path)
    for row in json_rows(file, start=start, stop=stop):
        yield FORMATS["alpaca"].parse(row, True)


def count_examples(path: str | Path) -> int:
    """The number of examples in a file that `write_examples` wrote, counted without parsing them."""
    (file,) = expand_paths(path)
    return sum(1 for _, line in read_lines(file) if line and not line.isspace())


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as JSON lines in the alpaca format, `history` only where there is one.

    The file is replaced as a whole; `read_examples` gives the same examples back.

    Raises:
        DataError: a text cannot be written as UTF-8.
        ArtifactError: the file cannot be written.
    """
    try:
        write_bytes(path, "".join(_line(example) for example in examples).encode("utf-8"))
    except UnicodeEncodeError:
        raise DataError("an example holds half of a surrogate pair", where=path, expected="UTF-8 text") from None
    except OSError as error:
        raise ArtifactError("the examples cannot be written", where=path, found=error.strerror) from None


def _parsed(
    rows: Iterator[Row], kind: Format | None, renames: Mapping[str, str], require_output: bool
) -> Iterator[Example]:
    first = True
    for row in rows:
        if first:
            renames = renames if any(theirs in row.values for theirs in renames.values()) else {}
        renamed = _renamed(row, renames) if renames else row
        kind = kind or detect(renamed, require_output=require_output)
        first = False
        yield kind.parse(renamed, require_output)


def _checked(fields: Mapping[str, str]) -> Mapping[str, str]:
    for ours in fields:
        if ours not in _COLUMNS:
            raise ConfigError(
                f"data.fields maps a column tclora does not know: {ours}",
                found=f"{ours}: {fields[ours]}",
                expected="one of " + ", ".join(sorted(_COLUMNS)),
                do="write our name first, then the file's: {instruction: question, output: answer}",
            )
    return dict(fields)


def _renamed(row: Row, renames: Mapping[str, str]) -> Row:
    for ours, theirs in renames.items():
        if theirs not in row.values:
            raise DataError(
                f"a row has no '{theirs}'",
                where=row.where,
                found=", ".join(str(name) for name in row.values)[:200],
                expected=f"the column that data.fields maps to {ours}",
            )
    taken = set(renames.values())
    kept: dict[str, Any] = {name: value for name, value in row.values.items() if name not in taken}
    return Row(row.where, kept | {ours: row.values[theirs] for ours, theirs in renames.items()})


def _line(example: Example) -> str:
    row: dict[str, Any] = {
        "task": example.task,
        "instruction": example.instruction,
        "input": example.input,
        "output": example.output,
    }
    if not (example.instruction or example.input or example.history):
        row["plain"] = True
    if example.history:
        row["history"] = [{"role": turn.role, "content": turn.content} for turn in example.history]
    return json.dumps(row, ensure_ascii=False) + "\n"
