"""Answers on disk, one line each, so that a killed evaluation goes on where it was.

One file for each pair of a base and an adapter (or the bare base), to which every batch of answers is appended and
flushed: a kill loses the batch that was running. A line holds the digest of what was asked, the answer and a check
of both. A torn or damaged line is not read, and its item is asked again.
"""

import json
import math
import os
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tclora.artifacts import digest_of
from tclora.evaluation.tasks.task import Answer, Likelihoods

__all__ = ["AnswerStore", "answer_json", "store_name"]

_FORMAT = "tclora.evaluation.many/1"
# A flush survives a kill of the process; only a crash of the machine needs more, and that costs milliseconds.
_SYNC_EVERY_S = 5.0


def store_name(base: str, adapter: str | None, backend: str) -> str:
    """The name of the file that holds the answers of one adapter on one base."""
    return digest_of([_FORMAT, base, adapter, backend]) + ".jsonl"


class AnswerStore:
    """The answers of one adapter by the key of what was asked."""

    def __init__(self, path: Path):
        self.path = path
        self._answers = _read(path)
        self._file: Any = None
        self._synced = 0.0

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Answer:
        return self._answers[key]

    def add(self, answers: Iterable[tuple[str, Answer]]) -> None:
        """Keep a batch of answers, in memory and on disk."""
        if self._file is None:
            self._file = _opened(self.path)
        for key, answer in answers:
            value = answer_json(answer)
            self._answers[key] = answer
            self._file.write((json.dumps([key, value, _check(key, value)], allow_nan=False) + "\n").encode())
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


def answer_json(answer: Answer) -> Any:
    """An answer as plain JSON: a text, or sums, numbers of tokens and greedy flags."""
    if isinstance(answer, str):
        return answer
    return {"sums": list(answer.sums), "n_tokens": list(answer.n_tokens), "greedy": list(answer.greedy)}


def _opened(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.is_file() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
    file = path.open("ab")
    if torn:
        # The half line becomes a line of its own, which no reader takes for an answer.
        file.write(b"\n")
    return file


def _read(path: Path) -> dict[str, Answer]:
    if not path.is_file():
        return {}
    pairs = (_pair(line) for line in path.read_bytes().split(b"\n"))
    return dict(pair for pair in pairs if pair is not None)


def _pair(line: bytes) -> tuple[str, Answer] | None:
    try:
        key, value, check = json.loads(line)
        sound = isinstance(key, str) and check == _check(key, value)
    except (ValueError, TypeError, RecursionError):
        return None
    answer = _answer(value) if sound else None
    return None if answer is None else (key, answer)


def _answer(value: Any) -> Answer | None:
    if isinstance(value, str):
        return value
    sums, n_tokens, greedy = (tuple(value[name]) for name in ("sums", "n_tokens", "greedy"))
    return Likelihoods(sums, n_tokens, greedy) if all(map(math.isfinite, sums)) else None


def _check(key: str, value: Any) -> str:
    return sha256(json.dumps([key, value]).encode()).hexdigest()[:16]
