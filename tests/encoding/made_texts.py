"""Texts, jobs and an encoder that tests of the streaming share."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tclora.config import EncodeConfig
from tclora.data import Example, write_examples
from tclora.encoding import EncodeJob

COLORS = ["red", "green", "blue", "yellow", "white", "black", "pink", "gray"]
SUMS = [f"Add the numbers {i} and {i + 3} and give the sum." for i in range(40)]
PAINT = [f"Paint the house {COLORS[i % 8]} and the door {COLORS[i % 5]}." for i in range(40)]
TEXTS = SUMS + PAINT


@dataclass(frozen=True)
class HashEncoder:
    """Rows that depend on the text alone, so that any mix-up of order, batch or chunk shows."""

    d_embed: int = 6
    batch_size: int = 3
    calls: list[int] = field(default_factory=list)
    fail_after: int | None = None

    @property
    def name(self) -> str:
        return "hash"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        self.calls.append(len(texts))
        return expected_rows(texts, self.d_embed)


def expected_rows(texts: Sequence[str], d_embed: int = 6) -> np.ndarray:
    rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:d_embed], dtype=np.uint8) for text in texts]
    wide = np.array(rows, dtype=np.float64).reshape(len(texts), d_embed)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def made_texts(n: int) -> list[str]:
    """Texts of very different lengths, in no order of length."""
    return [f"{i} " + "word " * (i * 7 % 23) for i in range(n)]


def job_of(folder: Path, n: int, **changes) -> EncodeJob:
    """A job over `n` made texts, in chunks of 10 rows."""
    path = folder / "texts.jsonl"
    if not path.exists():
        write_examples(path, [Example(text, output="x") for text in made_texts(n)])
    facts = {
        "name": "texts",
        "config": EncodeConfig(),
        "text_file": str(path),
        "start": 0,
        "stop": n,
        "out": str(folder / "shard"),
        "key": "k",
        "chunk_rows": 10,
    }
    return EncodeJob(**(facts | changes))
