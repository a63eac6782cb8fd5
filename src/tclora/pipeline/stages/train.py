"""The library stage: one adapter per cluster, and the multi-task control on the same number of tokens.

The stage works in its folder: every finished adapter stands, an unfinished one goes on from its last checkpoint.
"""

import shutil
from pathlib import Path

from tclora.artifacts import Manifest, read_json
from tclora.config import RunConfig, TrainConfig
from tclora.execution import Executor
from tclora.models import base_files_digest
from tclora.pipeline.layout import MULTI_TASK, RunFolder, cluster_name
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.cluster import read_cluster_record
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage
from tclora.pipeline.stages.train_groups import train_jobs
from tclora.records import TrainRecord, from_json
from tclora.training import TrainJob, is_finished

__all__ = ["adapter_names", "read_train_records", "remove_strangers", "train_or_keep", "train_stage"]


def train_stage(
    config: RunConfig, run: RunFolder, data: Manifest, cluster: Manifest, progress: Progress, executor: Executor
) -> Manifest:
    """Train the library on `executor`; finished adapters are not trained again."""
    settings = {
        "train": config.train.model_dump(mode="json", exclude={"controls", "min_task_size"}),
        "base": config.base.model_dump(mode="json", include={"dtype", "template", "max_length", "revision"}),
        "n_clusters": read_cluster_record(run).n_clusters,
    }
    inputs = {
        "data": inputs_digest(data),
        "cluster": inputs_digest(cluster),
        "base": base_files_digest(config.base),
    }
    stage = Stage("train", run.library, settings, inputs, config.seed, resumable=True)
    return run_stage(stage, lambda folder: _build(config, run, folder, executor, progress), progress)


def adapter_names(run: RunFolder) -> tuple[str, ...]:
    """The library's adapters, one for each cluster that there is, in cluster order."""
    return tuple(cluster_name(index) for index in range(read_cluster_record(run).n_clusters))


def read_train_records(config: RunConfig, run: RunFolder) -> tuple[TrainRecord, ...]:
    """The records of the finished adapters, the multi-task control last where there is one."""
    names = adapter_names(run) + ((MULTI_TASK,) if config.train.multi_task else ())
    return tuple(from_json(TrainRecord, read_json(run.library / name / "record.json")) for name in names)


def _build(config: RunConfig, run: RunFolder, folder: Path, executor: Executor, progress: Progress) -> None:
    remove_strangers(folder, adapter_names(run) + ((MULTI_TASK,) if config.train.multi_task else ()))
    records = train_or_keep(_cluster_jobs(config, run, folder), executor, progress)
    if config.train.multi_task:
        budget = sum(record.n_tokens for record in records)
        train_or_keep([_multi_task_job(config, run, folder, budget)], executor, progress)


def train_or_keep(jobs: list[TrainJob], executor: Executor, progress: Progress) -> tuple[TrainRecord, ...]:
    """Train what the run's folder does not hold already, whole and of these very jobs."""
    for job in jobs:
        _make_room(job)
    return train_jobs(jobs, executor, progress)


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
        for name, cluster in zip(adapter_names(run), record.clusters, strict=True)
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


def remove_strangers(folder: Path, names: tuple[str, ...]) -> None:
    """Adapters of an earlier request with more clusters must not look like part of this library."""
    keep = {name for known in names for name in (known, f"{known}.work")}
    for path in folder.iterdir():
        if path.is_dir() and path.name not in keep:
            shutil.rmtree(path)
