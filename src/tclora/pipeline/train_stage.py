"""The library stage: one adapter per cluster, and the multi-task control on the same number of tokens.

The stage works in its folder: every finished adapter stands, an unfinished one goes on from its last checkpoint.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tclora.artifacts import Manifest, read_json
from tclora.config import RunConfig, TrainConfig
from tclora.execution import Executor, LocalExecutor
from tclora.models import base_files_digest
from tclora.pipeline.cluster_stage import read_cluster_record
from tclora.pipeline.layout import MULTI_TASK, RunFolder, cluster_name
from tclora.pipeline.progress import Progress
from tclora.pipeline.stage import Stage, inputs_digest, run_stage
from tclora.records import TrainRecord, from_json
from tclora.training import TrainJob, is_finished, train_adapter, train_library

__all__ = ["adapter_names", "read_train_records", "train_stage"]


def train_stage(config: RunConfig, run: RunFolder, data: Manifest, cluster: Manifest, progress: Progress) -> Manifest:
    """Train the library; finished adapters are not trained again."""
    settings = {
        "train": config.train.model_dump(mode="json"),
        "base": config.base.model_dump(mode="json", include={"dtype", "template", "max_length", "revision"}),
        "n_clusters": config.cluster.n_clusters,
    }
    inputs = {
        "data": inputs_digest(data),
        "cluster": inputs_digest(cluster),
        "base": base_files_digest(config.base),
    }
    stage = Stage("train", run.library, settings, inputs, config.seed, resumable=True)
    return run_stage(stage, lambda folder: _build(config, run, folder, LocalExecutor(), progress), progress)


def adapter_names(config: RunConfig) -> tuple[str, ...]:
    """The library's adapters, one per cluster, in cluster order."""
    return tuple(cluster_name(index) for index in range(config.cluster.n_clusters))


def read_train_records(config: RunConfig, run: RunFolder) -> tuple[TrainRecord, ...]:
    """The records of the finished adapters, the multi-task control last where there is one."""
    names = adapter_names(config) + ((MULTI_TASK,) if config.train.multi_task else ())
    return tuple(from_json(TrainRecord, read_json(run.library / name / "record.json")) for name in names)


def _build(config: RunConfig, run: RunFolder, folder: Path, executor: Executor, progress: Progress) -> None:
    _remove_strangers(folder, adapter_names(config) + ((MULTI_TASK,) if config.train.multi_task else ()))
    records = list(_train(_cluster_jobs(config, run, folder), executor, progress))
    if config.train.multi_task:
        budget = sum(record.n_tokens for record in records)
        list(_train([_multi_task_job(config, run, folder, budget)], executor, progress))


def _train(jobs: list[TrainJob], executor: Executor, progress: Progress) -> Iterator[TrainRecord]:
    for job in jobs:
        _make_room(job)
    # In this process the bars can follow every step; another executor reports when a job is done.
    if isinstance(executor, LocalExecutor):
        for job in jobs:
            yield from executor.map(partial(train_adapter, on_step=partial(progress.step, job.name)), [job])
    else:
        yield from train_library(jobs, executor)


def _cluster_jobs(config: RunConfig, run: RunFolder, folder: Path) -> list[TrainJob]:
    record = read_cluster_record(run)
    return [
        TrainJob(
            name=name,
            base=config.base,
            train_file=str(run.cluster / f"{name}.train.jsonl"),
            dev_file=str(run.cluster / f"{name}.dev.jsonl") if cluster.n_dev else None,
            out=str(folder / name),
            params=config.train,
            seed=config.seed,
        )
        for name, cluster in zip(adapter_names(config), record.clusters, strict=True)
    ]


def _multi_task_job(config: RunConfig, run: RunFolder, folder: Path, max_tokens: int) -> TrainJob:
    params: TrainConfig = config.train.model_copy(update={"max_steps": None})
    return TrainJob(
        name=MULTI_TASK,
        base=config.base,
        train_file=str(run.data / "train.jsonl"),
        dev_file=str(run.data / "dev.jsonl"),
        out=str(folder / MULTI_TASK),
        params=params,
        seed=config.seed,
        max_tokens=max_tokens,
    )


def _make_room(job: TrainJob) -> None:
    """The library belongs to its run: an adapter of earlier settings, or a damaged one, is trained anew."""
    out = Path(job.out)
    if out.exists() and not is_finished(job):
        shutil.rmtree(out)


def _remove_strangers(folder: Path, names: tuple[str, ...]) -> None:
    """Adapters of an earlier request with more clusters must not look like part of this library."""
    keep = {name for known in names for name in (known, f"{known}.work")}
    for path in folder.iterdir():
        if path.is_dir() and path.name not in keep:
            shutil.rmtree(path)
