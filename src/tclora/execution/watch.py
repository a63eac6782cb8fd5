"""How a job tells how far it is, wherever it runs.

In: a function that calls `report` now and then. Out: the caller's `Watcher` is told, in the caller's process. What
cannot be delivered is dropped: a lost message never fails or delays a job.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

__all__ = ["LogWatcher", "Watcher", "report", "telling"]

Sink = Callable[[str, int, int], None]

_sink: ContextVar[Sink | None] = ContextVar("tclora_report_sink", default=None)


@runtime_checkable
class Watcher(Protocol):
    """Is told how far jobs are, and why one is tried again."""

    def step(self, label: str, done: int, total: int) -> None:
        """`done` of `total` parts of the work called `label` are finished."""
        ...

    def note(self, text: str) -> None:
        """Something the user should know once."""
        ...


class LogWatcher:
    """For callers that do not watch: notes go to the log `tclora.execution`, steps nowhere."""

    def step(self, label: str, done: int, total: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """One warning in the log."""
        logging.getLogger("tclora.execution").warning(text)


def report(label: str, done: int, total: int) -> None:
    """Tell whoever started this job that `done` of `total` parts of `label` are finished; nobody may be listening."""
    sink = _sink.get()
    if sink is not None:
        sink(label, done, total)


@contextmanager
def telling(sink: Sink) -> Iterator[None]:
    """Inside the block, `report` goes to `sink`. A thread that the job starts is not heard."""
    token = _sink.set(sink)
    try:
        yield
    finally:
        _sink.reset(token)
