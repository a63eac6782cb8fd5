"""From a contestant's settings to adapters that can be scored.

In: an open library and a contestant's settings. Out: a `Candidate`: no adapter (the base), one, or one for each group
of rows; and its losses on a fold at a scale. Refused: as the merge itself; nothing that could be told from the settings
is refused here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tclora.adapters import Adapter
from tclora.config.experiment_merges import ContestantConfig
from tclora.evaluation.rows import RowSet
from tclora.merging import merge_adapters
from tclora.merging.learning import learns
from tclora.pipeline.checks.cut_rank import cut_rank, largest_rank
from tclora.pipeline.experiments.adapter_arithmetic import random_like, scaled
from tclora.pipeline.experiments.learn import learned_settings
from tclora.pipeline.experiments.library import OpenLibrary
from tclora.pipeline.experiments.losses import Losses
from tclora.pipeline.experiments.rows import CHOOSE, REPORT
from tclora.pipeline.layout import RANDOM_CLUSTERS
from tclora.pipeline.progress import Progress

__all__ = ["Candidate", "Entrants"]


@dataclass(frozen=True)
class Candidate:
    """Adapters that answer for one contestant: none for the base, one, or one for each group where it is routed."""

    library: OpenLibrary
    adapters: tuple[Adapter, ...]
    routed: bool = False
    route: str | None = None
    """The assignment by which rows find their adapter; None: the clusters."""
    relative_error: float | None = None
    cut_error: float | None = None
    source: str | None = None

    @property
    def single(self) -> Adapter | None:
        """The one adapter, where there is just one."""
        return self.adapters[0] if len(self.adapters) == 1 and not self.routed else None

    @property
    def rank(self) -> int | None:
        """The largest rank over its modules, of a single adapter."""
        return None if self.single is None else largest_rank(self.single)

    def losses(self, fold: str, scale: float) -> Losses:
        """Losses on every row of a fold."""
        return self._losses(self.library.folds[fold].rows, scale)

    def right(self, scale: float) -> list[bool]:
        """Which generated answers to the first `report` rows are exactly right; empty where none were asked for."""
        answers, fold = self.library.answers, self.library.folds[REPORT]
        if answers is None:
            return []
        found = [False] * len(answers.tokens)
        for adapter, wanted in self._shares(answers):
            given = None if adapter is None else scaled(adapter, scale)
            for i, right in zip(wanted, self.library.scorer.right(given, answers, fold, wanted), strict=True):
                found[i] = right
        return found

    def _losses(self, rows: RowSet, scale: float) -> Losses:
        nats, n_tokens = np.zeros(len(rows.tokens)), np.zeros(len(rows.tokens), dtype=np.int64)
        for adapter, wanted in self._shares(rows):
            found = self.library.scorer.losses(None if adapter is None else scaled(adapter, scale), rows, wanted)
            nats[wanted], n_tokens[wanted] = found.nats, found.n_tokens
        return Losses(nats, n_tokens)

    def _shares(self, rows: RowSet) -> list[tuple[Adapter | None, list[int]]]:
        """Which adapter answers which rows."""
        if not self.routed:
            return [(self.single, list(range(len(rows.tokens))))]
        groups = np.array(rows.groups(self.route), dtype=np.int64)
        return [(self.adapters[index], np.flatnonzero(groups == index).tolist()) for index in np.unique(groups)]


class Entrants:
    """The contestants of one library, made when they are first asked for."""

    def __init__(self, library: OpenLibrary, settings: Mapping[str, ContestantConfig], work: Path, progress: Progress):
        self.library, self.settings, self.work, self.progress = library, settings, work, progress
        self._found: dict[str, Candidate] = {}

    def __getitem__(self, name: str) -> Candidate:
        if name not in self._found:
            self._found[name] = self._made(self.settings[name])
        return self._found[name]

    @cached_property
    def _makers(self):
        return {
            "base": lambda _: Candidate(self.library, ()),
            "multi_task": lambda _: Candidate(self.library, (self.library.multi_task(),)),
            "routed": self._routed,
            "best_single": self._best_single,
            "random_factors": self._random_factors,
            "merge": self._merged,
        }

    def _made(self, one: ContestantConfig) -> Candidate:
        return self._makers[one.kind](one)

    def _routed(self, one: ContestantConfig) -> Candidate:
        route = RANDOM_CLUSTERS if one.of == "random_clusters" else None
        return Candidate(self.library, self.library.of(one.of), routed=True, route=route)

    def _best_single(self, one: ContestantConfig) -> Candidate:
        """The adapter with the lowest loss on the rows of `choose`, each at scale 1."""
        candidates = [Candidate(self.library, (adapter,), source=adapter.name) for adapter in self.library.of(one.of)]
        return min(candidates, key=lambda candidate: candidate.losses(CHOOSE, 1.0).mean)

    def _random_factors(self, one: ContestantConfig) -> Candidate:
        like = self[one.like or ""].single
        assert like is not None  # a merge is one adapter, and `like` names a merge
        return Candidate(self.library, (random_like(like, seed=self.library.seed),), source=one.like)

    def _merged(self, one: ContestantConfig) -> Candidate:
        adapters, method = self.library.of(one.of), one.method or ""
        params, learned = one.params, None
        if learns(method):
            params, learned = learned_settings(self.library, one, self.work, self.progress)
        # A control has as many rows in its groups as the library has in its clusters.
        sizes = self.library.sizes
        weights = tuple(size / sum(sizes) for size in sizes) if one.weights == "size" else learned
        result = merge_adapters(adapters, method, params=params, adapter_weights=weights, workers=1)
        if one.output_rank is None:
            return Candidate(self.library, (result.adapter,), relative_error=result.relative_error)
        cut, lost = cut_rank(result.adapter, one.output_rank)
        error = max(lost.values(), default=None)
        return Candidate(self.library, (cut,), relative_error=result.relative_error, cut_error=error)
