"""The part of Python's regular expressions that adapter configs use, parsed into a tree.

In: a pattern from an untrusted file. Out: nodes that `tclora.adapters.patterns` matches in bounded time. Refused:
back references, look-behind, flags and whatever else is not below, each by raising `UnsupportedPatternError`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from tclora.errors import AdapterError

__all__ = ["Choice", "Edge", "Group", "Look", "Node", "One", "Repeat", "UnsupportedPatternError", "parse"]

MAX_CHARACTERS = 4000
MAX_DEPTH = 20
MAX_REPEAT = 1000


class UnsupportedPatternError(AdapterError):
    """The pattern is not valid, or uses a construct that is not supported."""


@dataclass(frozen=True)
class One:
    """One character out of a class, such as `a`, `\\d` or `[a-z]`."""

    accepts: Callable[[str], bool]


@dataclass(frozen=True)
class Edge:
    """A place between characters: `^`, `$`, `\\b` or `\\B`."""

    kind: str


@dataclass(frozen=True)
class Group:
    """Nodes one after the other."""

    nodes: tuple["Node", ...]


@dataclass(frozen=True)
class Choice:
    """One of several nodes."""

    options: tuple["Node", ...]


@dataclass(frozen=True)
class Repeat:
    """A node `least` to `most` times; `most` is None without a limit."""

    node: "Node"
    least: int
    most: int | None


@dataclass(frozen=True)
class Look:
    """What must, or must not, come next, without taking it."""

    node: "Node"
    wanted: bool


Node = One | Edge | Group | Choice | Repeat | Look


def parse(pattern: str) -> Node:
    """Parse a pattern as `re` would.

    Raises:
        UnsupportedPatternError: says which part cannot be used.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise UnsupportedPatternError(f"longer than {MAX_CHARACTERS} characters")
    node, end = _choice(pattern, 0, 0)
    if end != len(pattern):
        raise UnsupportedPatternError(f"unbalanced ')' at {end}")
    return node


def _choice(text: str, at: int, depth: int) -> tuple[Node, int]:
    if depth > MAX_DEPTH:
        raise UnsupportedPatternError(f"groups nested deeper than {MAX_DEPTH}")
    options, nodes = [], []
    while at < len(text) and text[at] != ")":
        if text[at] == "|":
            options.append(Group(tuple(nodes)))
            nodes, at = [], at + 1
            continue
        node, at = _atom(text, at, depth)
        node, at = _repeated(node, text, at)
        nodes.append(node)
    options.append(Group(tuple(nodes)))
    return (options[0] if len(options) == 1 else Choice(tuple(options))), at


def _atom(text: str, at: int, depth: int) -> tuple[Node, int]:
    character = text[at]
    if character == "(":
        return _group(text, at + 1, depth)
    if character == "[":
        return _character_class(text, at)
    if character == "\\":
        return _escape(text, at)
    if character == ".":
        return One("\n".__ne__), at + 1
    if character in "^$":
        return Edge(character), at + 1
    if character in "*+?":
        raise UnsupportedPatternError(f"nothing to repeat at {at}")
    return One(character.__eq__), at + 1


def _group(text: str, at: int, depth: int) -> tuple[Node, int]:
    opening = re.compile(r"\?(?::|=|!|P<\w+>)|(?!\?)").match(text, at)
    if opening is None:
        raise UnsupportedPatternError(f"the group at {at - 1} is of a kind that is not supported")
    node, end = _choice(text, opening.end(), depth + 1)
    if end >= len(text):
        raise UnsupportedPatternError(f"the group at {at - 1} is not closed")
    if opening.group() in ("?=", "?!"):
        node = Look(node, wanted=opening.group() == "?=")
    return node, end + 1


def _character_class(text: str, at: int) -> tuple[Node, int]:
    found = re.compile(r"\[\^?\]?(?:[^\\\]]|\\.)*\]").match(text, at)
    if found is None:
        raise UnsupportedPatternError(f"the character class at {at} is not closed")
    return One(_compiled(found.group())), found.end()


def _escape(text: str, at: int) -> tuple[Node, int]:
    escaped = text[at + 1 : at + 2]
    if escaped in ("b", "B"):
        return Edge("\\" + escaped), at + 2
    if escaped in ("A", "Z"):
        return Edge("^" if escaped == "A" else "\\Z"), at + 2
    if escaped in ("d", "D", "w", "W", "s", "S") or (escaped and not escaped.isalnum()):
        return One(_compiled("\\" + escaped)), at + 2
    raise UnsupportedPatternError(f"\\{escaped} at {at} is not supported")


def _compiled(one_character: str) -> Callable[[str], bool]:
    try:
        expression = re.compile(one_character)
    except re.error as error:
        raise UnsupportedPatternError(f"{one_character}: {error}") from None
    return lambda character: expression.fullmatch(character) is not None


def _repeated(node: Node, text: str, at: int) -> tuple[Node, int]:
    found = re.compile(r"(?:[*+?]|\{(\d*)(?:(,)(\d*))?\})").match(text, at)
    # As in `re`, a brace that holds no numbers is an ordinary character.
    if found is None or found.group() == "{}":
        return node, at
    if isinstance(node, Edge | Look):
        raise UnsupportedPatternError(f"a place is repeated at {at}")
    least, most = _counts(found)
    after = text[found.end() : found.end() + 1]
    # A lazy quantifier matches the same strings; a possessive or doubled one does not.
    if after in ("+", "*") or (after == "{" and re.compile(r"\{[\d,]").match(text, found.end())):
        raise UnsupportedPatternError(f"two quantifiers at {at}")
    return Repeat(node, least, most), found.end() + (after == "?")


def _counts(found: re.Match[str]) -> tuple[int, int | None]:
    plain = {"*": (0, None), "+": (1, None), "?": (0, 1)}
    if found.group() in plain:
        return plain[found.group()]
    if any(len(digits or "") > 4 for digits in found.group(1, 3)):
        raise UnsupportedPatternError(f"repeated more than {MAX_REPEAT} times")
    least = int(found.group(1) or 0)
    most = (int(found.group(3)) if found.group(3) else None) if found.group(2) else least
    if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
        raise UnsupportedPatternError(f"repeated {found.group()}")
    return least, most
