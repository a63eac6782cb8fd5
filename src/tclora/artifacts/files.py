"""Digests and atomic writes.

A file is written under a temporary name beside its destination, flushed to disk and renamed; a folder likewise.
So a reader sees the old content or the new, never a part, and a killed process leaves only `.partial` names.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tclora.errors import ArtifactError, OutputExistsError

__all__ = [
    "digest_of",
    "fsync_folder",
    "read_json",
    "remove_partials",
    "sha256_file",
    "staged_folder",
    "write_bytes",
    "write_json",
]

_PARTIAL = ".partial"


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
    partial = path.parent / f".{path.name}.{os.getpid()}{_PARTIAL}"
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


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def staged_folder(destination: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `destination` when the block ends without an error.

    With `overwrite` the old folder is removed only after the new one is complete and on disk.

    Raises:
        OutputExistsError: the destination exists and `overwrite` is false.
    """
    if destination.exists() and not overwrite:
        raise OutputExistsError("the output exists", where=destination, do="choose another, or pass --overwrite")
    destination.parent.mkdir(parents=True, exist_ok=True)
    remove_partials(destination)
    staging = _partial_path(destination, "new")
    staging.mkdir()
    try:
        yield staging
        _fsync_tree(staging)
        _swap(staging, destination)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def remove_partials(destination: Path) -> None:
    """Remove what killed writers of `destination` left beside it, and put back what a swap had set aside."""
    aside = sorted(destination.parent.glob(f".{destination.name}.old-*{_PARTIAL}"))
    if aside and not destination.exists():
        aside[0].rename(destination)
    for left in destination.parent.glob(f".{destination.name}.*{_PARTIAL}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _partial_path(destination: Path, kind: str) -> Path:
    return destination.parent / f".{destination.name}.{kind}-{os.getpid()}{_PARTIAL}"


def _swap(staging: Path, destination: Path) -> None:
    if destination.exists():
        # rename() cannot replace a non-empty folder, so the old one steps aside first.
        aside = _partial_path(destination, "old")
        destination.rename(aside)
        staging.rename(destination)
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    else:
        staging.rename(destination)
    fsync_folder(destination.parent)


def _fsync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            fsync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)
