"""Reading a matrix of embeddings that may be far larger than memory: by chunks, by several threads, and a sample.

In: an array or a memory map of float16, float32 or float64, `(n_examples, d_embed)`. Out: rows in float32 (float64
where they are), a chunk at a time. Pages of a memory map are given back after each chunk, so resident memory is a chunk
for each thread. Refused: nothing; whether rows are finite is seen where they are used.
"""

import math
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from tclora.shapes import Float, Int

__all__ = ["chunk_starts", "distinct_rows", "for_each_chunk", "gather_rows", "gathered_chunks", "read_rows"]

# Elements of a chunk: 4 MB in float32, about what stays in a core's cache while several passes go over it.
_CHUNK_ELEMENTS = 2**20
# Threads are worth their start only from so many chunks on.
_THREADS_FROM = 4

Result = TypeVar("Result")


def chunk_starts(matrix: Float[np.ndarray, "n d_embed"]) -> range:
    """The first rows of the chunks that a matrix is read in; they depend on its width alone."""
    return range(0, len(matrix), max(1, _CHUNK_ELEMENTS // max(1, matrix.shape[1])))


def read_rows(matrix: Float[np.ndarray, "n d_embed"], start: int, stop: int) -> Float[np.ndarray, "c d_embed"]:
    """Some rows in memory, contiguous, in float32, or float64 where they are."""
    rows = matrix[start:stop]
    return np.ascontiguousarray(rows, dtype=np.float64 if rows.dtype == np.float64 else np.float32)


def for_each_chunk(
    matrix: Float[np.ndarray, "n d_embed"], work: Callable[[int, np.ndarray], Result]
) -> Iterator[Result]:
    """Yield `work(start, rows)` for every chunk, in order, computed on as many threads as linear algebra may take.

    Each chunk is computed by one thread alone, so results do not depend on the number of threads.
    """
    starts = chunk_starts(matrix)

    def run(start: int) -> Result:
        stop = min(start + starts.step, len(matrix))
        try:
            return work(start, read_rows(matrix, start, stop))
        finally:
            _give_back(matrix, start, stop)

    yield from _in_order(run, starts)


def gather_rows(
    matrix: Float[np.ndarray, "n d_embed"], places: Int[np.ndarray, " s"]
) -> Float[np.ndarray, "s d_embed"]:
    """The rows at ascending `places`, in memory; a memory map is read from front to back and given back on the way."""
    dtype = np.float64 if matrix.dtype == np.float64 else np.float32
    found = np.empty((len(places), matrix.shape[1]), dtype=dtype)
    starts = chunk_starts(matrix)

    def run(start: int) -> None:
        stop = min(start + starts.step, len(matrix))
        low, high = np.searchsorted(places, (start, stop))
        if high > low:
            if matrix.dtype == dtype:
                # Straight into place; `clip` because numpy would buffer `raise`, and the places are in range.
                np.take(matrix, places[low:high], axis=0, out=found[low:high], mode="clip")
            else:
                found[low:high] = matrix[places[low:high]]
            _give_back(matrix, start, stop)

    for _ in _in_order(run, starts):
        pass
    return found


def gathered_chunks(
    matrix: Float[np.ndarray, "n d_embed"], places: Int[np.ndarray, " s"]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of ascending `places`, each with its rows in memory."""
    step = max(1, 4 * _CHUNK_ELEMENTS // max(1, matrix.shape[1]))
    for start in range(0, len(places), step):
        piece = places[start : start + step]
        yield piece, gather_rows(matrix, piece)


def distinct_rows(matrix: Float[np.ndarray, "n d_embed"], enough: int) -> list[int]:
    """The places of distinct rows, the first of each kind, until there are `enough`."""
    seen: set[bytes] = set()
    places: list[int] = []
    starts = chunk_starts(matrix)
    for start in starts:
        stop = min(start + starts.step, len(matrix))
        for place, row in enumerate(read_rows(matrix, start, stop) + 0.0, start):  # adding zero makes -0.0 and 0.0 one
            key = row.tobytes()
            if key not in seen:
                seen.add(key)
                places.append(place)
                if len(places) >= enough:
                    return places
        _give_back(matrix, start, stop)
    return places


def _in_order(run: Callable[[int], Result], starts: range) -> Iterator[Result]:
    if len(starts) < _THREADS_FROM:
        yield from map(run, starts)
        return
    with _one_thread_each() as n_threads, ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(run, starts)


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Bound linear algebra to one thread for each caller; yields how many threads it had."""
    try:
        from threadpoolctl import threadpool_info, threadpool_limits
    except ImportError:
        yield 1
        return
    n_threads = max(
        (library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"), default=1
    )
    with threadpool_limits(limits=1, user_api="blas"):
        yield n_threads


def _give_back(matrix: np.ndarray, start: int, stop: int) -> None:
    """Let the system take back the pages of some rows of a memory map; they are read again when they are needed."""
    mapped = getattr(matrix, "_mmap", None)
    if not isinstance(matrix, np.memmap) or not isinstance(mapped, mmap.mmap) or matrix.mode != "r":
        return
    if not hasattr(mmap, "MADV_DONTNEED") or not matrix.flags.c_contiguous:
        return
    # A view of a map keeps the whole map's `offset`, so places are taken from addresses.
    first = _address(matrix) - _address(np.frombuffer(mapped, dtype=np.uint8))
    page = mmap.PAGESIZE
    begin = (first + start * matrix.strides[0]) // page * page
    end = min(math.ceil((first + stop * matrix.strides[0]) / page) * page, len(mapped))
    if end > begin:
        mapped.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _address(array: Any) -> int:
    return array.__array_interface__["data"][0]
