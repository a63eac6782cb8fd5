"""Losses and answers of any adapter on the rows of a fold, kept on disk.

In: a loaded base and a folder. Out: `Losses` by row. A result lies under the digest of base, adapter and rows, so a
killed experiment goes on, experiments that share the folder share their results, and nothing stale can be read.
Refused: losses that are not finite.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from tclora.adapters import Adapter
from tclora.data import Example
from tclora.evaluation import is_exact_match
from tclora.evaluation.cache import adapter_digest, base_digest, load_rows, row_key, store_rows
from tclora.evaluation.rows import Row, RowSet, score_rows
from tclora.models import Base, tokenize_prompt
from tclora.pipeline.experiments.folded import folded
from tclora.pipeline.experiments.rows import Fold
from tclora.shapes import Float, Int

__all__ = ["Losses", "Scorer", "answers_set"]


@dataclass(frozen=True)
class Losses:
    """Nats summed over the response of each row, and how many tokens that are."""

    nats: Float[np.ndarray, " n"]
    n_tokens: Int[np.ndarray, " n"]

    @property
    def mean(self) -> float:
        """Nats per response token."""
        return float(self.nats.sum() / self.n_tokens.sum())


@dataclass(frozen=True)
class Scorer:
    """One base load, any adapters."""

    base: Base
    cache: Path
    batch_size: int = 32

    @cached_property
    def base_key(self) -> str:
        """The digest of the base, of which every result's name is made."""
        return base_digest(self.base)

    def losses(self, adapter: Adapter | None, rows: RowSet, wanted: Sequence[int] | None = None) -> Losses:
        """Losses of some rows (None: all) with an adapter, or of the base alone."""
        found = self.rows(adapter, rows, list(range(len(rows.tokens)) if wanted is None else wanted))
        pairs = [row for row in found if not isinstance(row, str)]
        return Losses(
            np.array([nats for nats, _ in pairs], dtype=np.float64), np.array([n for _, n in pairs], dtype=np.int64)
        )

    def right(self, adapter: Adapter | None, answers: RowSet, fold: Fold, wanted: Sequence[int]) -> list[bool]:
        """Whether the generated answers to some of the fold's first rows are exactly right."""
        given = self.rows(adapter, answers, list(wanted))
        return [is_exact_match(str(answer), fold.examples[i].output) for i, answer in zip(wanted, given, strict=True)]

    def rows(self, adapter: Adapter | None, rows: RowSet, wanted: list[int]) -> list[Row]:
        """What `score_rows` gives for some rows, from the disk where it is there."""
        if not wanted:
            return []
        digest = None if adapter is None else adapter_digest(adapter)
        key = row_key(self.base_key, digest, rows, wanted)
        found = load_rows(self.cache, key, len(wanted))
        if found is None:
            with torch.no_grad():
                found = self._ask(adapter, rows, wanted)
            store_rows(self.cache, key, found)
        return found

    def _ask(self, adapter: Adapter | None, rows: RowSet, wanted: list[int]) -> list[Row]:
        if adapter is None:
            return score_rows(self.base, rows, wanted, batch_size=self.batch_size)
        with folded(self.base, adapter):
            return score_rows(self.base, rows, wanted, batch_size=self.batch_size)


def answers_set(base: Base, fold: Fold, most: int, max_new_tokens: int) -> RowSet:
    """The prompts of a fold's first rows, whose answers are to be generated."""
    some: Sequence[Example] = fold.examples[:most]
    tokens = tuple(tokenize_prompt(base, example) for example in some)
    routes = {name: groups[: len(some)] for name, groups in fold.rows.routes.items()}
    return RowSet(f"{fold.rows.name} answers", tokens, fold.rows.clusters[: len(some)], max_new_tokens, routes)
