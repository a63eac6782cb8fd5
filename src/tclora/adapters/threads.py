"""Threads of our own with one thread of linear algebra each: in small operations more of those only wait."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["map_in_threads", "one_thread", "own_threads"]

Job = TypeVar("Job")
Done = TypeVar("Done")


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread of linear algebra inside; the caller's number comes back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_in_threads(work: Callable[[Job], Done], jobs: Iterable[Job], workers: int) -> Iterator[Done]:
    """`map` by threads that use one thread of linear algebra each: results in order, few of them held at a time."""
    with one_thread(), own_threads(workers, begin=_one_each) as pool:
        waiting: deque[Future[Done]] = deque()
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _one_each() -> None:
    # What one thread sets shows in the others, so this is for inside `one_thread`, which sets it back.
    torch.set_num_threads(1)


@contextmanager
def own_threads(workers: int, *, begin: Callable[[], None] | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that `begin` so; work that is broken off begins nothing of what it has not begun."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tclora", initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
