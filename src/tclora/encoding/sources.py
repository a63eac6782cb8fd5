"""Where the rows of a shard come from: texts through an encoder, or the user's own matrix.

In: an `EncodeJob` and the number of chunks that are done. Out: the chunks after them, each with its batches and a
function from a batch to its rows. One chunk of texts is held at a time. Refused: texts that are fewer than the job
says; rows that are not finite, by the line of the text or the row of the matrix.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tclora.data import iter_examples
from tclora.encoding.encoder import Encoder, RowError, unit_rows
from tclora.encoding.job import EncodeJob
from tclora.encoding.precomputed import open_precomputed
from tclora.errors import DataError, NumericalError

__all__ = ["Chunk", "RowSource", "length_batches", "precomputed_source", "text_source"]


@dataclass(frozen=True)
class Chunk:
    """Some rows of a shard: `batches` hold their indices within the chunk, `embed` makes a batch's rows."""

    n_rows: int
    batches: list[list[int]]
    embed: Callable[[list[int]], np.ndarray]


@dataclass(frozen=True)
class RowSource:
    """How long rows are, and the chunks of a shard from a given one on."""

    d_embed: int
    chunks: Callable[[int], Iterator[Chunk]]


def length_batches(texts: Sequence[str], batch_size: int) -> list[list[int]]:
    """Indices in batches of texts of like length, the longest texts first; equal lengths keep their order.

    The other batches come in a fixed mixed order: so the speed seen so far tells the time that is left, and a batch too
    large for the device fails at once.
    """
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    mixed: list[int] = np.random.default_rng(0).permutation(len(batches) - 1).tolist() if len(batches) > 1 else []
    return batches[:1] + [batches[1 + index] for index in mixed]


def text_source(job: EncodeJob, encoder: Encoder) -> RowSource:
    """Rows of the job's texts."""
    return RowSource(encoder.d_embed, lambda first: _text_chunks(job, encoder, first))


def precomputed_source(job: EncodeJob) -> RowSource:
    """Rows of the user's matrix, scaled to unit length."""
    rows = open_precomputed(job.config.path)
    return RowSource(int(rows.shape[1]), lambda first: _matrix_chunks(job, rows, first))


def _text_chunks(job: EncodeJob, encoder: Encoder, first: int) -> Iterator[Chunk]:
    begin = job.start + first * job.chunk_rows
    examples = iter_examples(job.text_file, start=begin, stop=job.stop)
    for start in range(begin, job.stop, job.chunk_rows):
        n_rows = min(job.chunk_rows, job.stop - start)
        texts = [example.text(job.config.text) for example in islice(examples, n_rows)]
        if len(texts) < n_rows:
            raise DataError(
                "there are fewer texts than rows to embed",
                where=job.text_file,
                found=f"{start + len(texts)} examples",
                expected=f"{job.stop} or more",
                do="run the data stage again",
            )
        yield Chunk(n_rows, length_batches(texts, encoder.batch_size), _embedder(job, encoder, texts, start))


def _embedder(job: EncodeJob, encoder: Encoder, texts: list[str], start: int) -> Callable[[list[int]], np.ndarray]:
    def embed(batch: list[int]) -> np.ndarray:
        try:
            return encoder.encode([texts[index] for index in batch])
        except RowError as error:
            raise NumericalError(
                "a text's embedding holds NaN or infinity",
                where=f"{job.text_file}:{start + batch[error.row] + 1}",
                found=f"encoder {encoder.name}",
                expected="finite numbers",
                do="take the text out, or let the model compute in float32 (encode.compute_dtype, base.dtype)",
            ) from error

    return embed


def _matrix_chunks(job: EncodeJob, rows: np.ndarray, first: int) -> Iterator[Chunk]:
    for start in range(job.start + first * job.chunk_rows, job.stop, job.chunk_rows):
        at, n_rows = job.first_row + start, min(job.chunk_rows, job.stop - start)
        yield Chunk(n_rows, [list(range(n_rows))], _unit_part(job, rows, at))


def _unit_part(job: EncodeJob, rows: np.ndarray, at: int) -> Callable[[list[int]], np.ndarray]:
    def embed(batch: list[int]) -> np.ndarray:
        try:
            return unit_rows(np.asarray(rows[at : at + len(batch)], dtype=np.float64), where=str(job.config.path))
        except RowError as error:
            raise NumericalError(
                "an embedding holds NaN or infinity",
                where=f"{job.config.path}, row {at + error.row}",
                expected="finite numbers",
            ) from error

    return embed
