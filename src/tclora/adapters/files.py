"""Opening files that came from somewhere else: regular files only, bounded sizes, strict JSON, digests.

In: a path or bytes. Out: parsed JSON objects, sizes, sha256 digests. Refused: pipes, devices, dangling links, files
over a limit, and JSON with duplicate keys, NaN, or an object missing at the top.
"""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from tclora.artifacts import known_sha256
from tclora.errors import AdapterError

__all__ = ["FileState", "file_key", "file_sha256", "file_size", "file_state", "parse_json", "read_bounded"]

FileState = tuple[int, int, int, int]

_KEY_PIECES, _KEY_BYTES = 17, 65536


def file_size(path: Path) -> int:
    """The size in bytes of a regular file, or of the regular file that a link leads to.

    Raises:
        AdapterError: nothing is there, a link leads nowhere, or it is a pipe, a device or a folder.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        dangling = "a link that leads nowhere" if os.path.islink(path) else None
        raise AdapterError(
            f"cannot open {path.name}",
            where=path.parent,
            found=dangling or getattr(error, "strerror", None) or str(error),
            expected="a regular file",
            do="check the path and its permissions, or download the adapter again",
        ) from None
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would wait for ever for somebody to write into it.
        raise AdapterError(
            f"{path.name} is not a regular file",
            where=path.parent,
            found=_kind_of_file(status.st_mode),
            expected="a regular file, or a link to one",
        )
    return status.st_size


def file_state(path: Path) -> FileState:
    """What changes when a file is replaced or written to: its place on the disk, its size and its time.

    Raises:
        AdapterError: it is gone, or no regular file.
    """
    file_size(path)
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def file_key(path: Path) -> str:
    """A key that orders large files by content without reading them whole: their size and pieces spread over them.

    Equal keys do not prove equal files; unequal keys prove unequal ones.
    """
    size = file_size(path)
    digest = hashlib.sha256(str(size).encode())
    try:
        with open(path, "rb") as file:
            for piece in range(_KEY_PIECES):
                file.seek(piece * max(0, size - _KEY_BYTES) // (_KEY_PIECES - 1))
                digest.update(file.read(_KEY_BYTES))
    except OSError as error:
        raise AdapterError(f"cannot read {path.name}", where=path.parent, found=error.strerror) from None
    return digest.hexdigest()


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        AdapterError: it is not a regular file, is larger, or cannot be read.
    """
    size = file_size(path)
    if size > limit:
        raise AdapterError(
            f"{path.name} is too large", where=path.parent, found=f"{size} bytes", expected=f"at most {limit} bytes"
        )
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise AdapterError(f"cannot read {path.name}", where=path.parent, found=error.strerror) from None


def parse_json(raw: bytes, *, what: str, where: object) -> dict[str, Any]:
    """Parse one JSON object, refusing what other readers would each understand in their own way.

    Raises:
        AdapterError: not UTF-8, not JSON, not an object, a key given twice, or NaN or infinity as a number.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise AdapterError(f"{what} is nested too deeply", where=where, expected="a flat JSON object") from None
    except ValueError as error:
        raise AdapterError(f"{what} is not strict JSON", where=where, found=str(error)[:300]) from None
    if not isinstance(value, dict):
        raise AdapterError(f"{what} is not a JSON object", where=where, found=type(value).__name__)
    return value


def file_sha256(path: Path) -> str:
    """The sha256 of a regular file, in hexadecimal; computed once for as long as the file stays as it is."""
    file_size(path)
    return known_sha256(path)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key '{twice[:100]}' is given twice")
    return table


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _kind_of_file(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
