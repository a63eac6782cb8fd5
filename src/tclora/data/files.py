"""From path patterns to lines of text: which files are meant, and their bytes, decoded as they stream.

Paths may hold `~` and globs; the order is that of the patterns, and by name within one. Lines end at `\\n` only, and
are UTF-8 (a byte-order mark is taken off). Refused: no match, one file named twice, folders, pipes and devices, bytes
that are not UTF-8, a line over 8 MiB, a damaged gzip, and a gzip that grows beyond any real text.
"""

import glob
import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tclora.errors import DataError

__all__ = ["decode", "expand_paths", "peek", "read_lines", "read_whole"]

MAX_LINE_BYTES = 8 * 2**20
MAX_WHOLE_BYTES = 512 * 2**20
# Prose shrinks 3 to 5 times and the most repetitive real tables some 50 times; a gzip bomb shrinks 1000 times.
MAX_GZIP_RATIO = 200
GZIP_GRACE_BYTES = 16 * 2**20


def expand_paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that the patterns name, each a regular file (or a link to one).

    Raises:
        DataError: a pattern matches nothing or something that is not a file, or two patterns name one file.
    """
    patterns = [paths] if isinstance(paths, str | Path) else list(paths)
    if not patterns:
        raise DataError("no data file is named", expected="at least one path")
    files = [path for pattern in patterns for path in _matches(os.path.expanduser(pattern))]
    seen: dict[str, Path] = {}
    for path in files:
        real = os.path.realpath(path)
        if real in seen:
            raise DataError("a data file is named twice", where=path, found=f"also as {seen[real]}", do="name it once")
        seen[real] = path
    return files


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines without their line end, as they stream from a plain or gzipped file.

    Raises:
        DataError: the file cannot be read, or a line is too long or not UTF-8; names file and line.
    """
    with _opened(path) as stream:
        limit, total, number = _total_limit(path), 0, 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number, total = number + 1, total + len(raw)
            if len(raw) > MAX_LINE_BYTES:
                raise DataError(
                    "a line is too long",
                    where=f"{path}:{number}",
                    expected=f"at most {MAX_LINE_BYTES // 2**20} MiB",
                    do="put one example on each line, each ended by a line feed",
                )
            _check_total(path, total, limit)
            yield number, decode(raw, f"{path}:{number}", first=number == 1).rstrip("\r\n")


def read_whole(path: Path) -> str:
    """The text of a file that cannot be read line by line, at most 512 MiB of it."""
    with _opened(path) as stream:
        limit = _total_limit(path)
        raw = stream.read(min(limit, MAX_WHOLE_BYTES) + 1)
    _check_total(path, len(raw), limit)
    if len(raw) > MAX_WHOLE_BYTES:
        raise DataError(
            "a JSON array is too large to read at once",
            where=path,
            expected=f"at most {MAX_WHOLE_BYTES // 2**20} MiB",
            do="write it as JSON lines, one example on each line",
        )
    return decode(raw, str(path), first=True)


def peek(path: Path) -> str:
    """The first character that is not white space, or nothing for an empty file."""
    with _opened(path) as stream:
        head = stream.read(4096)
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1].decode("latin-1")


def decode(raw: bytes, where: str, *, first: bool = False) -> str:
    """UTF-8 bytes to text; `first` takes off a byte-order mark."""
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "the file is not UTF-8 text",
            where=where,
            found=f"byte 0x{raw[error.start]:02x} at offset {error.start} of the line",
            expected="UTF-8",
            do="convert it, e.g. with `iconv -t UTF-8`; a gzipped file must be called .gz",
        ) from None


def _matches(pattern: str) -> list[Path]:
    if "://" in pattern:
        raise DataError(
            "a data file is named by an address",
            where=pattern,
            expected="files on this machine",
            do="fetch it, e.g. `hf download OWNER/NAME --repo-type dataset --local-dir DIR`, and name DIR/*.parquet",
        )
    # A name that exists is taken as it stands, so that brackets in a file name are not read as a glob.
    try:
        found = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
    except ValueError:
        found = []
    if not found:
        raise DataError("no data file matches", where=pattern, do="check the path; globs and ~ are understood")
    return [_regular(Path(name)) for name in found]


def _regular(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError("a data file cannot be read", where=path, found=error.strerror) from None
    if stat.S_ISDIR(mode):
        raise DataError("a folder was named where a data file is wanted", where=path, do=f"name its files: {path}/*")
    if not stat.S_ISREG(mode):
        # Opening a pipe waits for its writer for ever, and a device may never end.
        raise DataError("a data file is a pipe, socket or device", where=path, expected="a regular file")
    return path


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    _regular(path)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            "the gzip file is damaged", where=path, found=str(error), do="fetch it again, or take off its .gz"
        ) from None
    except OSError as error:
        raise DataError("a data file cannot be read", where=path, found=error.strerror or str(error)) from None


def _total_limit(path: Path) -> int:
    size = path.stat().st_size
    return GZIP_GRACE_BYTES + MAX_GZIP_RATIO * size if path.suffix == ".gz" else max(size, MAX_WHOLE_BYTES)


def _check_total(path: Path, total: int, limit: int) -> None:
    if path.suffix == ".gz" and total > limit:
        raise DataError(
            "the gzip file unpacks to far more than real text does",
            where=path,
            found=f"over {total} bytes from {path.stat().st_size}",
            expected=f"at most {MAX_GZIP_RATIO} times its size",
            do="unpack it yourself if you trust it",
        )
