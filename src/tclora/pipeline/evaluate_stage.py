"""The evaluation stage: every contestant on one base load.

Contestants: the base, every adapter of the library, the routed library (no merge), every merged adapter, and the
multi-task control. Multiple-choice items are routed by the cluster of their question's text.
"""

from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, read_json, sha256_file, write_json
from tclora.clustering import assign_clusters, load_clusters
from tclora.config import ChoiceTaskConfig, RunConfig
from tclora.data import ChoiceItem, Example, read_choice_items, read_examples
from tclora.encoding import load_encoder
from tclora.errors import ConfigError
from tclora.evaluation import ChoiceSet, Contestant, DevSet, evaluate
from tclora.models import Base, base_files_digest, load_base
from tclora.pipeline.layout import MULTI_TASK, RunFolder
from tclora.pipeline.progress import Progress
from tclora.pipeline.stage import Stage, inputs_digest, run_stage
from tclora.pipeline.text_stages import read_labels
from tclora.pipeline.train_stage import adapter_names
from tclora.records import EvalRecord, from_json, to_json

__all__ = ["evaluate_stage", "read_eval_record"]


def evaluate_stage(
    config: RunConfig, run: RunFolder, upstream: dict[str, Manifest], merges: tuple[Manifest, ...], progress: Progress
) -> Manifest:
    """Score every contestant; what is already scored is not scored again."""
    settings = {
        "evaluate": config.evaluate.model_dump(mode="json"),
        "base": config.base.model_dump(mode="json", include={"dtype", "template", "max_length", "revision"}),
        "contestants": [contestant.name for contestant in _contestants(config, run)],
    }
    inputs = {name: inputs_digest(manifest) for name, manifest in upstream.items()}
    # A merge's record holds timings, so the adapter alone counts as input.
    inputs |= {f"merge {index}": manifest.outputs["adapter_model.safetensors"] for index, manifest in enumerate(merges)}
    inputs |= {f"choice {task.path}": sha256_file(_task_file(task)) for task in config.evaluate.choice_tasks}
    inputs["base"] = base_files_digest(config.base)
    stage = Stage("evaluate", run.evaluate, settings, inputs, config.seed, resumable=True)
    return run_stage(stage, lambda folder: _build(config, run, folder, progress), progress)


def read_eval_record(run: RunFolder) -> EvalRecord:
    """The record of the finished evaluation."""
    return from_json(EvalRecord, read_json(run.evaluate / "record.json"))


def _build(config: RunConfig, run: RunFolder, folder: Path, progress: Progress) -> None:
    base = load_base(config.base)
    dev = DevSet(
        tuple(read_examples([str(run.data / "dev.jsonl")])), tuple(int(label) for label in read_labels(run, "dev"))
    )
    record = evaluate(
        base,
        _contestants(config, run),
        dev,
        _choice_sets(config, run, base),
        config.evaluate,
        cluster_names=adapter_names(config),
        cache=folder / "cache",
        seed=config.seed,
        # One bar for all: the units of work are many and short.
        on_progress=lambda _, done, total: progress.step("evaluate", done, total),
    )
    write_json(folder / "record.json", to_json(record))


def _contestants(config: RunConfig, run: RunFolder) -> list[Contestant]:
    names = adapter_names(config)
    folders = {name: str(run.library / name) for name in names}
    control = Contestant(MULTI_TASK, "multi_task", (str(run.library / MULTI_TASK),))
    return [
        Contestant("base", "base"),
        *(Contestant(name, "adapter", (folder,)) for name, folder in folders.items()),
        Contestant("routed library", "routed", tuple(folders.values())),
        *(Contestant(merge.label, "merged", (str(run.merge / merge.label),)) for merge in config.merge),
        *([control] if config.train.multi_task else []),
    ]


def _choice_sets(config: RunConfig, run: RunFolder, base: Base) -> list[ChoiceSet]:
    sets = []
    for task in config.evaluate.choice_tasks:
        items = read_choice_items(_task_file(task))
        if task.max_items is not None and len(items) > task.max_items:
            chosen = np.random.default_rng(config.seed).choice(len(items), task.max_items, replace=False)
            items = [items[index] for index in sorted(chosen)]
        clusters = _route(config, run, base, items)
        name = task.name or _task_file(task).name.split(".")[0]
        sets.append(ChoiceSet(name, tuple(items), clusters, task.normalize))
    return sets


def _route(config: RunConfig, run: RunFolder, base: Base, items: list[ChoiceItem]) -> tuple[int, ...]:
    """The cluster of each item, by the text of its passage and question."""
    if config.encode.encoder == "precomputed":
        raise ConfigError(
            "multiple-choice items cannot be routed with precomputed embeddings",
            where="evaluate.choice_tasks",
            do="choose another encoder, or leave choice_tasks empty",
        )
    encoder = load_encoder(config.encode, run.encode / "encoder", base=lambda: base)
    texts = [Example("\n".join(filter(None, (item.context, item.question)))).text(config.encode.text) for item in items]
    centroids = load_clusters(run.cluster).centroids
    return tuple(int(label) for label in assign_clusters(encoder.encode(texts), centroids))


def _task_file(task: ChoiceTaskConfig) -> Path:
    path = Path(task.path).expanduser()
    if not path.is_file():
        raise ConfigError("there is no such task file", where=task.path, do="check evaluate.choice_tasks")
    return path
