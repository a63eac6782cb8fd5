"""When a failed job is tried again, and what is raised when it is not.

In: a failure, as it arrives from wherever the job ran. Out: a yes or no, a pause, or the error for the caller. A wrong
request and numbers that give out fail the same way every time, so they are never repeated; a lost worker, a full disk
or a busy device may not.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from tclora.errors import ConfigError, JobFailedError, NumericalError, TcLoraError

__all__ = ["Failure", "Retries", "failure_of", "name_of", "raised", "unsendable"]


@dataclass(frozen=True)
class Failure:
    """One failed attempt. `error` is set for errors of tclora, which travel as they are; others travel as text."""

    reason: str
    trace: str = ""
    error: TcLoraError | None = None
    lost: bool = False
    """The worker is gone, and not the job at fault as far as anyone knows."""

    @property
    def may_pass(self) -> bool:
        """Whether the same job could succeed on another attempt."""
        if self.error is None:
            return True
        return self.error.exit_status == 1 and not isinstance(self.error, NumericalError)


@dataclass(frozen=True)
class Retries:
    """How often a job is tried again, and how long before: `pause_s`, doubled each time, at most a minute."""

    count: int = 2
    pause_s: float = 2.0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ConfigError("a job cannot be retried so often", where="execution.retries", found=self.count)

    def allow(self, failure: Failure, attempt: int) -> bool:
        """Whether a job whose attempt number `attempt` (from 1) failed is tried again."""
        return failure.may_pass and attempt <= self.count

    def pause_after(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt`."""
        return min(60.0, self.pause_s * 2.0 ** (attempt - 1))


def failure_of(error: Exception) -> Failure:
    """What can be sent from the place where `error` was raised."""
    known = error if isinstance(error, TcLoraError) else None
    # The first line of an error of tclora says what failed; the rest would fill a log line.
    text = known.what if known else f"{type(error).__name__}: {error}"
    return Failure(text, "".join(traceback.format_exception(error)[-3:]).strip(), known)


def raised(failure: Failure, job: object, index: int, attempts: int) -> TcLoraError:
    """The error for the caller, once a job is given up."""
    if failure.error is not None:
        return failure.error
    times = "" if attempts == 1 else f" {attempts} times"
    return JobFailedError(
        f"a job failed{times}: {failure.reason}",
        where=name_of(job, index),
        found=failure.trace or None,
        do="mend the cause and run the same command: finished jobs are not repeated",
    )


def unsendable(function: object, error: Exception) -> JobFailedError:
    """The error for a function or job that cannot leave this process."""
    return JobFailedError(
        "a job cannot be sent to a worker",
        where=getattr(function, "__qualname__", str(function)),
        found=f"{type(error).__name__}: {error}"[:500],
        expected="a function at the top of a module, and a job that can be pickled",
        do="use executor: local, or pass plain values",
    )


def name_of(job: object, index: int) -> str:
    """What to call a job: its `name`, the names of a group's members, or its number."""
    if isinstance(job, Sequence) and not isinstance(job, str) and job:
        return ", ".join(str(getattr(part, "name", part)) for part in job)[:200]
    return str(getattr(job, "name", f"job {index}"))
