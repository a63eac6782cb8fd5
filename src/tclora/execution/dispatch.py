"""The loop that hands jobs to workers, hears of them, and tries again what was lost.

In: a `Backend`, which knows how to start a job somewhere and what became of it. Out: results as jobs finish. Where and
on which machine a job runs is the backend's business; how often it is tried is decided here, alike for all.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tclora.execution.attempts import Failure, Retries, name_of, raised
from tclora.execution.watch import Watcher

__all__ = ["Backend", "Event", "Failed", "Finished", "Told", "run_jobs"]

_LOOK_EVERY_S = 1.0
"""The longest wait for news: a worker that vanished without a word is noticed within this time."""


@dataclass(frozen=True)
class Finished:
    """The job of this ticket is done."""

    ticket: int
    value: Any


@dataclass(frozen=True)
class Failed:
    """The attempt of this ticket failed."""

    ticket: int
    failure: Failure


@dataclass(frozen=True)
class Told:
    """A running job says how far it is."""

    label: str
    done: int
    total: int


Event = Finished | Failed | Told


@runtime_checkable
class Backend(Protocol):
    """Starts single attempts and says what became of them. A ticket is a number given to one attempt."""

    @property
    def slots(self) -> int:
        """Attempts that may run at the same time."""
        ...

    def submit(self, ticket: int, function: Callable[[Any], Any], job: Any) -> None:
        """Start an attempt. Called only while fewer than `slots` are running."""
        ...

    def events(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; waits up to `timeout_s` seconds for the first event."""
        ...

    def cancel(self) -> None:
        """Stop every running attempt; nothing more is heard of it."""
        ...


@dataclass(frozen=True)
class _Attempt:
    index: int
    number: int
    not_before: float


def run_jobs(
    backend: Backend, function: Callable[[Any], Any], jobs: Sequence[Any], *, retries: Retries, watcher: Watcher
) -> Iterator[tuple[int, Any]]:
    """Yield (index, result) as jobs finish; lost and failed ones are tried again as `retries` allows.

    Raises:
        TcLoraError: a job is given up; what runs is stopped, and what has not started does not start.
    """
    tickets = itertools.count()
    waiting = [_Attempt(index, 1, 0.0) for index in range(len(jobs))]
    running: dict[int, _Attempt] = {}
    try:
        while waiting or running:
            while len(running) < backend.slots and (due := _due(waiting)) is not None:
                waiting.remove(due)
                ticket = next(tickets)
                running[ticket] = due
                backend.submit(ticket, function, jobs[due.index])
            for event in backend.events(_patience(waiting, len(running) < backend.slots)):
                if isinstance(event, Told):
                    watcher.step(event.label, event.done, event.total)
                elif isinstance(event, Finished):
                    yield running.pop(event.ticket).index, event.value
                else:
                    waiting.append(_again(running.pop(event.ticket), event.failure, jobs, retries, watcher))
    finally:
        if running:
            backend.cancel()


def _due(waiting: list[_Attempt]) -> _Attempt | None:
    """The first job, in the order of the request, that may start now."""
    now = time.monotonic()
    return min((one for one in waiting if one.not_before <= now), key=lambda one: one.index, default=None)


def _patience(waiting: list[_Attempt], has_room: bool) -> float:
    if not waiting or not has_room:
        return _LOOK_EVERY_S
    return min(_LOOK_EVERY_S, max(0.0, min(one.not_before for one in waiting) - time.monotonic()))


def _again(attempt: _Attempt, failure: Failure, jobs: Sequence[Any], retries: Retries, watcher: Watcher) -> _Attempt:
    """The next attempt of a failed job, or the end of the work."""
    job = jobs[attempt.index]
    if not retries.allow(failure, attempt.number):
        raise raised(failure, job, attempt.index, attempt.number)
    name = name_of(job, attempt.index)
    watcher.note(f"{name}: {failure.reason}; trying again ({attempt.number} of {retries.count})")
    ready = time.monotonic() + retries.pause_after(attempt.number)
    return _Attempt(attempt.index, attempt.number + 1, ready)
