"""Text of unknown origin as Markdown that shows it and nothing else.

In: text and tables of text. Out: Markdown. Instructions, terms and names come from users' files, so every character
with a meaning in Markdown or HTML is made harmless, and line breaks cannot end a table row.
"""

import re
from collections.abc import Sequence

from tclora.errors import ShapeError, printable

__all__ = ["bullets", "code_block", "escape", "table"]

# An underscore between two letters or digits opens nothing, so names such as `tc_lora` stay readable.
# A bracket is part of a link, image, footnote or definition only beside these, so intervals stay readable too.
_SPECIAL = re.compile(r"[\\`*|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[\[(:])|\[(?=\^)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# A bare address would become a link.
_ADDRESS = re.compile(r"(?i)\b(?:https?|ftp|mailto):|\bwww\.|(?<=\w)@(?=\w)")
# What would begin a heading, a list item, a task or a definition at the start of a line.
_LINE_START = re.compile(r"^(?:\d{1,9})?[-+=#.)](?=\s|[-=#]|$)|^\[")
_NUMERIC = re.compile(r"^(-?\d.*|-)?$")


def escape(text: str) -> str:
    """Make any text safe inside a Markdown paragraph or list item, on one line."""
    return _LINE_START.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", _inline(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of plain text; every cell is escaped, and columns of numbers are right-aligned.

    Raises:
        ShapeError: a row has another number of cells than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ShapeError("a table row does not fit its header", found=len(row), expected=len(header))
    columns = [[row[i] for row in rows] for i in range(len(header))]
    rule = ["--:" if all(_NUMERIC.match(cell) for cell in column) else "---" for column in columns]
    lines = [[_inline(cell) for cell in header], rule, *[[_inline(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bullets(items: Sequence[str]) -> str:
    """A Markdown list of plain text, each item on one line."""
    return "\n".join(f"- {escape(item)}" for item in items)


def code_block(text: str, language: str = "") -> str:
    """A fenced block whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def _inline(text: str) -> str:
    marked = _SPECIAL.sub(lambda match: "\\" + match[0], printable(" ".join(text.split())))
    plain = "".join(_ENTITIES.get(character, character) for character in marked)
    return _ADDRESS.sub(lambda match: f"{match[0][:-1]}&#{ord(match[0][-1])};", plain)
