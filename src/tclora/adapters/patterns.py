"""Matching module paths against patterns of an untrusted config, in bounded time.

In: the keys of `rank_pattern` or `alpha_pattern`, or a `target_modules` expression. Out: the same answers as PEFT's
`re.match(rf"(.*\\.)?({key})$", path)` and `re.fullmatch`. Refused: patterns that are not supported, or that need more
than a budget of steps. A backtracking matcher can be made to run for ever; this one keeps the set of all places a
partial match can have reached, so its cost is a small power of the lengths, and it is counted.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tclora.adapters.pattern_syntax import (
    Choice,
    Edge,
    Group,
    Look,
    Node,
    One,
    Repeat,
    UnsupportedPatternError,
    parse,
)

__all__ = ["Budget", "PatternTable", "UnsupportedPatternError", "fullmatch"]

# A step takes a third of a microsecond, so this bounds each table of a config to less than a second.
MAX_STEPS = 2_000_000
_PLAIN = re.compile(r"[\w.\-]+")


@dataclass
class Budget:
    """The steps that the patterns of one config may still take."""

    steps: int = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise UnsupportedPatternError(f"matching takes more than {MAX_STEPS} steps")


def fullmatch(node: Node, text: str, budget: Budget) -> bool:
    """Whether the whole of `text` matches, as `re.fullmatch` would say."""
    return len(text) in _ends(node, text, {0}, budget)


@dataclass(frozen=True)
class PatternTable:
    """The keys of one pattern field, ready for many lookups; the first key that matches a path wins."""

    by_mask: dict[tuple[int, tuple[int, ...]], dict[str, tuple[int, str]]] = field(default_factory=dict)
    expressions: tuple[tuple[int, str, Node], ...] = ()
    budget: Budget = field(default_factory=Budget)

    @classmethod
    def of(cls, keys: Iterable[str]) -> "PatternTable":
        """Build the table from the keys in their order.

        Raises:
            UnsupportedPatternError: names the key.
        """
        by_mask, expressions = {}, []
        for index, key in enumerate(keys):
            if _PLAIN.fullmatch(key):
                dots = tuple(i for i, character in enumerate(key) if character == ".")
                by_mask.setdefault((len(key), dots), {}).setdefault(key, (index, key))
                continue
            try:
                expressions.append((index, key, parse(key)))
            except UnsupportedPatternError as error:
                raise UnsupportedPatternError(f"{key[:200]!r}: {error}") from None
        return cls(by_mask, tuple(expressions))

    def key_for(self, path: str) -> str | None:
        """The first key that matches `path` or its end after a dot; None if there is none.

        Raises:
            UnsupportedPatternError: the budget is spent.
        """
        starts = {0} | {i + 1 for i, character in enumerate(path) if character == "."}
        best = self._plain_key(path, starts)
        for index, key, node in self.expressions:
            if best is not None and best[0] < index:
                break
            # `$` also matches before a last newline, but no module path holds one.
            if len(path) in _ends(node, path, starts, self.budget):
                return key
        return None if best is None else best[1]

    def _plain_key(self, path: str, starts: set[int]) -> tuple[int, str] | None:
        # A plain key is a literal whose dots stand for any character: mask those of the path and look it up.
        found = []
        for (length, dots), keys in self.by_mask.items():
            start = len(path) - length
            if start not in starts:
                continue
            self.budget.spend(1 + len(dots))
            tail = list(path[start:])
            for dot in dots:
                tail[dot] = "."
            if hit := keys.get("".join(tail)):
                found.append(hit)
        return min(found, default=None)


def _ends(node: Node, text: str, starts: set[int], budget: Budget) -> set[int]:
    """All places where a match that began at one of `starts` can end."""
    budget.spend(1 + len(starts))
    match node:
        case One():
            return {i + 1 for i in starts if i < len(text) and node.accepts(text[i])}
        case Edge() | Look():
            return {i for i in starts if _holds(node, text, i, budget)}
        case Choice(options):
            return set().union(*(_ends(option, text, starts, budget) for option in options))
        case Group(nodes):
            for inner in nodes:
                starts = _ends(inner, text, starts, budget) if starts else starts
            return starts
        case Repeat():
            return _repeat_ends(node, text, starts, budget)


def _repeat_ends(node: Repeat, text: str, starts: set[int], budget: Budget) -> set[int]:
    for _ in range(node.least):
        starts = _ends(node.node, text, starts, budget) if starts else starts
    reached, fresh = set(starts), starts
    # More rounds than the text has characters reach nothing new, as a round that takes nothing stays in place.
    rounds = len(text) + 1 if node.most is None else min(node.most - node.least, len(text) + 1)
    for _ in range(rounds):
        fresh = _ends(node.node, text, fresh, budget) - reached
        if not fresh:
            break
        reached |= fresh
    return reached


def _holds(node: Edge | Look, text: str, i: int, budget: Budget) -> bool:
    if isinstance(node, Look):
        return bool(_ends(node.node, text, {i}, budget)) is node.wanted
    return _is_edge(node.kind, text, i)


def _is_edge(kind: str, text: str, i: int) -> bool:
    if kind == "^":
        return i == 0
    if kind in ("$", "\\Z"):
        return i == len(text)
    before = i > 0 and _is_word(text[i - 1])
    after = i < len(text) and _is_word(text[i])
    return (before != after) is (kind == "\\b")


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
