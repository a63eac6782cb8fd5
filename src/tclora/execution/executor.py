"""The `Executor` protocol, and the executor that runs jobs here.

A job is a picklable value and the function must not depend on order, so that an executor is free to run jobs in other
processes, on other machines, and again after a worker was lost. So a job must be idempotent: run twice, it gives the
same result, and the second run finds what the first left behind.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from tclora.execution.attempts import Retries, failure_of, name_of, raised
from tclora.execution.watch import LogWatcher, Watcher, telling

__all__ = ["Executor", "LocalExecutor", "in_order"]

Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """Runs independent jobs somewhere. A context manager: leaving the block stops the workers."""

    @property
    def workers(self) -> int:
        """Jobs that run at the same time."""
        ...

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, watcher: Watcher | None = None
    ) -> Iterator[Result]:
        """Yield results in the order of `jobs`, each as soon as it and its predecessors are done.

        The first failure ends the work; results yielded before it stand. Work is handed out while the iterator is
        being read.

        Raises:
            JobFailedError: names the job and carries its traceback. Errors of tclora pass as they are.
        """
        ...

    def as_completed(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, watcher: Watcher | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Yield (index of the job, result) in the order in which jobs finish; as `map` in all else."""
        ...

    def close(self) -> None:
        """Stop the workers, at once; a second call does nothing."""
        ...

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *error: Any) -> None: ...


class LocalExecutor:
    """Runs jobs one after another in this process; a base model loaded by one job serves the next."""

    def __init__(self, retries: Retries | None = None):
        self._retries = retries or Retries(0)

    @property
    def workers(self) -> int:
        """One."""
        return 1

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, watcher: Watcher | None = None
    ) -> Iterator[Result]:
        """Yield each job's result as it is done."""
        for _, result in self.as_completed(function, jobs, watcher=watcher):
            yield result

    def as_completed(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, watcher: Watcher | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Yield each job's index and result as it is done."""
        told = watcher or LogWatcher()
        for index, job in enumerate(jobs):
            yield index, self._run(function, job, index, told)

    def close(self) -> None:
        """Nothing to stop."""

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _run(self, function: Callable[[Job], Result], job: Job, index: int, told: Watcher) -> Result:
        attempt = 1
        while True:
            try:
                with telling(told.step):
                    return function(job)
            except Exception as error:
                failure = failure_of(error)
                if not self._retries.allow(failure, attempt):
                    if failure.error is error:
                        raise
                    raise raised(failure, job, index, attempt) from error
            told.note(f"{name_of(job, index)}: {failure.reason}; trying again ({attempt} of {self._retries.count})")
            time.sleep(self._retries.pause_after(attempt))
            attempt += 1


def in_order(completed: Iterator[tuple[int, Result]]) -> Iterator[Result]:
    """Yield the results of (index, result) pairs by index, each as soon as it and its predecessors are there."""
    held: dict[int, Result] = {}
    following = 0
    for index, result in completed:
        held[index] = result
        while following in held:
            yield held.pop(following)
            following += 1
