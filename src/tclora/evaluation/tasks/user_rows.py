"""What the right answer of a user's row is, by kind of task.

In: a row and the names of its columns. Out: the gold of an item. An answer to choices is read in this order: a whole
number is an index from 0; a text that equals a choice means it; a single letter counts from A; a text of digits is an
index (CSV has only text). Refused, with file and line: choices that are not two or more texts, an answer that is none
of them, an answer that is no number where one is asked.
"""

from typing import Any

from tclora.data.formats import as_text
from tclora.data.rows import Row
from tclora.errors import DataError
from tclora.evaluation.tasks.numbers import last_number, number_of
from tclora.evaluation.tasks.scorers import ChoiceGold

__all__ = ["choice_gold", "number_gold", "text_gold"]


def choice_gold(row: Row, columns: str | tuple[str, ...], answer: str) -> ChoiceGold:
    """The choices of a row, from one column with a list or a column for each, and the index of the right one."""
    choices = _choices(row, columns)
    value = row.values.get(answer)
    index = _index(value, choices)
    if index is None or not 0 <= index < len(choices):
        raise DataError(
            f"'{answer}' is none of the choices",
            where=row.where,
            found=repr(value)[:80],
            expected=f"a number from 0 to {len(choices) - 1}, a letter from A, or the text of a choice",
        )
    return ChoiceGold(choices, index)


def text_gold(row: Row, answer: str) -> tuple[str, ...]:
    """The right answers of a row: a text, or a list of texts that are each right."""
    value = row.values.get(answer)
    if not isinstance(value, list):
        texts = (as_text(row, answer),)
    elif value:
        texts = _each_text(row, answer, value)
    else:
        texts = ("",)
    if not all(text.strip() for text in texts):
        raise DataError(f"'{answer}' is empty", where=row.where, do="leave the row out, or give it an answer")
    return texts


def number_gold(row: Row, answer: str) -> float:
    """The number of a row: a number, a text that is one, or the number behind `####` in a worked solution."""
    value = row.values.get(answer)
    number = number_of(value)
    if number is None and isinstance(value, str) and "####" in value:
        number = last_number(value.rpartition("####")[2])
    if number is None:
        as_text(row, answer)
        raise DataError(
            f"'{answer}' is not a number",
            where=row.where,
            found=repr(value)[:80],
            expected="a finite number, or a text that ends in '#### <number>'",
        )
    return number


def _choices(row: Row, columns: str | tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(columns, str):
        texts = tuple(as_text(row, column) for column in columns)
    else:
        value = row.values.get(columns)
        if not isinstance(value, list):
            as_text(row, columns, optional=columns in row.values)
            raise DataError(
                f"'{columns}' is not a list of choices",
                where=row.where,
                found=repr(value)[:80],
                expected="a list of two or more texts",
                do="where each choice has a column of its own, name them all: choices: [first, second]",
            )
        texts = _each_text(row, columns, value)
    if len(texts) < 2 or not all(text.strip() for text in texts):
        raise DataError("a row needs two or more choices, none empty", where=row.where, found=repr(texts)[:80])
    return texts


def _each_text(row: Row, column: str, values: list[Any]) -> tuple[str, ...]:
    named = {f"{column}[{index}]": value for index, value in enumerate(values)}
    return tuple(as_text(Row(row.where, named), name) for name in named)


def _index(value: object, choices: tuple[str, ...]) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return value
    if not isinstance(value, str):
        return None
    if value in choices:
        return choices.index(value)
    word = value.strip()
    if word in (stripped := [choice.strip() for choice in choices]):
        return stripped.index(word)
    if len(word) == 1 and "A" <= word.upper() <= "Z":
        return ord(word.upper()) - ord("A")
    return int(word) if word.isascii() and word.isdecimal() and len(word) < 4 else None
