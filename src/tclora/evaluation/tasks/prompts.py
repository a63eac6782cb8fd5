"""A prompt with the names of columns in braces, filled from rows.

In: a text such as `Question: {question}\\nAnswer:`. Out: a `Template`. Braces are doubled to stand for themselves. A
name is a column's and nothing more: no attribute, index or format is read, so a template cannot reach into values.
Refused: braces that do not pair, empty names, and format marks behind a name.
"""

import string
from dataclasses import dataclass

from tclora.data.formats import as_text
from tclora.data.rows import Row
from tclora.errors import ConfigError

__all__ = ["Template", "parse_template"]


@dataclass(frozen=True)
class Template:
    """Pieces of text, each with the column that follows it (None at the end)."""

    pieces: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the prompt names."""
        return tuple(column for _, column in self.pieces if column is not None)

    def fill(self, row: Row) -> str:
        """The prompt of one row.

        Raises:
            DataError: the row lacks a column, or holds something else than text in it.
        """
        return "".join(text + ("" if column is None else as_text(row, column)) for text, column in self.pieces)


def parse_template(text: str, *, where: str) -> Template:
    """Read a prompt with columns in braces.

    Raises:
        ConfigError: braces do not pair, or hold something else than a column's name.
    """
    do = "write {column} for a column, and {{ or }} for a brace"
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(
            "the prompt's braces do not pair", where=f"{where}, prompt", found=str(error), do=do
        ) from None
    for _, name, spec, conversion in parsed:
        if name is not None and (not name.strip() or spec or conversion):
            found = f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
            raise ConfigError("the prompt holds no plain column name", where=f"{where}, prompt", found=found, do=do)
    return Template(tuple((before, name) for before, name, _, _ in parsed))
