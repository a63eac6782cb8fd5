"""Several programs at once.

In: calls that each run a program and return an `Outcome`, or what was made of it. Out: what they return, in the order
of the calls, whatever finishes first.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tclora.errors import ConfigError

__all__ = ["run_many"]

T = TypeVar("T")


def run_many(calls: Sequence[Callable[[], T]], *, workers: int) -> Iterator[T]:
    """Make `calls` on `workers` threads; each thread waits for a jail of its own.

    Yields in the order of `calls`, each as soon as it and its predecessors are done. An error of one call, which is
    never the program's own doing, is raised in its turn and cancels what has not started.
    """
    if workers < 1:
        raise ConfigError("the sandbox needs a worker", found=workers, expected="at least 1")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
    try:
        futures = [pool.submit(call) for call in calls]
        for future in futures:
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
