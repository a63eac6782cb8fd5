"""A `.npy` matrix that grows in place, chunk by chunk, and the small file that says which rows of it are done.

In: chunks of rows. Out: `rows.npy`, its header and size right from the start, and `progress.json`, replaced after the
rows it speaks of are flushed to disk. So a kill at any moment costs the rows since the last commit and nothing else. A
CRC-32 for each chunk finds rows that were damaged in between; embedding goes on before the first of them. Rows are
written by `pwrite` and not through a map, since a full disk is then an error and not a signal. Refused: a disk without
room for the whole matrix.

The folder belongs to one writer; the caller holds its lock.
"""

import errno
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tclora.artifacts import read_json, write_json
from tclora.errors import ArtifactError

__all__ = ["RowsFile", "RowsState", "RowsWriter", "crc", "header_bytes", "open_rows", "read_state", "write_state"]

_FORMAT = 1


@dataclass(frozen=True)
class RowsState:
    """What is known to be on disk: whole chunks, and batches of the chunk after them."""

    d_embed: int
    crcs: tuple[int, ...] = ()
    open_batches: int = 0
    open_crc: int = 0
    """Of the rows of the open chunk that are done, in the order of their batches."""
    wall_s: float = 0.0


@dataclass(frozen=True)
class RowsFile:
    """Where a shard's rows lie, and their shape. `key` says what they depend on."""

    folder: Path
    key: str
    n_rows: int
    dtype: str
    chunk_rows: int

    @property
    def rows_path(self) -> Path:
        return self.folder / "rows.npy"

    @property
    def state_path(self) -> Path:
        return self.folder / "progress.json"

    @property
    def n_chunks(self) -> int:
        return -(-self.n_rows // self.chunk_rows)

    def chunk(self, index: int) -> tuple[int, int]:
        """First and last-but-one row of a chunk."""
        return index * self.chunk_rows, min(self.n_rows, (index + 1) * self.chunk_rows)

    def identity(self) -> dict[str, object]:
        """What must agree for rows on disk to be this file's."""
        names = ("key", "n_rows", "dtype", "chunk_rows")
        return {"format": _FORMAT, **{name: getattr(self, name) for name in names}}


def read_state(file: RowsFile) -> RowsState | None:
    """How far the rows are, checked against their bytes; None where nothing can be used."""
    try:
        found = read_json(file.state_path)
        state = RowsState(**found["state"] | {"crcs": tuple(found["state"]["crcs"])})
        if {name: found[name] for name in file.identity()} != file.identity():
            return None
        with file.rows_path.open("rb") as rows:
            return _sound(file, state, rows)
    except (ArtifactError, OSError, KeyError, TypeError):
        return None


def write_state(file: RowsFile, state: RowsState) -> None:
    """Replace the progress file."""
    with _told(file):
        write_json(file.state_path, file.identity() | {"state": {**vars(state), "crcs": list(state.crcs)}})


@contextmanager
def open_rows(file: RowsFile, d_embed: int, *, fresh: bool) -> Iterator["RowsWriter"]:
    """A writer of chunks; with `fresh` the file is made anew, at its full size.

    Raises:
        ArtifactError: there is no room, or the file cannot be written.
    """
    head = header_bytes(file.n_rows, d_embed, file.dtype)
    with _told(file):
        descriptor = os.open(file.rows_path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if fresh else 0), 0o644)
    try:
        if fresh:
            with _told(file):
                file.state_path.unlink(missing_ok=True)
                _reserve(descriptor, len(head) + file.n_rows * d_embed * np.dtype(file.dtype).itemsize)
                os.pwrite(descriptor, head, 0)
        yield RowsWriter(file, descriptor, len(head), d_embed)
    finally:
        os.close(descriptor)


def header_bytes(n_rows: int, d_embed: int, dtype: str) -> bytes:
    """The head of a `.npy` file, as `numpy.save` writes it."""
    head = io.BytesIO()
    facts = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": (n_rows, d_embed)}
    np.lib.format.write_array_header_1_0(head, facts)
    return head.getvalue()


@dataclass(frozen=True)
class RowsWriter:
    """An open rows file: chunks in, chunks out."""

    file: RowsFile
    descriptor: int
    head: int
    d_embed: int

    def read(self, chunk: int) -> np.ndarray:
        """A chunk as it is on disk, as an array of its own."""
        start, stop = self.file.chunk(chunk)
        row_bytes = self.d_embed * np.dtype(self.file.dtype).itemsize
        with _told(self.file):
            raw = os.pread(self.descriptor, (stop - start) * row_bytes, self.head + start * row_bytes)
        return np.frombuffer(raw, dtype=self.file.dtype).reshape(stop - start, self.d_embed).copy()

    def write(self, chunk: int, rows: np.ndarray) -> None:
        """Put a chunk where it belongs, and on disk.

        Raises:
            ArtifactError: it cannot be written.
        """
        view, at = memoryview(rows.tobytes()), self.head + self.file.chunk(chunk)[0] * rows.itemsize * self.d_embed
        with _told(self.file):
            while view:
                written = os.pwrite(self.descriptor, view, at)
                view, at = view[written:], at + written
            os.fsync(self.descriptor)


def crc(rows: np.ndarray, order: Sequence[int] | None = None) -> int:
    """CRC-32 of rows, of those in `order` where it is given."""
    return zlib.crc32(np.ascontiguousarray(rows if order is None else rows[list(order)]).tobytes())


def _sound(file: RowsFile, state: RowsState, rows: io.BufferedReader) -> RowsState | None:
    """The state as far as the bytes bear it out."""
    head = header_bytes(file.n_rows, state.d_embed, file.dtype)
    row_bytes = state.d_embed * np.dtype(file.dtype).itemsize
    size = os.fstat(rows.fileno()).st_size
    if rows.read(len(head)) != head or size != len(head) + file.n_rows * row_bytes:
        return None
    for index, expected in enumerate(state.crcs):
        start, stop = file.chunk(index)
        if zlib.crc32(rows.read((stop - start) * row_bytes)) != expected:
            return RowsState(state.d_embed, state.crcs[:index], wall_s=state.wall_s)
    return state


def _reserve(descriptor: int, size: int) -> None:
    # Room is taken before the first text is embedded, so that a disk that is too small is known at once.
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.ftruncate(descriptor, size)


@contextmanager
def _told(file: RowsFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            "the embeddings cannot be written",
            where=file.folder,
            found=error.strerror or str(error),
            do="make room or mend the cause, then run the same command: it goes on from the rows that are done",
        ) from error
