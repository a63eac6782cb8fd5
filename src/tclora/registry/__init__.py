"""A registry of named things: refuses duplicates, normalises names once, suggests near names on a miss."""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from tclora.errors import ConfigError, UnknownNameError

__all__ = ["Entry", "Registry"]

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing with what the help, the docs table and the test matrix say about it."""

    name: str
    value: T
    summary: str
    source: str
    facts: dict[str, object]


class Registry(Generic[T]):
    """Names to values of one kind.

    >>> shapes = Registry[type]("shape")
    >>> @shapes.register("square", source="Euclid")
    ... class Square:
    ...     '''Four equal sides.'''
    >>> shapes["square"].__name__, shapes.entry("square").summary
    ('Square', 'Four equal sides.')
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, *, source: str, **facts: object) -> Callable[[T], T]:
        """Register the decorated object under `name`; its first docstring line is its summary."""
        key = _normal(name)
        if key != name:
            raise ConfigError(f"'{name}' is not a registry name", expected=key, do="use lower case and underscores")

        def add(value: T) -> T:
            if key in self._entries:
                raise ConfigError(f"the {self.kind} '{key}' is registered twice", do="choose another name")
            summary = (value.__doc__ or "").strip().split("\n")[0]
            self._entries[key] = Entry(key, value, summary, source, facts)
            return value

        return add

    def __getitem__(self, name: str) -> T:
        return self.entry(name).value

    def entry(self, name: str) -> Entry[T]:
        """The entry called `name`; an unknown name raises `UnknownNameError` with near ones."""
        key = _normal(name)
        if key not in self._entries:
            near = difflib.get_close_matches(key, self._entries, n=3, cutoff=0.4)
            raise UnknownNameError(
                f"there is no {self.kind} called '{name}'",
                expected="one of " + ", ".join(self),
                do=f"did you mean {' or '.join(near)}?" if near else None,
            )
        return self._entries[key]

    def entries(self) -> tuple[Entry[T], ...]:
        """All entries, by name."""
        return tuple(self._entries[name] for name in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _normal(name) in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


def _normal(name: str) -> str:
    return name.strip().lower().replace("-", "_")
