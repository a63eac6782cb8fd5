"""From the words after `--adapters` to the rows of an evaluation: adapters, each with a name of its own.

In: PEFT folders, Hub ids, folders of adapters (a library, a run's `merge/`), and `NAME=FOLDER`. Out: `Entrant`s and the
pairs to compare. Refused: folders without an adapter, one adapter named twice, two of one name, unknown pairs.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tclora.adapters import typed_path
from tclora.errors import AdapterError, ConfigError
from tclora.evaluation.many import Entrant
from tclora.pipeline.sources import refuse_twice

__all__ = ["BASE", "chosen_pairs", "expand_entrants"]

BASE = "base"

_CONFIG = "adapter_config.json"
_FEW = 4
"""Up to so many entrants every pair is compared."""


def expand_entrants(words: Sequence[str], *, with_base: bool = True) -> list[Entrant]:
    """List the adapters that the words mean, in their order; those of a folder in the order of their names.

    Raises:
        AdapterError: a folder holds no adapter.
        ConfigError: an adapter is named twice, or nothing is to be evaluated.
    """
    found = [one for word in words for one in _expanded(word)]
    refuse_twice([source for _, source in found], do="name it once")
    entrants = [Entrant(name, source) for name, (_, source) in zip(_names(found), found, strict=True)]
    if with_base:
        entrants.insert(0, Entrant(BASE))
    if not entrants:
        raise ConfigError(
            "there is nothing to evaluate", where="--adapters", do="name adapters, or leave --no-base out"
        )
    return entrants


def chosen_pairs(entrants: Sequence[Entrant], asked: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """The pairs that are compared: those asked for as `A:B`, else each adapter with the base and the first adapter.

    With few entrants every pair is compared.

    Raises:
        ConfigError: a pair is not of the form, or names nobody.
    """
    names = [entrant.name for entrant in entrants]
    if asked:
        return tuple(dict.fromkeys(_pair(text, names) for text in asked))
    if len(names) <= _FEW:
        return tuple((b, a) for i, a in enumerate(names) for b in names[i + 1 :])
    marks = names[: 2 if names[0] == BASE else 1]
    return tuple((name, mark) for mark in marks for name in names[names.index(mark) + 1 :])


def _pair(text: str, names: Sequence[str]) -> tuple[str, str]:
    # A name may hold a colon, so every place is tried.
    places = [match.start() for match in re.finditer(":", text)]
    pairs = [(text[:place], text[place + 1 :]) for place in places]
    known = [pair for pair in pairs if pair[0] in names and pair[1] in names and pair[0] != pair[1]]
    if len(known) != 1:
        raise ConfigError(
            "a pair names no two adapters of this evaluation",
            where="--pairs",
            found=text,
            expected="A:B, each one of " + ", ".join(names),
        )
    return known[0]


def _expanded(word: str) -> list[tuple[str | None, str]]:
    """Adapters that one word means: the name it gives, if any, and the source."""
    name, source = _split(word)
    folder = typed_path(source)
    if not folder.is_dir() or (folder / _CONFIG).exists():
        # An adapter, a Hub id, or something that reading it will refuse by name.
        return [(name, source)]
    inside = sorted(_inside(folder), key=_natural)
    if not inside:
        raise AdapterError(
            "a folder holds no adapter",
            where=folder,
            expected=f"{_CONFIG} in it, or in its sub-folders, at most two levels down",
            do="check the path",
        )
    if name is not None:
        return [(f"{name}/{path.relative_to(folder).as_posix()}", str(path)) for path in inside]
    return [(None, str(path)) for path in inside]


def _split(word: str) -> tuple[str | None, str]:
    name, sign, source = word.partition("=")
    if not sign or typed_path(word).exists():
        return None, word
    if not re.fullmatch(r"[\w.+-][\w.+ /-]*", name) or name == BASE:
        raise ConfigError(
            "an adapter cannot have this name",
            where="--adapters",
            found=name,
            expected="letters, digits and . + - _ /, and not 'base'",
        )
    return name, source


def _inside(folder: Path) -> list[Path]:
    found = [path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{_CONFIG}")]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    # cluster-2 before cluster-10.
    parts = re.split(r"(\d+)", path.as_posix())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _names(found: Sequence[tuple[str | None, str]]) -> list[str]:
    """The given names; for the others as many last parts of the path as tell them from all others."""
    parts = [
        typed_path(source).absolute().parts if typed_path(source).exists() else tuple(source.split("/"))
        for _, source in found
    ]
    depth = 1
    while True:
        names = [name or "/".join(own[-depth:]) for (name, _), own in zip(found, parts, strict=True)]
        clash = sorted({name for name in names if names.count(name) > 1 or name == BASE})
        if not clash:
            return names
        if depth >= max(map(len, parts)):
            raise ConfigError(
                "two adapters have one name", where="--adapters", found=clash[0], do="name them apart, as NAME=FOLDER"
            )
        depth += 1
