"""From a row to an `Example`: alpaca, messages, sharegpt, prompt_completion, flan and text.

`detect` tells the format by the columns of a file's first row, first match in the order of `FORMATS`; each parser then
holds every row of the file to it. Columns it does not know are ignored. Of a conversation, the last turn (the
assistant's) is the output, the user turn before it the instruction, and all before that `history`. A row of plain
text has no prompt; in our own files such a row is marked `plain`, so that a prompt lost by mistake is still refused.

Text must be text: whole and decimal numbers are written out, `null` is empty where a column is optional. Refused:
`null`, NaN, booleans, lists and objects where text is wanted; no prompt; no output; roles other than
system, user and assistant.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tclora.data.example import ROLES, Example, Turn
from tclora.data.rows import Row
from tclora.errors import DataError

__all__ = ["FORMATS", "Format", "as_text", "detect"]

_ROLE_OF = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True)
class Format:
    """One file format: the columns that give it away, the one that holds the output, and its parser."""

    name: str
    columns: tuple[str, ...]
    output: str | None
    parse: Callable[[Row, bool], Example]

    def fits(self, values: Mapping[str, Any], require_output: bool) -> bool:
        """Whether a row has the columns of this format."""
        needed = self.columns if require_output or self.output is None else self._prompt_columns()
        return all(column in values for column in needed)

    def _prompt_columns(self) -> tuple[str, ...]:
        return tuple(column for column in self.columns if column != self.output)


def detect(row: Row, *, require_output: bool) -> Format:
    """The format that the columns of a row give away.

    Raises:
        DataError: no format has these columns; the message shows how to map them.
    """
    for kind in FORMATS.values():
        if kind.fits(row.values, require_output):
            return kind
    raise DataError(
        "the columns fit no format tclora knows",
        where=row.where,
        found=", ".join(str(column) for column in row.values)[:200] or "no columns",
        expected="; ".join(f"{kind.name}: {', '.join(kind.columns)}" for kind in FORMATS.values()),
        do="map the columns, e.g. data.fields: {instruction: question, input: context, output: answer}",
    )


def as_text(row: Row, column: str, *, optional: bool = False) -> str:
    """The text in a column of a row; numbers are written out, `null` is empty where `optional`."""
    if column not in row.values and not optional:
        raise DataError(
            f"a row has no '{column}'",
            where=row.where,
            found=", ".join(str(name) for name in row.values)[:200] or "no columns",
            expected="one format, and all its columns, throughout a file",
        )
    return _text(row.values.get(column), row.where, column, optional)


def _alpaca(row: Row, require_output: bool) -> Example:
    if row.values.get("plain") is True:
        return _plain_text(row, "output")
    example = Example(
        instruction=as_text(row, "instruction"),
        input=as_text(row, "input", optional=True),
        output=as_text(row, "output", optional=not require_output),
        task=as_text(row, "task", optional=True),
        history=_history(row),
    )
    return _whole(example, row, require_output)


def _messages(row: Row, require_output: bool) -> Example:
    turns = _turns(row, "messages", ("role", "content"))
    return _conversation(turns, row, require_output)


def _sharegpt(row: Row, require_output: bool) -> Example:
    turns = _turns(row, "conversations", ("from", "value"))
    return _conversation(turns, row, require_output)


def _prompt_completion(row: Row, require_output: bool) -> Example:
    if isinstance(row.values.get("prompt"), list):
        turns = _turns(row, "prompt", ("role", "content"))
        answer = _turns(row, "completion", ("role", "content")) if "completion" in row.values else ()
        return _conversation(turns + answer, row, require_output)
    return _pair(row, "prompt", "completion", require_output)


def _flan(row: Row, require_output: bool) -> Example:
    return _pair(row, "source", "target", require_output)


def _text_only(row: Row, require_output: bool) -> Example:
    return _plain_text(row, "text")


FORMATS: Mapping[str, Format] = {
    kind.name: kind
    for kind in (
        Format("messages", ("messages",), None, _messages),
        Format("sharegpt", ("conversations",), None, _sharegpt),
        Format("alpaca", ("instruction", "output"), "output", _alpaca),
        Format("prompt_completion", ("prompt", "completion"), "completion", _prompt_completion),
        Format("flan", ("source", "target"), "target", _flan),
        Format("text", ("text",), None, _text_only),
    )
}


def _plain_text(row: Row, column: str) -> Example:
    if not as_text(row, column).strip():
        raise DataError("a row has an empty text", where=row.where, do="leave the row out")
    return Example("", output=as_text(row, column), task=_task(row))


def _pair(row: Row, prompt: str, response: str, require_output: bool) -> Example:
    output = as_text(row, response, optional=not require_output)
    return _whole(Example(as_text(row, prompt), output=output, task=_task(row)), row, require_output)


def _task(row: Row) -> str:
    return as_text(row, "task", optional=True) or as_text(row, "task_name", optional=True)


def _whole(example: Example, row: Row, require_output: bool) -> Example:
    if require_output and not example.output.strip():
        raise DataError("a row has an empty output", where=row.where, do="leave the row out, or give it an output")
    if not (example.instruction.strip() or example.input.strip()):
        raise DataError("a row has no instruction and no input", where=row.where, do="leave the row out")
    return example


def _history(row: Row) -> tuple[Turn, ...]:
    return _turns(row, "history", ("role", "content")) if row.values.get("history") else ()


def _turns(row: Row, column: str, names: tuple[str, str]) -> tuple[Turn, ...]:
    turns = row.values.get(column)
    if not isinstance(turns, list) or not turns:
        raise DataError(
            f"'{column}' is not a list of turns", where=row.where, found=_shown(turns), expected=f"[{{{names[0]}: …}}]"
        )
    return tuple(_turn(turn, f"{column}[{index}]", names, row) for index, turn in enumerate(turns))


def _turn(turn: Any, place: str, names: tuple[str, str], row: Row) -> Turn:
    if not isinstance(turn, dict):
        raise DataError(f"{place} is not a turn", where=row.where, found=_shown(turn), expected=" and ".join(names))
    spoken = turn.get(names[0])
    role = _ROLE_OF.get(spoken.lower()) if isinstance(spoken, str) else None
    if role is None:
        raise DataError(
            f"{place} has a role that cannot be trained on",
            where=row.where,
            found=_shown(spoken),
            expected=", ".join(ROLES),
            do="leave conversations with tool calls out",
        )
    return Turn(role, _text(_joined(turn.get(names[1])), row.where, f"{place}.{names[1]}", optional=False))


def _joined(content: Any) -> Any:
    # Some exports split a turn into parts; parts of text are joined, a picture stays a list and is refused as one.
    parts = content if isinstance(content, list) and content else [None]
    texts = [part.get("text", "") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(texts) if len(texts) == len(parts) and all(isinstance(text, str) for text in texts) else content


def _conversation(turns: Sequence[Turn], row: Row, require_output: bool) -> Example:
    answered = turns[-1].role == "assistant"
    if require_output and not answered:
        raise DataError(
            "a conversation does not end with the assistant",
            where=row.where,
            found=f"the last turn is the {turns[-1].role}'s",
            do="cut the conversation after its last answer",
        )
    asked = turns[:-1] if answered else turns
    if not asked or asked[-1].role != "user":
        raise DataError(
            "a conversation's answer does not follow a user turn",
            where=row.where,
            found=", ".join(turn.role for turn in turns)[:200],
        )
    output = turns[-1].content if answered else ""
    example = Example(asked[-1].content, output=output, task=_task(row), history=tuple(asked[:-1]))
    return _whole(example, row, require_output)


def _text(value: Any, where: str, column: str, optional: bool) -> str:
    if value is None and optional:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"'{column}' is not text", where=where, found=_shown(value), expected="a string")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        # JSON can spell half a surrogate pair; no tokenizer and no file takes it.
        raise DataError(f"'{column}' holds half of a surrogate pair", where=where, expected="text that UTF-8 can hold")
    return value


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:80]}"
