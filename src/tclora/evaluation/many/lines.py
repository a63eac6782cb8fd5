"""Values on disk by key, one line each, so that a killed evaluation goes on where it was.

In: keys and values, in batches. Out: the same after a kill. Every batch is appended and flushed: a kill loses what was
running. A line holds the key, the value and a check of both. A torn or damaged line is not read, and its value is made
again.
"""

import json
import os
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

__all__ = ["LineStore"]

V = TypeVar("V")

# A flush survives a kill of the process; only a crash of the machine needs more, and that costs milliseconds.
_SYNC_EVERY_S = 5.0


class LineStore(Generic[V]):
    """Values by key. `_encode` and `_decode` are the kind's own: plain JSON, and back, or None where it is no value."""

    def __init__(self, path: Path):
        self.path = path
        self._values: dict[str, V] = self._read()
        self._file: Any = None
        self._synced = 0.0

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> V:
        return self._values[key]

    def add(self, values: Iterable[tuple[str, V]]) -> None:
        """Keep a batch of values, in memory and on disk."""
        if self._file is None:
            self._file = _opened(self.path)
        for key, value in values:
            plain = self._encode(value)
            self._values[key] = value
            self._file.write((json.dumps([key, plain, _check(key, plain)], allow_nan=False) + "\n").encode())
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_EVERY_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Put everything on disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _encode(self, value: V) -> Any:
        raise NotImplementedError

    def _decode(self, plain: Any) -> V | None:
        raise NotImplementedError

    def _read(self) -> dict[str, V]:
        if not self.path.is_file():
            return {}
        pairs = (_pair(line) for line in self.path.read_bytes().split(b"\n"))
        decoded = ((pair[0], self._decode(pair[1])) for pair in pairs if pair is not None)
        return {key: value for key, value in decoded if value is not None}


def _opened(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.is_file() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
    file = path.open("ab")
    if torn:
        # The half line becomes a line of its own, which no reader takes for a value.
        file.write(b"\n")
    return file


def _pair(line: bytes) -> tuple[str, Any] | None:
    try:
        key, plain, check = json.loads(line)
        sound = isinstance(key, str) and check == _check(key, plain)
    except (ValueError, TypeError, RecursionError):
        return None
    return (key, plain) if sound else None


def _check(key: str, plain: Any) -> str:
    return sha256(json.dumps([key, plain]).encode()).hexdigest()[:16]
