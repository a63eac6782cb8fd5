"""Shards to one matrix, a chunk at a time.

In: the records of all shards of a matrix, in order. Out: one `.npy` file, byte for byte what a single shard would have
been. No more than a chunk is held in memory; on disk the shards and the matrix exist side by side until the caller
removes the shards. Refused: shards that differ in width or dtype, and a shard whose bytes have changed since it was
finished.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tclora.artifacts import fsync_folder, partial_name
from tclora.encoding.job import ShardRecord
from tclora.encoding.rows_file import header_bytes
from tclora.errors import ArtifactError

__all__ = ["join_shards"]


def join_shards(records: Sequence[ShardRecord], out: Path) -> Path:
    """Write the shards one after another into `out`, which appears whole or not at all.

    Returns:
        where the matrix is: `out`, or for a single shard the shard's own file, which needs no copy.

    Raises:
        ArtifactError: the shards do not belong together, one was damaged, or the matrix cannot be written.
    """
    kinds = {(record.d_embed, record.dtype) for record in records}
    if len(kinds) != 1:
        raise ArtifactError(
            "the shards are not of one matrix", where=out, found=sorted(kinds), do="remove them and run it again"
        )
    if len(records) == 1:
        return Path(records[0].rows_file)
    ((d_embed, dtype),) = kinds
    n_rows = sum(record.n_rows for record in records)
    partial = out.with_name(partial_name(out.name))
    try:
        with partial.open("wb") as file:
            file.write(header_bytes(n_rows, d_embed, dtype))
            for record in records:
                for piece in _pieces(record):
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
        fsync_folder(out.parent)
    except OSError as error:
        raise ArtifactError(
            "the embeddings cannot be written", where=out, found=error.strerror or str(error)
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return out


def _pieces(record: ShardRecord):
    """The chunks of a shard as bytes, each checked."""
    row_bytes = record.d_embed * np.dtype(record.dtype).itemsize
    with Path(record.rows_file).open("rb") as file:
        file.seek(len(header_bytes(record.n_rows, record.d_embed, record.dtype)))
        for index, expected in enumerate(record.chunk_crcs):
            n_rows = min(record.chunk_rows, record.n_rows - index * record.chunk_rows)
            piece = file.read(n_rows * row_bytes)
            if zlib.crc32(piece) != expected:
                raise ArtifactError(
                    "a finished shard was damaged",
                    where=record.rows_file,
                    found=f"other bytes in rows {index * record.chunk_rows} and after",
                    do="run the same command: the damaged rows are embedded again",
                )
            yield piece
