"""How stages tell what they are doing. The command line draws bars; a library user gets silence."""

from typing import Protocol, runtime_checkable

__all__ = ["Progress", "Silent"]


@runtime_checkable
class Progress(Protocol):
    """Receives the stages of a run as they begin, advance and end."""

    def begin(self, stage: str) -> None:
        """A stage starts working."""
        ...

    def step(self, label: str, done: int, total: int) -> None:
        """`done` of `total` parts of the work called `label` are finished."""
        ...

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        """The stage is finished, or was found finished and unchanged."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know once."""
        ...


class Silent:
    """Tells nobody."""

    def begin(self, stage: str) -> None:
        """Nothing."""

    def step(self, label: str, done: int, total: int) -> None:
        """Nothing."""

    def end(self, stage: str, *, wall_s: float, skipped: bool) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
