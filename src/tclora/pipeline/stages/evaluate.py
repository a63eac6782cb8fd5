"""The evaluation stage: every contestant on one base load.

Contestants: the base, every adapter of the library, the routed library (no merge), every merged adapter, and the
controls. Multiple-choice items are routed by the cluster of their question's text. Where the run has controls, losses
are also compared pair by pair on the same dev examples.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, read_json, sha256_file, write_json
from tclora.clustering import assign_examples, load_clusters
from tclora.config import ChoiceTaskConfig, RunConfig
from tclora.data import ChoiceItem, Example, read_choice_items, read_examples
from tclora.encoding import load_encoder
from tclora.errors import ConfigError
from tclora.evaluation import ChoiceSet, Contestant, DevSet, evaluate
from tclora.models import Base, base_files_digest, load_base
from tclora.pipeline.layout import MULTI_TASK, RunFolder
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.cluster import read_labels
from tclora.pipeline.stages.control import control_groups
from tclora.pipeline.stages.control_contestants import (
    ROUTED,
    control_contestants,
    control_pairs,
    dev_routes,
    new_routes,
)
from tclora.pipeline.stages.control_groups import ControlGroups
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage
from tclora.pipeline.stages.train import adapter_names
from tclora.records import EvalRecord, from_json, to_json
from tclora.shapes import Float, Int

__all__ = ["check_choice_tasks", "evaluate_stage", "read_eval_record", "read_held_out_record"]


def evaluate_stage(
    config: RunConfig, run: RunFolder, upstream: dict[str, Manifest], merges: tuple[Manifest, ...], progress: Progress
) -> Manifest:
    """Score every contestant; what is already scored is not scored again."""
    groups = control_groups(config, run)
    settings = {
        "evaluate": config.evaluate.model_dump(mode="json"),
        "base": config.base.model_dump(mode="json", include={"dtype", "template", "max_length", "revision"}),
        "contestants": [contestant.name for contestant in _contestants(config, run, groups)],
        "pairs": control_pairs(config, groups),
    }
    inputs = {name: inputs_digest(manifest) for name, manifest in upstream.items()}
    # A merge's record holds timings, so the adapter alone counts as input.
    inputs |= {f"merge {index}": manifest.outputs["adapter_model.safetensors"] for index, manifest in enumerate(merges)}
    inputs |= {f"choice {task.path}": sha256_file(_task_file(task)) for task in config.evaluate.choice_tasks}
    inputs["base"] = base_files_digest(config.base)
    stage = Stage("evaluate", run.evaluate, settings, inputs, config.seed, resumable=True)
    return run_stage(stage, lambda folder: _build(config, run, groups, folder, progress), progress)


def read_eval_record(run: RunFolder) -> EvalRecord:
    """The record of the finished evaluation."""
    return from_json(EvalRecord, read_json(run.evaluate / "record.json"))


def read_held_out_record(run: RunFolder) -> EvalRecord | None:
    """The record of the examples of unseen tasks, where the run has any."""
    path = run.evaluate / "held_out.json"
    return from_json(EvalRecord, read_json(path)) if path.is_file() else None


def _build(
    config: RunConfig, run: RunFolder, groups: tuple[ControlGroups, ...], folder: Path, progress: Progress
) -> None:
    base = load_base(config.base)

    def score(label: str, examples: DevSet, choices: list[ChoiceSet]) -> EvalRecord:
        return evaluate(
            base,
            _contestants(config, run, groups),
            examples,
            choices,
            config.evaluate,
            cluster_names=adapter_names(run),
            cache=folder / "cache",
            seed=config.seed,
            pairs=control_pairs(config, groups),
            # One bar for all: the units of work are many and short.
            on_progress=lambda _, done, total: progress.step(label, done, total),
        )

    record = score("evaluate", _dev_set(run, groups), _choice_sets(config, run, groups, base))
    write_json(folder / "record.json", to_json(record))
    held_out = _held_out_set(config, run, groups, base)
    (folder / "held_out.json").unlink(missing_ok=True)
    if held_out.examples:
        write_json(folder / "held_out.json", to_json(score("evaluate unseen tasks", held_out, [])))


def _dev_set(run: RunFolder, groups: tuple[ControlGroups, ...]) -> DevSet:
    examples = tuple(read_examples([str(run.data / "dev.jsonl")]))
    return DevSet(examples, tuple(int(label) for label in read_labels(run, "dev")), dev_routes(groups))


def _contestants(config: RunConfig, run: RunFolder, groups: tuple[ControlGroups, ...]) -> list[Contestant]:
    names = adapter_names(run)
    folders = {name: str(run.library / name) for name in names}
    control = Contestant(MULTI_TASK, "multi_task", (str(run.library / MULTI_TASK),))
    return [
        Contestant("base", "base"),
        *(Contestant(name, "adapter", (folder,)) for name, folder in folders.items()),
        Contestant(ROUTED, "routed", tuple(folders.values())),
        *(Contestant(merge.label, "merged", (str(run.merge / merge.label),)) for merge in config.merge),
        *([control] if config.train.multi_task else []),
        *control_contestants(config, run, groups),
    ]


def _choice_sets(config: RunConfig, run: RunFolder, groups: tuple[ControlGroups, ...], base: Base) -> list[ChoiceSet]:
    sets = []
    for task in config.evaluate.choice_tasks:
        items = read_choice_items(_task_file(task))
        if task.max_items is not None and len(items) > task.max_items:
            chosen = np.random.default_rng(config.seed).choice(len(items), task.max_items, replace=False)
            items = [items[index] for index in sorted(chosen)]
        name = _task_name(task)
        rows = _embed(config, run, base, [_question_text(config, item) for item in items])
        clusters = _clusters_of(run, rows, [item.task for item in items], config.seed)
        routes = new_routes(groups, rows, clusters, [item.task for item in items], seed=config.seed, use=name)
        sets.append(ChoiceSet(name, tuple(items), tuple(clusters.tolist()), task.normalize, routes))
    return sets


def _held_out_set(config: RunConfig, run: RunFolder, groups: tuple[ControlGroups, ...], base: Base) -> DevSet:
    examples = tuple(read_examples([str(run.data / "held_out.jsonl")], allow_empty=True))
    if not examples:
        return DevSet((), ())
    rows = _embed(config, run, base, [example.text(config.encode.text) for example in examples])
    tasks = [example.task for example in examples]
    clusters = _clusters_of(run, rows, tasks, config.seed)
    routes = new_routes(groups, rows, clusters, tasks, seed=config.seed, use="held out")
    return DevSet(examples, tuple(clusters.tolist()), routes)


def _question_text(config: RunConfig, item: ChoiceItem) -> str:
    return Example("\n".join(filter(None, (item.context, item.question)))).text(config.encode.text)


def _embed(config: RunConfig, run: RunFolder, base: Base, texts: list[str]) -> Float[np.ndarray, "n d_embed"]:
    """The rows of new texts, by the encoder that the run was clustered with."""
    if config.encode.encoder == "precomputed":
        raise ConfigError(
            "new texts cannot be routed with precomputed embeddings",
            where="evaluate.choice_tasks, data.held_out",
            do="choose another encoder, or leave both empty",
        )
    return load_encoder(config.encode, run.encode / "encoder", base=lambda: base).encode(texts)


def _clusters_of(
    run: RunFolder, rows: Float[np.ndarray, "n d_embed"], tasks: list[str], seed: int
) -> Int[np.ndarray, " n"]:
    """The cluster of each new text, as the clustering assigns: the nearest centroid, or by a task that it knows."""
    return assign_examples(load_clusters(run.cluster), rows, tasks=tasks, seed=seed)


def check_choice_tasks(tasks: Sequence[ChoiceTaskConfig]) -> None:
    """Read every multiple-choice file, so that what is wrong with one is found before any training.

    Raises:
        ConfigError: a file is not there, or two tasks have one name.
        DataError: a file is not of the schema.
    """
    for task in tasks:
        read_choice_items(_task_file(task))
    names = [_task_name(task) for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two multiple-choice tasks are called '{name}'",
                where="evaluate.choice_tasks",
                do="give one of them a `name`",
            )


def _task_name(task: ChoiceTaskConfig) -> str:
    return task.name or _task_file(task).name.split(".")[0]


def _task_file(task: ChoiceTaskConfig) -> Path:
    """The file of a multiple-choice task; one that is not there is refused."""
    path = Path(task.path).expanduser()
    if not path.is_file():
        raise ConfigError("there is no such task file", where=task.path, do="check evaluate.choice_tasks")
    return path
