"""Digests of large files, each computed once for as long as the file stays as it is; by another process, if asked.

A command spends its first seconds on imports, which hold the interpreter and leave a core idle. `begin_digests` has the
digests of its files taken meanwhile; who asks for one of those waits until that process has come to it, and computes
what it could not. This file is also the program that the process runs: it needs nothing but the standard library.
"""

import atexit
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["begin_digests", "known_sha256"]

_BLOCK = 2**20
# How long a process that was killed may take to be gone.
_GONE_S = 2.0

_Key = tuple[int, ...]


@dataclass(frozen=True)
class _Helper:
    """The process that takes digests, and the files that it was given."""

    process: "subprocess.Popen[str]"
    files: frozenset[_Key]


_known: dict[_Key, str] = {}
_at_work: list[_Helper] = []
_one_at_a_time = threading.Lock()


def begin_digests(paths: Sequence[Path]) -> None:
    """Have the digests of some files taken by another process. A hint: what fails here is done by who asks."""
    _end_helpers()
    files: set[_Key] = set()
    for path in paths:
        with suppress(OSError):
            files.add(_key(os.stat(path)))
    with suppress(OSError, ValueError):
        if files and sys.executable:
            # Isolated and without site packages, the interpreter starts in a few hundredths of a second.
            command = [sys.executable, "-I", "-S", __file__, *map(str, paths)]
            nowhere = subprocess.DEVNULL
            process = subprocess.Popen(
                command, stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere, encoding="utf-8", errors="replace"
            )
            _at_work.append(_Helper(process, frozenset(files)))


def known_sha256(path: Path) -> str:
    """Hex SHA-256 of a regular file's bytes; remembered by the file's place on the disk, its size and its times.

    Raises:
        OSError: the file cannot be read.
    """
    with _one_at_a_time:
        key = _key(os.stat(path))
        for helper in list(_at_work):
            _listen(helper, key)
        if key in _known:
            return _known[key]
        before, digest, after = _digest(path)
        # What was written while it was read belongs to no state of the file.
        if before == after:
            _known[before] = digest
        return digest


def _listen(helper: _Helper, wanted: _Key) -> None:
    """Take what the process says until it has said what is wanted, or has ended."""
    if wanted not in helper.files or helper.process.stdout is None:
        return
    while wanted not in _known and (line := helper.process.stdout.readline()):
        # An interpreter may be a script that says more than it should.
        with suppress(ValueError, TypeError):
            before, digest, after = json.loads(line)
            if before == after:
                _known[tuple(before)] = str(digest)


@atexit.register
def _end_helpers() -> None:
    while _at_work:
        process = _at_work.pop().process
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GONE_S)


def _digest(path: str | Path, wanted: Callable[[], bool] = lambda: True) -> tuple[_Key, str, _Key]:
    """What tells the states of a file apart, before and after its bytes were read, and the digest of those."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        before = _key(os.fstat(file.fileno()))
        while wanted() and (count := file.readinto(block)):
            digest.update(block[:count])
        return before, digest.hexdigest(), _key(os.fstat(file.fileno()))


def _key(status: os.stat_result) -> _Key:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _print_digests(paths: Sequence[str]) -> None:
    """One line a file, for as long as the process that asked is there."""
    parent = os.getppid()
    for path in paths:
        with suppress(OSError):
            found = _digest(path, lambda: os.getppid() == parent)
            if os.getppid() != parent:
                return
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _print_digests(sys.argv[1:])
