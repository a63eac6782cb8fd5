"""What is asked of the model for each item, as token ids, made once for all adapters.

In: a `Base` and the items of a task. Out: `Asked`, with the key that its answer is kept under. A plain prompt and its
continuation are encoded as one text; an instruction goes into the base's template, and the continuation is then the
whole response, ending included. Prompts too long for the window lose tokens on the left. Refused: items without a
continuation, continuations without a token.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tclora.artifacts import digest_of
from tclora.data import Example
from tclora.errors import DataError
from tclora.evaluation.tasks.task import Continuation, Generation, Item
from tclora.models import Base, Completion, Tokens, tokenize_example, tokenize_plain, tokenize_start

__all__ = ["Asked", "ask_items", "shown_prompt"]


@dataclass(frozen=True)
class Asked:
    """One item as the model reads it: rows to score, or a prompt to complete."""

    key: str
    """The digest of all that decides the answer but base and adapter."""
    group: str
    rows: tuple[Tokens, ...]
    completion: Completion | None
    truncated: bool

    @property
    def cost(self) -> int:
        """About how many tokens the model has to read or write."""
        if self.completion is not None:
            return len(self.completion.ids) + self.completion.max_new_tokens
        return sum(len(row.ids) for row in self.rows)


def ask_items(base: Base, name: str, items: Sequence[Item], *, seed: int) -> list[Asked]:
    """Tokenize the items of a task.

    Args:
        name: the task's; with the seed and an item's id it seeds a drawn answer.

    Raises:
        DataError: an item asks for nothing, or a continuation has no token; names task and item.
    """
    return [_asked(base, f"{name}, item {item.id}", item, _item_seed(seed, name, item.id)) for item in items]


def shown_prompt(base: Base, item: Item) -> str:
    """The first prompt of an item as the model reads it, special tokens and all, and what is asked behind it."""
    if isinstance(item.ask, Generation):
        return base.tokenizer.decode(list(_start(base, item.ask).ids))
    row = _row(base, item.ask[0])
    return base.tokenizer.decode(list(row.ids[: row.n_prompt])) + "⟨scored⟩" + _tail(base, row)


def _tail(base: Base, row: Tokens) -> str:
    return base.tokenizer.decode(list(row.ids[row.n_prompt :]))


def _asked(base: Base, where: str, item: Item, seed: int) -> Asked:
    if isinstance(item.ask, Generation):
        return _asked_text(base, where, item, item.ask, seed)
    rows = tuple(_row(base, continuation) for continuation in item.ask)
    empty = next((index for index, row in enumerate(rows) if row.n_scored < 1), None)
    if empty is not None or not rows:
        raise DataError(
            "an item has nothing to score",
            where=where if empty is None else f"{where}, continuation {empty}",
            found="no continuation" if empty is None else f"{item.ask[empty].text!r}",
            expected="continuations of at least one token",
            do="correct the task's file, or raise --max-length",
        )
    key = digest_of(["likelihood", [[list(row.ids), row.n_prompt] for row in rows]])
    return Asked(key, item.group, rows, None, any(row.truncated for row in rows))


def _asked_text(base: Base, where: str, item: Item, ask: Generation, seed: int) -> Asked:
    if ask.max_new_tokens < 1:
        raise DataError("an item asks for no token", where=where, found=ask.max_new_tokens, expected="1 or more")
    start = _start(base, ask)
    drawn = ask.temperature > 0
    completion = Completion(
        start.ids, ask.max_new_tokens, ask.stop, float(ask.temperature), float(ask.top_p), seed if drawn else 0
    )
    settings = [completion.max_new_tokens, list(completion.stop), completion.temperature, completion.top_p]
    key = digest_of(["text", list(start.ids), settings, completion.seed])
    return Asked(key, item.group, (), completion, start.truncated)


def _row(base: Base, continuation: Continuation) -> Tokens:
    if continuation.prompt.plain:
        return tokenize_plain(base, continuation.prompt.text, continuation.text)
    return tokenize_example(base, Example(continuation.prompt.text, output=continuation.text))


def _start(base: Base, ask: Generation) -> Tokens:
    prompt = ask.prompt.text if ask.prompt.plain else Example(ask.prompt.text)
    return tokenize_start(base, prompt, room=ask.max_new_tokens)


def _item_seed(seed: int, name: str, item: str) -> int:
    # torch takes seeds of 63 bits without a sign.
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}\0{item}".encode()).digest()[:8], "big") >> 1
