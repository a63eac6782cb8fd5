"""The whole pipeline: stages in order, each skipped where nothing it depends on has changed."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tclora.artifacts import Manifest, folder_lock, machine_facts, version_facts, write_bytes
from tclora.config import RunConfig, dump_config
from tclora.data import expand_paths
from tclora.errors import ConfigError
from tclora.execution import Executor
from tclora.merging import parse_params
from tclora.models import local_base_path
from tclora.pipeline.checks.run_place import check_place
from tclora.pipeline.executors import executor_for
from tclora.pipeline.layout import EQUAL_PARAMETERS, MULTI_TASK, PER_TASK, RANDOM_CLUSTERS, RunFolder
from tclora.pipeline.progress import Progress, Silent
from tclora.pipeline.stages.cluster import cluster_stage, read_cluster_record
from tclora.pipeline.stages.cluster_map import cluster_map_stage, read_cluster_map
from tclora.pipeline.stages.control import (
    control_groups,
    control_notes,
    controls_stage,
    merge_controls_stage,
    read_control_merge_records,
    read_control_records,
)
from tclora.pipeline.stages.data import data_stage
from tclora.pipeline.stages.encode import encode_stage, read_encode_record
from tclora.pipeline.stages.evaluate import check_choice_tasks, evaluate_stage, read_eval_record, read_held_out_record
from tclora.pipeline.stages.learn import check_run_learning
from tclora.pipeline.stages.merge import check_weights, merge_stage, read_merge_records
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage
from tclora.pipeline.stages.train import read_train_records, train_stage
from tclora.records import MergeRecord
from tclora.reporting import RunReport, write_report

__all__ = ["STAGES", "RunResult", "check_request", "run_pipeline"]

# Contestants of every evaluation; a merge called so could not be told from them.
_TAKEN = ("base", MULTI_TASK, EQUAL_PARAMETERS, RANDOM_CLUSTERS, PER_TASK)

STAGES = ("encode", "cluster", "train", "merge", "evaluate", "report")


@dataclass(frozen=True)
class RunResult:
    """Where the run lies, the last stage that is finished, and the report where the run got that far."""

    folder: Path
    until: str
    wall_s: float
    report: RunReport | None


def run_pipeline(
    config: RunConfig,
    *,
    until: str = "report",
    command: str = "",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """Bring the run folder to completion up to the stage `until`.

    Killed at any point and called again, it goes on and gives the same result. With `overwrite` what an earlier run
    left is removed first, once nothing is found wrong with the request.

    Raises:
        ConfigError: a setting is wrong; found before any work where that is possible.
        OutputExistsError: the folder holds what no run wrote.
        ArtifactError: another process is using the folder.
    """
    start, told = time.monotonic(), progress or Silent()
    check_request(config, until)
    if config.base.threads:
        torch.set_num_threads(config.base.threads)
    run = RunFolder(Path(config.output).expanduser())
    with folder_lock(run.root), executor_for(config, run) as executor:
        check_place(run)
        if overwrite:
            run.clear()
        _store_config(config, run)
        report = _Run(config, run, told, command, executor).until(until)
    return RunResult(run.root, until, round(time.monotonic() - start, 3), report)


class _Run:
    """One pass over the stages; each method needs those before it."""

    def __init__(self, config: RunConfig, run: RunFolder, progress: Progress, command: str, executor: Executor):
        self.config, self.run, self.progress, self.command = config, run, progress, command
        self.executor = executor
        self.done: dict[str, Manifest] = {}
        self.merges: tuple[Manifest, ...] = ()

    def until(self, last: str) -> RunReport | None:
        self.done["data"] = data_stage(self.config, self.run, self.progress)
        steps = (self._encode, self._cluster, self._train, self._merge, self._evaluate)
        for name, step in zip(STAGES, steps, strict=False):
            step()
            if name == last:
                return None
        return self._report()

    def _encode(self) -> None:
        self.done["encode"] = encode_stage(self.config, self.run, self.done["data"], self.progress, self.executor)

    def _cluster(self) -> None:
        self.done["cluster"] = cluster_stage(
            self.config, self.run, self.done["data"], self.done["encode"], self.progress
        )
        _check_weights(self.config, read_cluster_record(self.run).n_clusters)
        drawn = cluster_map_stage(self.config, self.run, self.done["encode"], self.done["cluster"], self.progress)
        self.done |= {"cluster map": drawn} if drawn is not None else {}
        control_groups(self.config, self.run)  # a control that cannot be made is refused before hours of training

    def _train(self) -> None:
        self.done["train"] = train_stage(
            self.config, self.run, self.done["data"], self.done["cluster"], self.progress, self.executor
        )
        controls = controls_stage(self.config, self.run, self.done, self.progress, self.executor)
        self.done |= {"controls": controls} if controls is not None else {}

    def _merge(self) -> None:
        clusters = read_cluster_record(self.run)
        self.merges = merge_stage(self.config, self.run, self.done["train"], clusters, self.progress, self.executor)
        self.merges += merge_controls_stage(
            self.config, self.run, self.done.get("controls"), self.progress, self.executor
        )

    def _evaluate(self) -> None:
        # Workers keep the base in memory; from here on this process needs the room.
        self.executor.close()
        self.done["evaluate"] = evaluate_stage(self.config, self.run, self.done, self.merges, self.progress)

    def _report(self) -> RunReport:
        report = RunReport(
            name=self.config.name,
            command=self.command,
            config=self.config.model_dump(mode="json"),
            versions=version_facts(),
            machine=machine_facts(),
            encode=read_encode_record(self.run),
            clusters=read_cluster_record(self.run),
            training=read_train_records(self.config, self.run) + read_control_records(self.config, self.run),
            merges=read_merge_records(self.config, self.run) + read_control_merge_records(self.config, self.run),
            evaluation=read_eval_record(self.run),
            held_out=read_held_out_record(self.run),
            wall_s=self._timings(),
            notes=_notes(self.run, self.config),
            cluster_map=read_cluster_map(self.config, self.run),
        )
        inputs = {name: inputs_digest(manifest) for name, manifest in self.done.items()}
        inputs |= {f"merge {index}": inputs_digest(manifest) for index, manifest in enumerate(self.merges)}
        # Where the jobs ran changes no figure.
        settings = {"config": {key: value for key, value in report.config.items() if key != "execution"}}
        stage = Stage("report", self.run.report, settings, inputs, self.config.seed)
        run_stage(stage, lambda folder: write_report(folder, report), self.progress)
        return report

    def _timings(self) -> dict[str, float]:
        timings = {name: manifest.wall_s for name, manifest in self.done.items() if name != "evaluate"}
        timings["merge"] = round(sum(manifest.wall_s for manifest in self.merges), 3)
        return timings | {"evaluate": self.done["evaluate"].wall_s}


def check_request(config: RunConfig, until: str) -> None:
    """Find what is wrong with the request before hours of work are spent on it.

    Raises:
        TcLoraError: a setting is wrong, or a file or the base is not there.
    """
    if until not in STAGES:
        raise ConfigError("there is no such stage", found=until, expected=", ".join(STAGES))
    local_base_path(config.base)
    for names in filter(None, (config.data.train, config.data.dev, config.data.held_out)):
        expand_paths(names)
    for merge in config.merge:
        _check_label(merge.label)
        parse_params(merge.method, merge.params)
        check_run_learning(merge)
    check_choice_tasks(config.evaluate.choice_tasks)
    cluster = config.cluster
    # Where small clusters may be dissolved, or the number is chosen, it is known after clustering, and checked there.
    if isinstance(cluster.n_clusters, int) and cluster.min_size == 1 and not cluster.min_tokens:
        _check_weights(config, cluster.n_clusters)


def _check_label(label: str) -> None:
    if label in _TAKEN or re.fullmatch(r"cluster-\d+", label):
        raise ConfigError(
            "a merge cannot have the name of another contestant",
            where="merge",
            found=label,
            do="give it another `name`",
        )


def _check_weights(config: RunConfig, n_clusters: int) -> None:
    for merge in config.merge:
        if not isinstance(merge.weights, str):
            check_weights(merge, n_clusters)


def _store_config(config: RunConfig, run: RunFolder) -> None:
    text = dump_config(config).encode()
    path = run.root / "config.yaml"
    if not path.is_file() or path.read_bytes() != text:
        write_bytes(path, text)


def _notes(run: RunFolder, config: RunConfig) -> tuple[str, ...]:
    records: tuple[MergeRecord, ...] = read_merge_records(config, run)
    notes = {note for record in records for note in record.notes} | set(control_notes(config, run))
    template = read_eval_record(run).template
    if template == "plain":
        notes.add("The tokenizer has no chat template: prompts use the plain instruction template.")
    return tuple(sorted(notes))
