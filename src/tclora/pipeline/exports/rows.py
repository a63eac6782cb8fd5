"""Examples as the rows that another trainer reads, with the prompt that `tclora train` would have used.

In: a base's tokenizer and template, and examples. Out: `Rendered` rows, prompt and response as finished text to which
a trainer adds nothing, or chat messages for a trainer that applies the tokenizer's own template. Counted: rows that are
longer than the window, and rows whose text another trainer would cut into other tokens. Refused, for messages: examples
that ask nothing, and turns that do not alternate.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tclora.data import Example
from tclora.errors import ConfigError, DataError
from tclora.models import Base, tokenize_example

__all__ = ["Rendered", "RowCounts", "add_counts", "as_messages", "needs_chat", "render", "render_all"]


@dataclass(frozen=True)
class Rendered:
    """One example as finished text: special tokens stand in it by name, the loss belongs to the response."""

    prompt: str
    response: str


@dataclass(frozen=True)
class RowCounts:
    """How the rows of one file come out."""

    n_rows: int = 0
    n_long: int = 0
    """Longer than `base.max_length` tokens."""
    n_other_tokens: int = 0
    """The trainer, which encodes the finished text, will see other tokens than `tclora train`."""
    n_without_response: int = 0
    """Left out, as `tclora train` leaves them out: nothing in them can be learned."""


def render(base: Base, example: Example) -> Rendered:
    """Prompt and response in the base's template, with the token that starts a text in front where tclora puts one."""
    prompt = base.template.prompt(example, base.tokenizer)
    start = base.tokenizer.bos_token
    if start and (base.template.add_bos or not prompt) and not prompt.startswith(start):
        prompt = start + prompt
    return Rendered(prompt or base.tokenizer.eos_token or "", base.template.response(example, base.tokenizer))


def render_all(base: Base, examples: Iterable[Example]) -> tuple[list[tuple[Example, Rendered]], RowCounts]:
    """Every example that can be learned from, rendered, and what is to be said of them."""
    rows, counts = [], RowCounts()
    for example in examples:
        tokens = tokenize_example(base, example)
        if not tokens.n_scored:
            counts = add_counts(counts, RowCounts(n_without_response=1))
            continue
        row = render(base, example)
        ids = _encode(base, row.prompt) + _encode(base, row.response)
        other = not tokens.truncated and ids != list(tokens.ids)
        counts = add_counts(counts, RowCounts(1, int(tokens.truncated), int(other)))
        rows.append((example, row))
    return rows, counts


def add_counts(one: RowCounts, other: RowCounts) -> RowCounts:
    """The counts of two files together."""
    return RowCounts(
        one.n_rows + other.n_rows,
        one.n_long + other.n_long,
        one.n_other_tokens + other.n_other_tokens,
        one.n_without_response + other.n_without_response,
    )


def as_messages(example: Example, *, where: str) -> list[dict[str, str]]:
    """The example as chat messages that end with its response.

    Raises:
        DataError: it asks nothing, or its turns do not alternate between user and assistant.
    """
    if not (example.instruction or example.input):
        raise DataError(
            "an example that asks nothing is no conversation",
            where=where,
            found=(example.output or "an empty text")[:80],
            do="use --prompts rendered",
        )
    request = f"{example.instruction}\n{example.input}" if example.input else example.instruction
    turns = [{"role": turn.role, "content": turn.content} for turn in example.history]
    messages = [*turns, {"role": "user", "content": request}, {"role": "assistant", "content": example.output}]
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise DataError(
            "the turns of an example do not alternate",
            where=where,
            found=", ".join(roles),
            expected="user and assistant in turn, after at most one system turn",
            do="use --prompts rendered, which puts any turns into the prompt",
        )
    return messages


def needs_chat(base: Base) -> None:
    """Refuse messages for a base without a chat template.

    Raises:
        ConfigError: the run's template is not the tokenizer's chat template.
    """
    if base.template.name != "chat":
        raise ConfigError(
            "chat messages need a chat template",
            where="--prompts messages",
            found=f"the {base.template.name} template of {base.name}",
            expected="a tokenizer with a chat template, and base.template: auto or chat",
            do="use --prompts rendered: the rows then hold the plain instruction template",
        )


def _encode(base: Base, text: str) -> list[int]:
    encoded: Any = base.tokenizer(text, add_special_tokens=False, verbose=False)
    return list(encoded["input_ids"])
