"""The format skills: how an answer may be asked to be written, and how such writing is read back.

In: a plain answer. Out: the sentence that asks for the format, the answer written so, and, from a model's text, the
plain answer or None where the text is not in the format. Reading and writing are inverse on everything a format
accepts. Refused: an answer that a format cannot write (a word where a number is needed). Written for this project.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from tclora.errors import ConfigError
from tclora.registry import Registry
from tclora.testbeds.words import NUMBER_WORDS

__all__ = ["FORMATS", "PLAIN", "AnswerFormat"]


@dataclass(frozen=True)
class AnswerFormat:
    """One way to write an answer: `request` asks for it, `write` does it, `read` undoes it or gives None."""

    request: str
    write: Callable[[str], str]
    read: Callable[[str], str | None]
    takes: frozenset[str] = frozenset({"thing", "name", "number", "numbers", "letters"})
    """The kinds of answers it can write, and changes by writing."""
    wraps: bool = False
    """Whether the plain answer stands unchanged within signs of the format."""


PLAIN = AnswerFormat("", lambda answer: answer, lambda text: text.strip() or None)
"""No format is asked for, and the answer stands alone."""

FORMATS: Registry[AnswerFormat] = Registry("format skill")


def _wrapped(request: str, before: str, after: str) -> AnswerFormat:
    pattern = re.compile(re.escape(before) + r"([^<>\"()\[\]*]+)" + re.escape(after))

    def read(text: str) -> str | None:
        found = pattern.fullmatch(text.strip())
        return found[1] if found else None

    return AnswerFormat(request, lambda answer: f"{before}{answer}{after}", read, wraps=True)


def _json() -> AnswerFormat:
    def read(text: str) -> str | None:
        try:
            value = json.loads(text)
        except ValueError:
            return None
        right = isinstance(value, dict) and list(value) == ["answer"] and isinstance(value["answer"], str)
        return value["answer"] if right else None

    return AnswerFormat("Answer in JSON.", lambda answer: json.dumps({"answer": answer}), read, wraps=True)


def _capitals() -> AnswerFormat:
    def read(text: str) -> str | None:
        stripped = text.strip()
        return stripped.lower() if stripped and stripped == stripped.upper() != stripped.lower() else None

    return AnswerFormat("Answer in capital letters.", str.upper, read, frozenset({"thing", "name"}))


def _number_words(request: str, words: tuple[str, ...]) -> AnswerFormat:
    def write(answer: str) -> str:
        if not answer.isdecimal() or int(answer) >= len(words):
            raise ConfigError(
                "this answer has no number word",
                where=request,
                found=answer,
                expected=f"a number from 0 to {len(words) - 1}",
                do="pair this format with a content skill whose answers are numbers",
            )
        return words[int(answer)]

    def read(text: str) -> str | None:
        word = text.strip().lower()
        return str(words.index(word)) if word in words else None

    return AnswerFormat(request, write, read, frozenset({"number"}))


def _register(name: str, summary: str, format: AnswerFormat) -> None:
    FORMATS.register(name, source="written for tclora", summary=summary)(format)


_register("json", "a JSON object with the key answer", _json())
_register("capitals", "all letters as capitals", _capitals())
_register("tags", "between <answer> and </answer>", _wrapped("Answer in tags.", "<answer>", "</answer>"))
_register("python", "as a Python print call", _wrapped("Answer as Python.", 'print("', '")'))
_register("list", "in square brackets, as a list", _wrapped("Answer as a list.", "[", "]"))
_register("words", "a number as an English word", _number_words("Answer in words.", NUMBER_WORDS["english"]))
_register("spanish", "a number as a Spanish word", _number_words("Answer in Spanish.", NUMBER_WORDS["spanish"]))
