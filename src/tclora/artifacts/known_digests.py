"""Digests of large files, each computed once for as long as the file stays as it is; by another process, if asked.

A command spends its first seconds on imports, which hold the interpreter and leave a core idle. `begin_digests` has the
digests of its files taken meanwhile; who asks for one afterwards waits for that process, and computes what it did not.
This file is also the program that the process runs, and therefore needs nothing but the standard library.
"""

import atexit
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["begin_digests", "known_sha256"]

_BLOCK = 2**20

_Key = tuple[int, ...]
_known: dict[_Key, str] = {}
_at_work: list[subprocess.Popen[str]] = []
_one_at_a_time = threading.Lock()


def begin_digests(paths: Sequence[Path]) -> None:
    """Have the digests of some files taken by another process. A hint: what cannot be read is left out."""
    # Isolated and without site packages, the interpreter starts in a few hundredths of a second.
    command = [sys.executable, "-I", "-S", __file__, *map(str, paths)]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere, text=True)
    atexit.register(process.kill)
    _at_work.append(process)


def known_sha256(path: Path) -> str:
    """Hex SHA-256 of a regular file's bytes; remembered by the file's place on the disk, its size and its times.

    Raises:
        OSError: the file cannot be read.
    """
    with _one_at_a_time:
        while _at_work:
            _take_over(_at_work.pop())
        key = _key(os.stat(path))
        if key not in _known:
            before, digest, after = _digest(path)
            # What was written while it was read belongs to no state of the file.
            if before != after:
                return digest
            _known[before] = digest
            return digest
        return _known[key]


def _take_over(process: "subprocess.Popen[str]") -> None:
    said, _ = process.communicate()
    # What is after the last end of a line was cut off with the process.
    for line in said.split("\n")[:-1]:
        before, digest, after = json.loads(line)
        if before == after:
            _known[tuple(before)] = digest


def _digest(path: str | Path) -> tuple[_Key, str, _Key]:
    """What tells the states of a file apart, before and after its bytes were read, and the digest of those."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        before = _key(os.fstat(file.fileno()))
        while count := file.readinto(block):
            digest.update(block[:count])
        return before, digest.hexdigest(), _key(os.fstat(file.fileno()))


def _key(status: os.stat_result) -> _Key:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _print_digests(paths: Sequence[str]) -> None:
    for path in paths:
        try:
            sys.stdout.write(json.dumps(_digest(path)) + "\n")
        except OSError:
            continue


if __name__ == "__main__":
    _print_digests(sys.argv[1:])
