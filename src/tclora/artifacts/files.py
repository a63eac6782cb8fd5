"""Digests and atomic writes.

A file is written under a temporary name beside its destination, flushed to disk and renamed. So a reader sees the old
content or the new, never a part, and a killed process leaves only a `.partial` name.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tclora.errors import ArtifactError

__all__ = [
    "digest_of",
    "fsync_folder",
    "named_refusals",
    "partial_name",
    "partial_pattern",
    "read_json",
    "sha256_file",
    "write_bytes",
    "write_json",
]

_PARTIAL = ".partial"
# Bytes of a name that a temporary name repeats; file systems take 255 in all.
_LONGEST = 180


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form, so that equal values have equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Read one JSON file; a damaged one raises `ArtifactError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError("a file is not readable JSON", where=path, found=str(error), do="run it again") from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON, atomically, with sorted-as-given keys."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: temporary name, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / partial_name(path.name)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


@contextmanager
def named_refusals(place: Path) -> Iterator[None]:
    """Say what the file system refused, and where.

    Raises:
        ArtifactError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            "the output could not be written",
            where=place,
            found=error.strerror or str(error),
            do="make room or choose another place; nothing was left behind",
        ) from error


def partial_name(name: str, kind: str = "") -> str:
    """The hidden name under which this process writes what will be called `name`."""
    return f".{_stem(name)}.{kind and kind + '-'}{os.getpid()}{_PARTIAL}"


def partial_pattern(name: str) -> re.Pattern[str]:
    """The hidden names of what any process writes for `name`, and of nothing else; the group `kind` may be empty."""
    return re.compile(rf"\.{re.escape(_stem(name))}\.(?:(?P<kind>\w+)-)?\d+{re.escape(_PARTIAL)}")


def _stem(name: str) -> str:
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    return os.fsencode(name)[: _LONGEST // 2].decode(errors="ignore") + "-" + digest_of(name)[:16]


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
