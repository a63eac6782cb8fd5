"""The `Executor` protocol and its first implementation.

A job is a picklable value and the function must not depend on order, so that an executor is free to run jobs in other
processes, on other machines, and again after a worker was lost.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from tclora.errors import JobFailedError, TcLoraError

__all__ = ["Executor", "LocalExecutor"]

Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """Runs independent jobs somewhere."""

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Yield results in the order of `jobs`, each as soon as it and its predecessors are done.

        The first failure cancels what has not started; results yielded before it stand.

        Raises:
            JobFailedError: names the job and carries its traceback. Errors of tclora pass as they are.
        """
        ...


class LocalExecutor:
    """Runs jobs one after another in this process; a base model loaded by one job serves the next."""

    def map(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
        """Yield each job's result as it is done."""
        for index, job in enumerate(jobs):
            yield _run(function, job, index)


def _run(function: Callable[[Job], Result], job: Job, index: int) -> Result:
    try:
        return function(job)
    except TcLoraError:
        raise
    except Exception as error:
        raise JobFailedError(
            f"a job failed: {type(error).__name__}: {error}",
            where=getattr(job, "name", f"job {index}"),
            found="".join(traceback.format_exception(error)[-3:]).strip(),
            do="mend the cause and run the same command: finished jobs are not repeated",
        ) from error
