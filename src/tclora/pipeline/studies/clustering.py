"""A study of clusterings: every combination of encoder, algorithm, number of clusters and seed, measured alike.

In: a run's settings and a study's. Out: a folder with one part for each cell, `study.json`, `cells.csv`, a table and a
plot. Each part is a stage: a killed study goes on, and one with more cells adds them to those that are there.
"""

import shutil
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, digest_of, folder_lock
from tclora.clustering import adjusted_rand, balance, normalized_mutual_information, purity, silhouette_of_sample
from tclora.config import RunConfig
from tclora.config.study import StudyConfig
from tclora.data import read_examples, task_groups
from tclora.errors import ConfigError
from tclora.evaluation import mean_loss, paired_difference
from tclora.models import load_base, local_base_path
from tclora.pipeline.checks.run_place import check_place
from tclora.pipeline.executors import executor_for
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.progress import Progress, Silent
from tclora.pipeline.stages.cluster import cluster_stage, read_cluster_record, read_labels
from tclora.pipeline.stages.data import data_stage
from tclora.pipeline.stages.encode import encode_stage
from tclora.pipeline.stages.train import train_stage
from tclora.pipeline.studies.cells import Cell, CellFolder, cells_of
from tclora.pipeline.studies.losses import Losses, losses_stage
from tclora.records import Score, StudyAgreement, StudyCell, StudyRecord
from tclora.reporting import write_study

__all__ = ["StudyResult", "study_clustering"]


@dataclass(frozen=True)
class StudyResult:
    """Where the study lies and what it found."""

    folder: Path
    record: StudyRecord
    wall_s: float


def study_clustering(
    config: RunConfig, study: StudyConfig, progress: Progress | None = None, *, overwrite: bool = False
) -> StudyResult:
    """Bring every cell to completion and write the table and the plot; with `overwrite`, from the beginning.

    Raises:
        OutputExistsError: the folder holds what no study wrote.
        ConfigError: a cell cannot be had, such as more clusters than examples; its name is in the error.
        ArtifactError: another process is using the folder.
    """
    start, told = time.monotonic(), progress or Silent()
    local_base_path(config.base)
    folder = Path(config.output).expanduser()
    with folder_lock(folder):
        check_place(RunFolder(folder))
        if overwrite:
            _clear(folder)
        record = _Study(config, study, folder, told).run()
        write_study(folder, record)
    return StudyResult(folder, record, round(time.monotonic() - start, 3))


def _clear(folder: Path) -> None:
    """Remove what a study writes, and nothing else that may lie in the folder."""
    for name in ("data", "encode", "cells", "libraries", "losses"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("study.json", "study.md", "study.svg", "cells.csv"):
        (folder / name).unlink(missing_ok=True)


class _Study:
    """One pass over the cells."""

    def __init__(self, config: RunConfig, study: StudyConfig, folder: Path, progress: Progress):
        self.config, self.study, self.folder, self.progress = config, study, folder, progress
        self.base = cache(lambda: load_base(config.base))
        self.labels: dict[Cell, np.ndarray] = {}
        self.losses: dict[Cell, Losses] = {}
        self.encoded: dict[str, Manifest] = {}

    def run(self) -> StudyRecord:
        cells = cells_of(self.config, self.study)
        shared = cells[0].folder(self.folder)
        self.data = data_stage(self.config, shared, self.progress)
        tasks = task_groups(read_examples([str(shared.data / "train.jsonl")]))
        known = np.array([place for place, task in enumerate(tasks) if task], dtype=np.int64)
        truth = np.unique([tasks[place] for place in known.tolist()], return_inverse=True)[1] if len(known) else None
        found = []
        for place, cell in enumerate(cells):
            self.progress.note(f"cell {place + 1} of {len(cells)}: {cell.name}")
            found.append(self._cell(cell, known, truth))
        found = [self._compared(cell, record) for cell, record in zip(cells, found, strict=True)]
        n_dev = len(read_labels(cells[0].folder(self.folder), "dev"))
        return StudyRecord(self.config.name, len(tasks), n_dev, tuple(found), tuple(_agreements(self.labels)))

    def _cell(self, cell: Cell, known: np.ndarray, truth: np.ndarray | None) -> StudyCell:
        config, run = cell.settings(self.config, self.study), cell.folder(self.folder)
        if cell.encoder not in self.encoded:
            # The seed of an encoder is the run's, not the cell's: cells of one encoder share its rows.
            shared = config.model_copy(update={"seed": self.config.seed})
            self.encoded[cell.encoder] = encode_stage(shared, run, self.data, self.progress)
        try:
            clustered = cluster_stage(config, run, self.data, self.encoded[cell.encoder], self.progress)
        except ConfigError as error:
            raise _elsewhere(error, f"cell {cell.name}, {error.where}") from None
        labels = self.labels[cell] = read_labels(run, "train")
        score = self._trained(cell, config, run, clustered) if cell.trains else None
        rows = np.load(run.encode / "train.npy", mmap_mode="r", allow_pickle=False)
        sizes = np.bincount(labels)
        return StudyCell(
            encoder=cell.encoder,
            clustering=cell.clustering,
            n_clusters=cell.n_clusters,
            seed=cell.seed,
            n_found=read_cluster_record(run).n_clusters,
            smallest=int(sizes.min()),
            balance=balance(sizes),
            silhouette=silhouette_of_sample(rows, labels, max_rows=self.study.silhouette_rows, seed=cell.seed),
            purity=None if truth is None else purity(labels[known], truth),
            task_nmi=None if truth is None else normalized_mutual_information(labels[known], truth),
            loss=score,
        )

    def _trained(self, cell: Cell, config: RunConfig, run: CellFolder, clustered: Manifest) -> Score:
        parts = {part: read_labels(run, part).tolist() for part in ("train", "dev")}
        # Equal partitions share a library. The seed decides its batches, so it belongs to the name.
        run = replace(run, library_name=digest_of({**parts, "encoder": "", "seed": config.seed})[:16])
        with executor_for(config, run) as executor:
            trained = train_stage(config, run, self.data, clustered, self.progress, executor)
        done = {"data": self.data, "cluster": clustered, "train": trained}
        nats, n_tokens = self.losses[cell] = losses_stage(config, run, done, self.base, self.progress)
        scored = n_tokens > 0
        return mean_loss(nats[scored], n_tokens[scored], n_bootstrap=self.study.n_bootstrap, seed=self.config.seed)

    def _compared(self, cell: Cell, record: StudyCell) -> StudyCell:
        """The record with its difference from random clusters of the same number, encoder and seed."""
        rivals = [
            other
            for other in self.losses
            if self.study.clusterings[other.clustering].algorithm == "random"
            and (other.encoder, other.n_clusters, other.seed) == (cell.encoder, cell.n_clusters, cell.seed)
        ]
        if cell not in self.losses or not rivals or rivals[0] == cell:
            return record
        nats, n_tokens = self.losses[cell]
        scored = n_tokens > 0
        pair = (nats[scored], self.losses[rivals[0]][0][scored], n_tokens[scored])
        difference = paired_difference(*pair, n_bootstrap=self.study.n_bootstrap, seed=self.config.seed)
        return replace(record, loss_less_random=difference)


def _elsewhere(error: ConfigError, where: str) -> ConfigError:
    """The same error with another place."""
    return ConfigError(error.what, where=where, found=error.found, expected=error.expected, do=error.do)


_ONE_THING = {
    "seeds": ("encoder", "clustering", "n_clusters"),
    "clusterings": ("encoder", "n_clusters", "seed"),
    "encoders": ("clustering", "n_clusters", "seed"),
}


def _agreements(labels: dict[Cell, np.ndarray]) -> list[StudyAgreement]:
    """For each thing that varies: how far the cells agree that differ in it alone, in the mean over pairs."""
    found = []
    for across, same in _ONE_THING.items():
        groups: dict[tuple, list[tuple[float, float]]] = {}
        for first, second in _pairs(list(labels), same):
            a, b = labels[first], labels[second]
            # Seeds that only repeat a comparison are averaged over.
            key = tuple(getattr(first, name) for name in same if name != "seed")
            groups.setdefault(key, []).append((adjusted_rand(a, b), normalized_mutual_information(a, b)))
        for key, pairs in groups.items():
            facts = dict(zip((name for name in same if name != "seed"), key, strict=True))
            ari, nmi = (float(np.mean(values)) for values in zip(*pairs, strict=True))
            found.append(
                StudyAgreement(
                    across, facts.get("encoder"), facts.get("clustering"), facts["n_clusters"], ari, nmi, len(pairs)
                )
            )
    return found


def _pairs(cells: list[Cell], same: tuple[str, ...]) -> list[tuple[Cell, Cell]]:
    return [
        (first, second)
        for place, first in enumerate(cells)
        for second in cells[place + 1 :]
        if all(getattr(first, name) == getattr(second, name) for name in same)
    ]
