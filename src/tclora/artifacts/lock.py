"""One writer for a run folder. The kernel drops the lock of a killed process, so nothing has to be cleaned up."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tclora.artifacts.files import named_refusals
from tclora.errors import FolderInUseError

__all__ = ["folder_lock"]

_NAME = ".lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock for the block.

    Raises:
        FolderInUseError: another process holds it; names that process.
        ArtifactError: the file system refused the folder.
    """
    path = folder / _NAME
    with named_refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(descriptor, 64).decode(errors="replace").strip()
            os.close(descriptor)
            raise FolderInUseError(
                "another run is using this folder",
                where=path.parent,
                found=f"process {owner or 'unknown'}",
                do="wait for it, stop it, or choose another output",
            ) from None
        # The previous owner may have removed the file between our open and our lock: then try the new one.
        if _is_still(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
