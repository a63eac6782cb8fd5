"""The controls stage: what the library is compared with, trained the same way, in a folder of its own.

In: the finished library and what it was made of. Out: `RUN/controls`: for each control library a folder of adapters,
the examples of its groups, and `groups.json`; the multi-task adapter with as many parameters as the library; and in
`RUN/merge-controls` each control library merged by the run's methods. A run without controls has neither folder.
Refused: as `control_groups`, before any adapter is trained.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, read_json, write_json
from tclora.config import MergeConfig, RunConfig
from tclora.data import iter_examples, write_examples
from tclora.execution import Executor
from tclora.models import base_files_digest
from tclora.pipeline.layout import EQUAL_PARAMETERS, RunFolder
from tclora.pipeline.merges.write import RECORD_NAME
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.cluster import read_cluster_record
from tclora.pipeline.stages.control_groups import ControlGroups, random_groups, task_groups_of
from tclora.pipeline.stages.control_jobs import control_jobs, group_file
from tclora.pipeline.stages.merge import MergeSource, merge_source
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage
from tclora.pipeline.stages.train import adapter_names, remove_strangers, train_or_keep
from tclora.records import MergeRecord, TrainRecord, from_json

__all__ = [
    "control_groups",
    "control_merges",
    "control_notes",
    "controls_stage",
    "merge_controls_stage",
    "read_control_merge_records",
    "read_control_records",
]


def control_groups(config: RunConfig, run: RunFolder) -> tuple[ControlGroups, ...]:
    """The groups of every control library that is asked for; equal runs give equal groups.

    Raises:
        DataError: the data name no tasks, or all are too small.
    """
    groups = []
    if "random_clusters" in config.train.controls:
        groups.append(random_groups(run, read_cluster_record(run).n_clusters, seed=config.seed))
    if "per_task" in config.train.controls:
        groups.append(task_groups_of(run, min_size=config.train.min_task_size))
    return tuple(groups)


def controls_stage(
    config: RunConfig, run: RunFolder, done: dict[str, Manifest], progress: Progress, executor: Executor
) -> Manifest | None:
    """Train the controls; finished adapters are not trained again. None where none are asked for.

    Args:
        done: the manifests of the stages up to the library.
    """
    if not config.train.controls:
        shutil.rmtree(run.controls, ignore_errors=True)
        return None
    settings = {
        "train": config.train.model_dump(mode="json", exclude={"multi_task"}),
        "base": config.base.model_dump(mode="json", include={"dtype", "template", "max_length", "revision"}),
    }
    inputs = {name: inputs_digest(done[name]) for name in ("data", "encode", "cluster", "train")}
    inputs["base"] = base_files_digest(config.base)
    stage = Stage("controls", run.controls, settings, inputs, config.seed, resumable=True)
    return run_stage(stage, lambda folder: _build(config, run, folder, executor, progress), progress)


def merge_controls_stage(
    config: RunConfig, run: RunFolder, controls: Manifest | None, progress: Progress, executor: Executor
) -> tuple[Manifest, ...]:
    """Merge every control library by the run's methods."""
    groups = control_groups(config, run)
    _remove_others(run.merge_controls, [one.control for one in groups])
    manifests: tuple[Manifest, ...] = ()
    for one in groups:
        folders = tuple(str(run.controls / one.control / name) for name in one.names)
        sizes = tuple(np.bincount(one.train, minlength=len(one.names)).tolist())
        digest = inputs_digest(controls) if controls is not None else ""
        rows = tuple(str(run.controls / "data" / one.control / f"{name}.train.jsonl") for name in one.names)
        source = MergeSource(folders, sizes, digest, run.merge_controls / one.control, one.control, rows)
        manifests += merge_source(config, control_merges(config, one), source, progress, executor)
    return manifests


def control_merges(config: RunConfig, groups: ControlGroups) -> tuple[MergeConfig, ...]:
    """The merges of the run that apply to a control's adapters: all but those with a list of weights by cluster."""
    return tuple(merge for merge in config.merge if isinstance(merge.weights, str) or not groups.tasks)


def read_control_records(config: RunConfig, run: RunFolder) -> tuple[TrainRecord, ...]:
    """The records of the controls' adapters, control by control."""
    folders = [run.controls / one.control / name for one in control_groups(config, run) for name in one.names]
    folders += [run.controls / EQUAL_PARAMETERS] if "multi_task_equal_parameters" in config.train.controls else []
    return tuple(from_json(TrainRecord, read_json(folder / "record.json")) for folder in folders)


def read_control_merge_records(config: RunConfig, run: RunFolder) -> tuple[MergeRecord, ...]:
    """The records of the controls' merges, control by control."""
    folders = [
        run.merge_controls / one.control / merge.label
        for one in control_groups(config, run)
        for merge in control_merges(config, one)
    ]
    return tuple(from_json(MergeRecord, read_json(folder / RECORD_NAME)) for folder in folders)


def control_notes(config: RunConfig, run: RunFolder) -> tuple[str, ...]:
    """What of the run's merges was not repeated for a control, and why."""
    return tuple(
        f"{merge.label} has one weight for each cluster, so it was not repeated for {one.control}, whose adapters are "
        "others."
        for one in control_groups(config, run)
        for merge in config.merge
        if merge not in control_merges(config, one)
    )


def _build(config: RunConfig, run: RunFolder, folder: Path, executor: Executor, progress: Progress) -> None:
    groups = control_groups(config, run)
    names = [one.control for one in groups]
    equal = [EQUAL_PARAMETERS, f"{EQUAL_PARAMETERS}.work"]
    _remove_others(folder, ["data", *names, *(equal if "multi_task_equal_parameters" in config.train.controls else [])])
    _remove_others(folder / "data", names)
    for one in groups:
        _write_groups(run, one, folder)
        (folder / one.control).mkdir(exist_ok=True)
        remove_strangers(folder / one.control, one.names)
    library = [from_json(TrainRecord, read_json(run.library / name / "record.json")) for name in adapter_names(run)]
    train_or_keep(control_jobs(config, run, library, groups, folder), executor, progress)
    facts = {one.control: {"adapters": list(one.names), "tasks": one.tasks} for one in groups}
    write_json(folder / "groups.json", facts)


def _write_groups(run: RunFolder, groups: ControlGroups, folder: Path) -> None:
    (folder / "data" / groups.control).mkdir(parents=True, exist_ok=True)
    for part, labels in (("train", groups.train), ("dev", groups.dev)):
        rows = list(iter_examples(run.data / f"{part}.jsonl"))
        for index in range(len(groups.names)):
            members = (rows[place] for place in np.flatnonzero(labels == index).tolist())
            write_examples(group_file(folder, groups, index, part), members)


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """What an earlier request with other controls left must not look like part of this one."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)
    if folder.is_dir() and not names:
        shutil.rmtree(folder)
