"""A finished run's library as a benchmark wants it: one base load, adapters, rows in folds, cached losses.

In: the folder of a `tclora run`, which is only read, and a work folder. Out: a `RealLibrary`. Dev rows fall into two
halves, within every cluster by a seeded draw: on `choose` scales are chosen, on `report` figures are taken; `held_out`
are the rows of the task families that no adapter saw. `pools` are drawn from the training rows of each cluster and
`mix` from all of them by their sizes, so no method learns from a dev row. What a control scored in the run is taken
from the run's own cache where it is there.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tclora.adapters import Adapter, read_adapter
from tclora.clustering import assign_clusters, load_clusters
from tclora.config import RunConfig, load_config
from tclora.data import Example, read_examples
from tclora.encoding import load_encoder
from tclora.evaluation import Contestant
from tclora.evaluation.cache import adapter_digest, base_digest, load_rows, row_key, store_rows
from tclora.evaluation.rows import Row, RowSet, score_rows
from tclora.evaluation.scoring import score_contestants
from tclora.models import Base, attached, load_base, tokenize_example
from tclora.pipeline.experiments.adapter_arithmetic import adapter_norm as norm
from tclora.pipeline.experiments.adapter_arithmetic import cosine, scaled

__all__ = ["Losses", "RealLibrary", "Sizes", "cosine", "norm", "open_library", "scaled"]

CHOOSE, REPORT, HELD_OUT = "choose", "report", "held_out"
# The same, of the rows of the two largest clusters alone.
CHOOSE_TWO, REPORT_TWO = "choose_two", "report_two"
BATCH_SIZE = 32


@dataclass(frozen=True)
class Sizes:
    """Rows at most: of the three folds, of each cluster's training pool, and of the labelled mix."""

    choose: int
    report: int
    held_out: int
    pool: int
    mix: int


@dataclass(frozen=True)
class Losses:
    """Nats summed over the response of each row, and how many tokens that are."""

    nats: np.ndarray
    n_tokens: np.ndarray

    @property
    def mean(self) -> float:
        """Nats per response token."""
        return float(self.nats.sum() / self.n_tokens.sum())

    def of(self, rows: Sequence[int]) -> "Losses":
        """Some of the rows, by place."""
        return Losses(self.nats[list(rows)], self.n_tokens[list(rows)])


@dataclass(frozen=True)
class RealLibrary:
    """A run's library, and losses of any adapter on its rows."""

    config: RunConfig
    base: Base
    adapters: tuple[Adapter, ...]
    row_sets: Mapping[str, RowSet]
    folds: Mapping[str, tuple[int, ...]]
    pools: Mapping[str, Sequence[Example]]
    mix: Sequence[Example]
    run: Path
    cache: Path

    def losses(self, adapter: Adapter | None, fold: str) -> Losses:
        """Score the fold's rows with an adapter, or the base alone."""
        row_set, wanted = self.row_sets["held_out" if fold == HELD_OUT else "dev"], list(self.folds[fold])
        digest = None if adapter is None else adapter_digest(adapter)
        key = row_key(base_digest(self.base), digest, row_set, wanted)
        rows = load_rows(self.cache, key, len(wanted))
        if rows is None:
            with torch.no_grad():
                rows = self._ask(adapter, row_set, wanted)
            store_rows(self.cache, key, rows)
        return _as_losses(rows)

    def _ask(self, adapter: Adapter | None, row_set: RowSet, wanted: list[int]) -> list[Row]:
        if adapter is None:
            return score_rows(self.base, row_set, wanted, batch_size=BATCH_SIZE)
        with attached(self.base, adapter):
            return score_rows(self.base, row_set, wanted, batch_size=BATCH_SIZE)

    def controls(self) -> dict[str, dict[str, Losses]]:
        """Losses by fold of the base, the routed library and the multi-task adapter."""
        folders = [str(self.run / "library" / adapter.name) for adapter in self.adapters]
        multi_task = self.run / "library" / "multi-task"
        # The adapters take part so that the units of work are those of the run, whose cache then holds them.
        contestants = [
            Contestant("base", "base"),
            *(Contestant(Path(folder).name, "adapter", (folder,)) for folder in folders),
            Contestant("routed library", "routed", tuple(folders)),
            *([Contestant("multi-task", "multi_task", (str(multi_task),))] if multi_task.is_dir() else []),
        ]
        scored = score_contestants(self.base, contestants, self.row_sets, batch_size=BATCH_SIZE, cache=self.cache).rows
        shown = [c.name for c in contestants if c.kind != "adapter"]
        return {
            name: {
                fold: _as_losses(scored[name]["held_out" if fold == HELD_OUT else "dev"]).of(rows)
                for fold, rows in self.folds.items()
            }
            for name in shown
        }

    def largest_two(self) -> tuple[Adapter, Adapter]:
        """The two adapters whose clusters have the most dev rows."""
        first, second = _largest_two(self.row_sets["dev"].clusters)
        return self.adapters[first], self.adapters[second]


def open_library(run: Path, work: Path, sizes: Sizes, *, seed: int) -> RealLibrary:
    """Load the base once, read the adapters, tokenize the rows, draw the folds and the training samples."""
    config = load_config(run / "config.yaml")
    torch.set_num_threads(1)
    base = load_base(config.base)
    names = [f"cluster-{i}" for i in range(load_clusters(run / "cluster").n_clusters)]
    cache = work / "cache"
    if not cache.is_dir():
        shutil.copytree(run / "evaluate" / "cache", cache) if (run / "evaluate/cache").is_dir() else cache.mkdir()
    dev = read_examples(run / "data" / "dev.jsonl")
    labels = tuple(int(label) for label in np.load(run / "cluster" / "dev_labels.npy", allow_pickle=False))
    held_out = read_examples(run / "data" / "held_out.jsonl", allow_empty=True)
    row_sets = {
        "dev": _row_set(base, "dev", dev, labels),
        "held_out": _row_set(base, "held_out", held_out, _route(config, run, base, held_out)),
    }
    train = {name: read_examples(run / "cluster" / f"{name}.train.jsonl") for name in names}
    return RealLibrary(
        config=config,
        base=base,
        adapters=tuple(read_adapter(run / "library" / name) for name in names),
        row_sets=row_sets,
        folds=_folds(labels, len(held_out), sizes, seed),
        pools={name: _drawn(rows, sizes.pool, [seed, 1, i]) for i, (name, rows) in enumerate(train.items())},
        mix=_drawn([row for rows in train.values() for row in rows], sizes.mix, [seed, 2]),
        run=run,
        cache=cache,
    )


def _as_losses(rows: Sequence[Row]) -> Losses:
    pairs = [row for row in rows if not isinstance(row, str)]
    return Losses(np.array([nats for nats, _ in pairs]), np.array([count for _, count in pairs]))


def _row_set(base: Base, name: str, examples: Sequence[Example], clusters: tuple[int, ...]) -> RowSet:
    return RowSet(name, tuple(tokenize_example(base, example) for example in examples), clusters)


def _route(config: RunConfig, run: Path, base: Base, examples: Sequence[Example]) -> tuple[int, ...]:
    if not examples:
        return ()
    encoder = load_encoder(config.encode, run / "encode" / "encoder", base=lambda: base)
    embeddings = encoder.encode([example.text(config.encode.text) for example in examples])
    return tuple(int(label) for label in assign_clusters(embeddings, load_clusters(run / "cluster").centroids))


def _folds(labels: Sequence[int], n_held_out: int, sizes: Sizes, seed: int) -> dict[str, tuple[int, ...]]:
    """Every other row of each cluster, in a drawn order, to either half; then so many of each as are wanted."""
    halves: tuple[list[int], list[int]] = ([], [])
    generator = np.random.default_rng([seed, 3])
    for cluster in sorted(set(labels)):
        rows = generator.permutation([i for i, label in enumerate(labels) if label == cluster])
        for turn, row in enumerate(rows):
            halves[turn % 2].append(int(row))
    wanted = {CHOOSE: (halves[0], sizes.choose), REPORT: (halves[1], sizes.report)}
    wanted[HELD_OUT] = (list(range(n_held_out)), sizes.held_out)
    folds = {name: tuple(sorted(int(i) for i in generator.permutation(rows)[:k])) for name, (rows, k) in wanted.items()}
    two = _largest_two(labels)
    for whole, part in ((CHOOSE, CHOOSE_TWO), (REPORT, REPORT_TWO)):
        folds[part] = tuple(row for row in folds[whole] if labels[row] in two)
    return folds


def _largest_two(labels: Sequence[int]) -> tuple[int, int]:
    first, second = np.argsort(-np.bincount(labels), kind="stable")[:2]
    return int(first), int(second)


def _drawn(rows: Sequence[Example], k: int, key: list[int]) -> list[Example]:
    chosen = np.random.default_rng(key).permutation(len(rows))[:k]
    return [rows[int(i)] for i in sorted(chosen)]
