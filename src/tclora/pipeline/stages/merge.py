"""The merge stage of a run: one PEFT folder for each entry of the config's `merge` list.

In: the library. Out: the manifest of each merge's folder. Merges are independent jobs: an executor with several workers
does several at a time. A method that learns reads some training rows of each adapter first, and what it learned is kept
in its folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from tclora.adapters import Adapter, read_adapter
from tclora.artifacts import Manifest, folder_lock, is_complete, read_json
from tclora.config import MergeConfig, RunConfig
from tclora.errors import ConfigError
from tclora.execution import Executor, report
from tclora.merging import merge_adapters, parse_params
from tclora.merging.learning import learns, write_learned
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.pipeline.merges.write import RECORD_NAME, write_merged
from tclora.pipeline.progress import Progress, Silent
from tclora.pipeline.stages.learn import RowSources, learn_in_run
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage
from tclora.records import ClusterRecord, MergeRecord, from_json

__all__ = [
    "MergeOutput",
    "MergeSource",
    "check_weights",
    "merge_into",
    "merge_source",
    "merge_stage",
    "read_merge_records",
]


@dataclass(frozen=True)
class MergeOutput:
    """Where the result of a merge goes, what it is called, and the command that its card names."""

    folder: Path
    name: str
    command: str


@dataclass(frozen=True)
class MergeSource:
    """The adapters that the methods of a run merge, and where the results go: the library's, or a control's."""

    adapters: tuple[str, ...]
    sizes: tuple[int, ...]
    digest: str
    out: Path
    name: str = ""
    rows: tuple[str, ...] = ()
    """The files of each adapter's training rows, for methods that learn."""

    def label(self, merge: MergeConfig) -> str:
        """What the merge of these adapters is called."""
        return f"{self.name} {merge.label}".strip()


@dataclass(frozen=True)
class _MergeJob:
    """One merge, as a value that another process can work from."""

    name: str
    command: str
    merge: MergeConfig
    adapters: tuple[str, ...]
    sizes: tuple[int, ...]
    stage: Stage
    sources: RowSources | None = None
    """Where a method that learns does so."""


def merge_stage(
    config: RunConfig,
    run: RunFolder,
    library: Manifest,
    clusters: ClusterRecord,
    progress: Progress,
    executor: Executor,
) -> tuple[Manifest, ...]:
    """Merge the library by every method of the config."""
    sizes = tuple(cluster.n_train for cluster in clusters.clusters)
    adapters = tuple(str(run.library / cluster_name(index)) for index in range(len(sizes)))
    rows = tuple(str(run.cluster / f"{cluster_name(index)}.train.jsonl") for index in range(len(sizes)))
    source = MergeSource(adapters, sizes, inputs_digest(library), run.merge, rows=rows)
    return merge_source(config, config.merge, source, progress, executor)


def merge_source(
    config: RunConfig, merges: Sequence[MergeConfig], source: MergeSource, progress: Progress, executor: Executor
) -> tuple[Manifest, ...]:
    """Merge some adapters by several methods; finished merges are not repeated."""
    jobs = [_job(config, merge, source) for merge in merges]
    waiting = [job for job in jobs if not is_complete(job.stage.folder, job.stage.key)]
    made = {
        job.name: manifest
        for batch in _batches(waiting, executor)
        for job, manifest in _merge(batch, executor, progress)
    }
    # A finished one only says so.
    return tuple(made.get(job.name) or run_stage(job.stage, partial(_build, job), progress) for job in jobs)


def read_merge_records(config: RunConfig, run: RunFolder) -> tuple[MergeRecord, ...]:
    """The records of the finished merges, in the order of the config."""
    folders = (run.merge / merge.label for merge in config.merge)
    return tuple(from_json(MergeRecord, read_json(folder / RECORD_NAME)) for folder in folders)


def check_weights(merge: MergeConfig, n_clusters: int) -> None:
    """Refuse a list of weights that is not one per cluster."""
    if len(merge.weights) != n_clusters:
        raise ConfigError(
            "the weights do not match the clusters",
            where=f"merge '{merge.label}'",
            found=f"{len(merge.weights)} weights for {n_clusters} clusters",
            expected="one weight per cluster, in cluster order",
            do="give as many, or `uniform` or `size`",
        )


def _job(config: RunConfig, merge: MergeConfig, source: MergeSource) -> _MergeJob:
    label = source.label(merge)
    inputs = {"library": source.digest, "sizes": str(list(source.sizes))}
    # Defaults count as settings: a release that changes one must not leave the old merge in place.
    settings = merge.model_dump(mode="json") | {"params": asdict(cast(Any, parse_params(merge.method, merge.params)))}
    sources = RowSources(config.base, source.rows, config.seed) if learns(merge.method) else None
    if sources is None:
        del settings["learn_rows"], settings["learn_share"]
    stage = Stage(f"merge {label}", source.out / merge.label, settings, inputs, config.seed)
    command = f"tclora run ({config.name}, merge '{label}')"
    return _MergeJob(label, command, merge, source.adapters, source.sizes, stage, sources)


def _batches(jobs: Sequence[_MergeJob], executor: Executor) -> list[list[_MergeJob]]:
    """What is begun together: all, or one after another where there is one worker."""
    if not jobs:
        return []
    return [list(jobs)] if executor.workers > 1 else [[job] for job in jobs]


def _merge(jobs: list[_MergeJob], executor: Executor, progress: Progress) -> list[tuple[_MergeJob, Manifest]]:
    for job in jobs:
        progress.begin(job.stage.name)
    done = list(zip(jobs, executor.map(_run_merge, jobs, watcher=progress), strict=True))
    for job, manifest in done:
        progress.end(job.stage.name, wall_s=manifest.wall_s, skipped=False)
    return done


def _run_merge(job: _MergeJob) -> Manifest:
    """Do one merge in this process. One that was finished before its worker was lost is not repeated."""
    # A worker that was given up for lost and lives on must not write beside the one that took its place.
    work = job.stage.folder.with_name(f"{job.stage.folder.name}.work")
    with folder_lock(work):
        manifest = run_stage(job.stage, partial(_build, job), Silent())
    work.rmdir()
    return manifest


def _build(job: _MergeJob, folder: Path) -> None:
    adapters = [read_adapter(Path(one)) for one in job.adapters]
    weights, told = _weights(job.merge, job.sizes), partial(report, job.stage.name)
    merge_into(MergeOutput(folder, job.name, job.command), job.merge, adapters, weights, job.sources, told)


def merge_into(
    out: MergeOutput,
    merge: MergeConfig,
    adapters: Sequence[Adapter],
    weights: tuple[float, ...] | None,
    sources: RowSources | None,
    on_progress: Callable[[int, int], None],
) -> None:
    """Learn what the method learns (where there are `sources`), merge, and write the result.

    Raises:
        TcLoraError: as `learn_in_run` and `merge_adapters`.
    """
    params, found = merge.params, None
    if sources is not None:
        params, found, learned = learn_in_run(merge, adapters, sources, on_progress)
        write_learned(learned, out.folder)
    result = merge_adapters(
        adapters,
        merge.method,
        params=params,
        adapter_weights=weights if found is None else found,
        scale=merge.scale,
        name=out.name,
        on_progress=on_progress,
    )
    write_merged(result, out.folder, dtype=merge.dtype, out=out.name, command=out.command)


def _weights(merge: MergeConfig, sizes: Sequence[int]) -> tuple[float, ...] | None:
    if merge.weights == "uniform":
        return None
    if merge.weights == "size":
        return tuple(size / sum(sizes) for size in sizes)
    check_weights(merge, len(sizes))
    return tuple(merge.weights)
