"""What one shard of the encoding is, as a picklable value, and what is stated about it when it is done.

A shard is a run of rows of one file of examples. Shards begin at multiples of the chunk, so that batches, and with them
the bytes, do not depend on how many shards there are.
"""

from dataclasses import dataclass

from tclora.config import BaseModelConfig, EncodeConfig

__all__ = ["CHUNK_ROWS", "MAX_SHARDS", "EncodeJob", "ShardRecord", "shard_ranges"]

CHUNK_ROWS = 4096
"""Texts read, sorted by length and embedded together; with one batch of rows all that is held in memory."""

MAX_SHARDS = 128
"""More workers than this are not kept busy. Fewer shards would be uneven work, more would read past the rows before
them for longer than they embed their own."""


@dataclass(frozen=True)
class EncodeJob:
    """One shard to embed: an executor may run it in another process or on another machine."""

    name: str
    config: EncodeConfig
    text_file: str
    """Examples as `tclora.data.write_examples` writes them; not read by `precomputed`."""
    start: int
    stop: int
    """Rows `start` to `stop` of the file."""
    out: str
    """The shard's own folder, made if it is missing."""
    key: str
    """The digest of all that the rows depend on; a folder of another key is begun anew."""
    encoder_folder: str | None = None
    """Where `save_encoder` put the encoder; None for `precomputed`."""
    base: BaseModelConfig | None = None
    """For `hidden_states`."""
    first_row: int = 0
    """precomputed: the row of `config.path` that belongs to row 0 of the text file."""
    chunk_rows: int = CHUNK_ROWS

    @property
    def n_rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard."""

    name: str
    rows_file: str
    n_rows: int
    d_embed: int
    dtype: str
    chunk_rows: int
    chunk_crcs: tuple[int, ...]
    """CRC-32 of each chunk's bytes, so that damage before the shards are joined is found."""
    wall_s: float
    """Seconds spent reading, embedding and writing, all attempts together; loading the encoder is left out."""


def shard_ranges(
    n_rows: int, *, max_shards: int = MAX_SHARDS, chunk_rows: int = CHUNK_ROWS
) -> tuple[tuple[int, int], ...]:
    """(start, stop) of at most `max_shards` shards of whole chunks; the last one may be shorter.

    They do not depend on the number of workers, so that what one set of workers finished serves another.
    """
    n_chunks = -(-n_rows // chunk_rows)
    step = max(1, -(-n_chunks // max_shards)) * chunk_rows
    return tuple((start, min(n_rows, start + step)) for start in range(0, n_rows, step))
