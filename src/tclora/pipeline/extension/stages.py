"""The stages of one extension, each in its own folder below `extensions/ID`, each skipped where it is finished.

In: an `ExtendJob`. Out: `cluster/` (centroids, the files of the clusters that changed, samples, the record),
`library/` (the adapters that are trained anew) and `merge/` (the run's merges over the whole library). Nothing
outside the extension's folder is written: until the index names it, the old library stands.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from tclora.adapters import read_adapter
from tclora.artifacts import read_json, write_json
from tclora.clustering import load_clusters, save_clusters, summarize_clusters
from tclora.config import MergeConfig, RunConfig, TrainConfig
from tclora.data import Example, read_examples, write_examples
from tclora.merging import parse_params
from tclora.merging.learning import learns
from tclora.models import base_files_digest
from tclora.pipeline.executors import executor_for
from tclora.pipeline.extension.assign import Assignment
from tclora.pipeline.extension.data import NewData
from tclora.pipeline.extension.record import ExtendRecord
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.libraries.index import Library, LibraryEntry
from tclora.pipeline.libraries.samples import Samples, mixed_sample, save_sample
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.learn import RowSources, row_files
from tclora.pipeline.stages.merge import MergeOutput, merge_into
from tclora.pipeline.stages.stage import Stage, run_stage
from tclora.pipeline.stages.train_groups import train_jobs
from tclora.records import ClusterRecord, ClusterSummary, TrainRecord, from_json, to_json
from tclora.training import TrainJob, is_finished

__all__ = ["ExtendJob", "assign_stage", "merge_stage", "read_clusters", "read_decided", "train_stage"]

_CONTRAST = 5000
"""Examples of the library that a new cluster's words are held against: its telling words need no more."""


@dataclass(frozen=True)
class ExtendJob:
    """One extension of one library: everything its stages depend on."""

    library: Library
    config: RunConfig
    id: str
    settings: dict[str, str]
    data_digest: str

    @property
    def place(self) -> str:
        """The extension's folder, relative to the library."""
        return f"extensions/{self.id}"

    @property
    def folder(self) -> Path:
        return self.library.root / self.place

    def stage(self, name: str, settings: dict[str, Any], *, resumable: bool = False) -> Stage:
        """A stage of this extension."""
        inputs = {"library": self.library.index.digest, "data": self.data_digest}
        place = self.folder / name
        return Stage(f"extend {name}", place, self.settings | settings, inputs, self.config.seed, resumable)


Decide = Callable[[], tuple[Assignment, np.ndarray, ExtendRecord]]


def assign_stage(job: ExtendJob, data: NewData, samples: Samples, decide: Decide, told: Progress) -> ExtendRecord:
    """Decide where every new example goes, and write the files of the clusters that change."""

    def build(folder: Path) -> None:
        found, rows, record = decide()
        _write_clusters(job, data, found, rows, samples, folder)
        write_json(folder / "extend.json", to_json(record))

    run_stage(job.stage("cluster", {}), build, told)
    return read_decided(job)


def read_decided(job: ExtendJob) -> ExtendRecord:
    """What the finished assign stage decided."""
    return from_json(ExtendRecord, read_json(job.folder / "cluster" / "extend.json"))


def train_stage(job: ExtendJob, entries: Sequence[LibraryEntry], told: Progress) -> dict[str, TrainRecord]:
    """Train the adapters of these entries on their present files; finished ones are not trained again."""
    settings = {"train": job.config.train.model_dump(mode="json"), "names": [entry.name for entry in entries]}
    settings |= {"base": base_files_digest(job.config.base)}

    def build(folder: Path) -> None:
        jobs = [_train_job(job, entry, folder) for entry in entries]
        for train_job in jobs:
            if Path(train_job.out).exists() and not is_finished(train_job):
                shutil.rmtree(train_job.out)
        with executor_for(job.config, RunFolder(job.library.root)) as executor:
            train_jobs(jobs, executor, told)

    run_stage(job.stage("library", settings, resumable=True), build, told)
    folder = job.folder / "library"
    return {entry.name: from_json(TrainRecord, read_json(folder / entry.name / "record.json")) for entry in entries}


def merge_stage(job: ExtendJob, entries: Sequence[LibraryEntry], told: Progress) -> tuple[str, ...]:
    """Merge the whole library by every merge of the run's config, from the stored factors."""
    made = [[entry.sha256, entry.n_examples] for entry in entries]
    for merge in job.config.merge:
        settings = merge.model_dump(mode="json") | {"adapters": made}
        settings |= {"params": asdict(cast(Any, parse_params(merge.method, merge.params)))}
        if not learns(merge.method):
            del settings["learn_rows"], settings["learn_share"]
        stage = job.stage(f"merge/{merge.label}", settings)
        run_stage(stage, lambda folder, merge=merge: _merge(job, merge, entries, folder, told), told)
    return tuple(merge.label for merge in job.config.merge)


def _train_job(job: ExtendJob, entry: LibraryEntry, folder: Path) -> TrainJob:
    assert entry.train_file is not None  # only clusters with a file are trained
    params: TrainConfig = job.config.train
    return TrainJob(
        name=entry.name,
        base=job.config.base,
        train_file=str(job.library.root / entry.train_file),
        dev_file=str(job.library.root / entry.dev_file) if entry.dev_file else None,
        out=str(folder / entry.name),
        params=params,
        seed=job.config.seed,
    )


def _merge(job: ExtendJob, merge: MergeConfig, entries: Sequence[LibraryEntry], folder: Path, told: Progress) -> None:
    adapters = [read_adapter(job.library.root / entry.folder, name=entry.name) for entry in entries]
    sources = None
    if learns(merge.method):
        files = row_files(merge, job.library.root, {entry.name: entry.train_file for entry in entries})
        sources = RowSources(job.config.base, files, job.config.seed)
    out = MergeOutput(folder, merge.label, f"tclora extend (merge '{merge.label}')")
    merge_into(out, merge, adapters, _weights(merge, entries), sources, partial(told.step, f"merge {merge.label}"))


def _weights(merge: MergeConfig, entries: Sequence[LibraryEntry]) -> tuple[float, ...] | None:
    if merge.weights == "uniform":
        return None
    if merge.weights == "size":
        sizes = [entry.n_examples or 0 for entry in entries]
        return tuple(size / sum(sizes) for size in sizes)
    return tuple(float(weight) for weight in merge.weights)


def _write_clusters(
    job: ExtendJob, data: NewData, found: Assignment, rows: np.ndarray, samples: Samples, folder: Path
) -> None:
    library = job.library
    assert library.index.cluster is not None  # checked before any work
    n_train = len(data.train)
    parts = {"train": (data.train, found.labels[:n_train]), "dev": (data.dev, found.labels[n_train:])}
    by_cluster = {entry.cluster: entry for entry in library.index.adapters}
    sizes = {cluster.index: cluster.n_train for cluster in read_clusters(library).clusters}
    for index in sorted({int(label) for label in found.labels}):
        entry = by_cluster.get(index)
        old = {"train": entry.train_file, "dev": entry.dev_file} if entry else {}
        for part, (examples, labels) in parts.items():
            before = _old_examples(library, old.get(part))
            new = [example for example, label in zip(examples, labels, strict=True) if label == index]
            if before or new:
                write_examples(folder / f"cluster-{index}.{part}.jsonl", [*before, *new])
        mine = rows[:n_train][found.labels[:n_train] == index]
        n_before = sizes.get(index, 0)
        save_sample(
            folder / "samples" / f"cluster-{index}.npy", mixed_sample(samples.get(index, mine[:0]), n_before, mine)
        )
    for part, (examples, labels) in parts.items():
        np.save(folder / f"new_{part}_labels.npy", labels, allow_pickle=False)
        write_examples(folder / f"new.{part}.jsonl", examples)
    _write_model(library, data, found, rows, folder)


def read_clusters(library: Library) -> ClusterRecord:
    """The record of the library's present clusters."""
    return from_json(ClusterRecord, read_json(library.root / str(library.index.cluster) / "record.json"))


def _old_examples(library: Library, path: str | None) -> list[Example]:
    return read_examples([str(library.root / path)], allow_empty=True) if path else []


def _write_model(library: Library, data: NewData, found: Assignment, rows: np.ndarray, folder: Path) -> None:
    """The centroids with the new ones after them, and the record with what changed in it."""
    assert library.index.cluster is not None
    model = load_clusters(library.root / library.index.cluster)
    k_old, k = len(model.centroids), len(found.centroids)
    changes: dict[str, Any] = {"centroids": found.centroids}
    if model.groups:
        changes["groups"] = (*model.groups, *(() for _ in range(k - k_old)))
    if model.sizes:
        gained = np.bincount(found.labels[: len(data.train)], minlength=k)
        changes["sizes"] = tuple(int(n) for n in gained + np.array([*model.sizes, *[0] * (k - k_old)]))
    grown = replace(model, **changes)
    save_clusters(grown, folder)
    old = read_clusters(library)
    summaries = _summaries(library, data, found, rows, old)
    write_json(folder / "record.json", to_json(replace(old, n_clusters=k, clusters=summaries)))


def _summaries(
    library: Library, data: NewData, found: Assignment, rows: np.ndarray, old: ClusterRecord
) -> tuple[ClusterSummary, ...]:
    """Old clusters with their new counts; new ones described against a part of the library's examples."""
    assert library.index.cluster is not None
    n_train = len(data.train)
    contrast, labels = _contrast(library)
    model = replace(load_clusters(library.root / library.index.cluster), centroids=found.centroids)
    fresh = summarize_clusters(
        model,
        [*contrast, *data.train],
        np.concatenate([np.zeros((len(contrast), rows.shape[1]), dtype=np.float32), rows[:n_train]]),
        np.concatenate([labels, found.labels[:n_train]]).astype(np.int64),
        found.labels[n_train:],
    ).clusters
    grown = []
    for summary in old.clusters:
        mine = [example for example, label in zip(data.train, found.labels, strict=False) if label == summary.index]
        grown.append(_grown(summary, mine, int((found.labels[n_train:] == summary.index).sum())))
    return (*grown, *fresh[len(old.clusters) :])


def _contrast(library: Library) -> tuple[list[Example], np.ndarray]:
    """Up to `_CONTRAST` of the library's examples, evenly over its clusters, with their clusters."""
    examples: list[Example] = []
    labels: list[int] = []
    entries = [entry for entry in library.index.adapters if entry.train_file and entry.cluster is not None]
    for entry in entries:
        held = _old_examples(library, entry.train_file)
        step = max(1, len(held) * len(entries) // _CONTRAST)
        examples += held[::step]
        labels += [cast(int, entry.cluster)] * len(held[::step])
    return examples, np.array(labels, dtype=np.int64)


def _grown(summary: ClusterSummary, new: Sequence[Example], n_dev: int) -> ClusterSummary:
    tasks = dict(summary.tasks)
    for example in new:
        # Keys are tasks or, where there are many, families; a new one is counted under the key there is.
        key = example.task if example.task in tasks or example.family not in tasks else example.family
        if key:
            tasks[key] = tasks.get(key, 0) + 1
    ordered = {key: tasks[key] for key in sorted(tasks, key=lambda key: (-tasks[key], key))}
    return replace(summary, n_train=summary.n_train + len(new), n_dev=summary.n_dev + n_dev, tasks=ordered)
