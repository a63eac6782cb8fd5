"""What an instruction example is, and what a multiple-choice item is: frozen text, nothing else.

Every file format is turned into `Example` on reading (see `formats.py`), so later stages know only one shape. An
example made of plain text alone has an empty instruction; its `text` is then its output, so that it can be clustered.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

__all__ = ["ROLES", "ChoiceItem", "Example", "Turn", "digest"]

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation before the instruction; `role` is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and its response. `history` holds the turns before the instruction, the system turn among them."""

    instruction: str
    input: str = ""
    output: str = ""
    task: str = ""
    history: tuple[Turn, ...] = ()

    def text(self, what: Literal["instruction", "instruction_and_input"] = "instruction_and_input") -> str:
        """The text to embed: the instruction, with the input on the next line; the output where there is neither.

        An example with an input and no instruction gives its input, whatever is asked.
        """
        parts = (self.instruction,) if what == "instruction" and self.instruction else (self.instruction, self.input)
        return "\n".join(part for part in parts if part) or self.output

    @property
    def key(self) -> str:
        """16 hexadecimal digits that two examples share only if all their content is equal."""
        return digest(self.instruction, self.input, self.output, self.task, *_flat(self.history))

    @property
    def prompt_key(self) -> str:
        """As `key`, of what is asked: examples that differ only in output or task share it."""
        asked = (self.instruction, self.input, *_flat(self.history))
        return digest("prompt", *asked) if any(asked) else digest("output", self.output)

    @property
    def family(self) -> str:
        """The task up to its first `/`; a task without one is its own family."""
        return self.task.split("/", 1)[0]


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """One multiple-choice question; `answer` is an index into `choices`, `context` the passage or empty."""

    id: str
    task: str
    context: str
    question: str
    choices: tuple[str, ...]
    answer: int


def digest(*parts: str) -> str:
    """16 hexadecimal digits of the SHA-256 of `parts`; where one part ends and the next begins counts."""
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:16]


def _flat(history: tuple[Turn, ...]) -> tuple[str, ...]:
    return tuple(text for turn in history for text in (turn.role, turn.content))
