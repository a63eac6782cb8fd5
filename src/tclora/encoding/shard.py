"""One shard of the encoding, from texts to rows on disk: the same function here and on another machine.

In: an `EncodeJob`. Out: a folder with `rows.npy` and `progress.json`, and a `ShardRecord`. Texts are read a chunk at a
time; inside a chunk batches hold texts of like length, since a batch costs as much as its longest text; rows return to
their order. Each batch is checked: rows are finite, and of unit length or zero. A killed shard goes on from its last
commit and gives the same bytes; a finished one is only checked. Refused: a second writer, texts that are fewer than the
job says, rows that are not finite.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tclora.artifacts import folder_lock
from tclora.config import BaseModelConfig, EncodeConfig
from tclora.encoding.encoder import Encoder
from tclora.encoding.job import EncodeJob, ShardRecord
from tclora.encoding.rows_file import RowsFile, RowsState, RowsWriter, crc, open_rows, read_state, write_state
from tclora.encoding.sources import Chunk, RowSource, precomputed_source, text_source
from tclora.encoding.store import load_encoder
from tclora.errors import DataError, NumericalError
from tclora.execution import report
from tclora.models import load_base

__all__ = ["COMMIT_S", "encode_shard"]

COMMIT_S = 10.0
"""Seconds between commits inside a chunk: what a kill can cost. When they fall changes no byte."""

_UNIT = 1e-3
"""float16 keeps 11 bits: each entry is off by at most 2**-12 of itself, and so is the length of a row."""


def encode_shard(job: EncodeJob, *, encoder: Encoder | None = None) -> ShardRecord:
    """Embed the rows of a job into its folder, from wherever an earlier attempt stopped.

    The same job gives the same bytes on the same machine, killed and resumed or not. How far it is goes to `report`.

    Args:
        encoder: the encoder that the job's folder describes, where it is loaded already.

    Raises:
        DataError: the texts cannot be read, or are fewer than the job says.
        NumericalError: a row is not finite, or the encoder gave a row that is not of unit length; names the text.
        ArtifactError: another process is embedding this shard, or the rows cannot be written.
        ConfigError, MissingExtraError: the encoder cannot be loaded.
    """
    if job.n_rows < 1:
        raise DataError("there is nothing to embed", where=job.text_file, found=f"rows {job.start} to {job.stop}")
    file = RowsFile(Path(job.out), job.key, job.n_rows, job.config.dtype, job.chunk_rows)
    with folder_lock(file.folder):
        for left in file.folder.glob(".*.partial"):  # a killed writer's; the lock is held, so it belongs to nobody
            left.unlink(missing_ok=True)
        state = read_state(file)
        if state is None or len(state.crcs) < file.n_chunks:
            state = _embed(job, file, state, _source(job, encoder))
    return ShardRecord(
        name=job.name,
        rows_file=str(file.rows_path),
        n_rows=file.n_rows,
        d_embed=state.d_embed,
        dtype=file.dtype,
        chunk_rows=file.chunk_rows,
        chunk_crcs=state.crcs,
        wall_s=round(state.wall_s, 3),
    )


def _source(job: EncodeJob, encoder: Encoder | None) -> RowSource:
    if job.config.encoder == "precomputed":
        return precomputed_source(job)
    if encoder is None:
        base = job.base.model_dump_json() if job.base else None
        encoder = _cached_encoder(job.config.model_dump_json(), job.encoder_folder or "", base, job.key)
    return text_source(job, encoder)


@functools.lru_cache(maxsize=1)
def _cached_encoder(config_json: str, folder: str, base_json: str | None, key: str) -> Encoder:
    # The shards of a run share one encoder; a worker process loads it once. `key` tells another fit apart.
    @functools.cache
    def base():
        return load_base(BaseModelConfig.model_validate_json(base_json or "{}"))

    config = EncodeConfig.model_validate_json(config_json)
    return load_encoder(config, Path(folder), base=base if base_json else None)


def _embed(job: EncodeJob, file: RowsFile, state: RowsState | None, source: RowSource) -> RowsState:
    fresh = state is None or state.d_embed != source.d_embed
    now = RowsState(source.d_embed) if state is None or fresh else state
    report(job.name, _n_done(file, now), job.n_rows)
    lap = _lap()
    with open_rows(file, source.d_embed, fresh=fresh) as writer:
        for chunk in source.chunks(len(now.crcs)):
            now = _embed_chunk(job, writer, chunk, now, lap)
    return now


def _embed_chunk(
    job: EncodeJob, writer: RowsWriter, chunk: Chunk, state: RowsState, lap: Callable[[], float]
) -> RowsState:
    rows, state = _begun(writer, chunk, state)
    done, told = _n_done(writer.file, state), time.monotonic()
    done += sum(len(batch) for batch in chunk.batches[: state.open_batches])
    for number in range(state.open_batches, len(chunk.batches)):
        batch = chunk.batches[number]
        rows[batch] = _checked(chunk.embed(batch), job)
        done += len(batch)
        report(job.name, done, job.n_rows)
        if time.monotonic() - told >= COMMIT_S and number + 1 < len(chunk.batches):
            open_crc = crc(rows, _order(chunk, number + 1))
            state = replace(state, open_batches=number + 1, open_crc=open_crc, wall_s=state.wall_s + lap())
            _commit(writer, rows, len(state.crcs), state)
            told = time.monotonic()
    state = RowsState(state.d_embed, (*state.crcs, crc(rows)), wall_s=state.wall_s + lap())
    _commit(writer, rows, len(state.crcs) - 1, state)
    return state


def _begun(writer: RowsWriter, chunk: Chunk, state: RowsState) -> tuple[np.ndarray, RowsState]:
    """The rows of the open chunk as an earlier attempt left them, if they are sound."""
    if state.open_batches:
        rows = writer.read(len(state.crcs))
        if crc(rows, _order(chunk, state.open_batches)) == state.open_crc:
            return rows, state
    rows = np.zeros((chunk.n_rows, state.d_embed), dtype=writer.file.dtype)
    return rows, replace(state, open_batches=0, open_crc=0)


def _commit(writer: RowsWriter, rows: np.ndarray, index: int, state: RowsState) -> None:
    # In this order: the progress file never speaks of rows that are not on disk.
    writer.write(index, rows)
    write_state(writer.file, state)


def _checked(rows: np.ndarray, job: EncodeJob) -> np.ndarray:
    """The rows in the dtype they are stored in, each of unit length or zero."""
    stored = rows.astype(job.config.dtype)
    lengths = np.linalg.norm(stored.astype(np.float32), axis=1)
    off = np.abs(lengths - stored.any(axis=1))
    if not (off < _UNIT).all():
        raise NumericalError(
            "the encoder gave a row that is not of unit length",
            where=job.name,
            found=f"length {float(lengths[int(np.argmax(~(off < _UNIT)))]):.4g}",
            expected="1, or a row of zeros",
        )
    return stored


def _order(chunk: Chunk, n_batches: int) -> list[int]:
    return [index for batch in chunk.batches[:n_batches] for index in batch]


def _n_done(file: RowsFile, state: RowsState) -> int:
    return min(file.n_rows, len(state.crcs) * file.chunk_rows)


def _lap() -> Callable[[], float]:
    """A clock that gives the seconds since it was last read."""
    last = time.monotonic()

    def read() -> float:
        nonlocal last
        now, before = time.monotonic(), last
        last = now
        return now - before

    return read
