"""The cluster stage: every example gets a cluster, and each cluster its files of examples.

In: the finished data and encode stages. Out: the cluster folder: centroids, labels, one file of examples for each
cluster and part, and the record. Refused: what `fit_clusters` refuses; no dev example is left without a cluster.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, digest_of, read_json, sha256_file, write_json
from tclora.clustering import (
    ExampleFacts,
    assign_examples,
    fit_clusters,
    save_clusters,
    summarize_clusters,
)
from tclora.config import ClusterConfig, RunConfig
from tclora.data import Example, count_examples, read_examples, write_examples
from tclora.errors import ConfigError
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.cluster_choice import resolve_n_clusters
from tclora.pipeline.stages.example_lengths import Lengths, example_lengths, tokenizer_digest
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage
from tclora.records import ClusterRecord, from_json, to_json

__all__ = ["cluster_stage", "read_cluster_record", "read_labels"]

# Settings of the search for the number of clusters: where the number is given, nothing depends on them.
_SEARCH = {"candidates", "rule", "choose_sample", "choose_min_size", "n_resamples"}
# Examples read and measured, clusters fitted and assigned, files written, clusters described.
_STEPS = 4


def cluster_stage(config: RunConfig, run: RunFolder, data: Manifest, encode: Manifest, progress: Progress) -> Manifest:
    """Cluster the training examples and assign the dev examples."""
    # Where a library of adapters lies does not matter; what it holds does. The map is a stage of its own.
    searched = config.cluster.n_clusters == "auto"
    settings = config.cluster.model_dump(mode="json", exclude={"library", "map"} | (set() if searched else _SEARCH))
    inputs = {"data": inputs_digest(data), "encode": inputs_digest(encode)}
    if (tokenizer := tokenizer_digest(config, count_examples(run.data / "train.jsonl"))) is not None:
        inputs["tokenizer"] = tokenizer
    if config.cluster.algorithm == "mbc":
        inputs["library"] = _library_digest(config.cluster)
    stage = Stage("cluster", run.cluster, settings, inputs, config.seed)
    return run_stage(stage, lambda folder: _build_clusters(config, run, folder, progress), progress)


def read_cluster_record(run: RunFolder) -> ClusterRecord:
    """The record of the finished cluster stage."""
    return from_json(ClusterRecord, read_json(run.cluster / "record.json"))


def read_labels(run: RunFolder, part: str) -> np.ndarray:
    """Cluster index of each example of `train` or `dev`."""
    return np.load(run.cluster / f"{part}_labels.npy", allow_pickle=False)


def _build_clusters(config: RunConfig, run: RunFolder, folder: Path, progress: Progress) -> None:
    examples = {part: read_examples([str(run.data / f"{part}.jsonl")]) for part in ("train", "dev")}
    # Mapped, not read: the rows may be many times larger than memory.
    embeddings = {part: np.load(run.encode / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in examples}
    lengths = example_lengths(config, examples["train"])
    facts = _facts(config.cluster, examples["train"], lengths)
    progress.step("cluster", 1, _STEPS)
    choice = resolve_n_clusters(config, embeddings["train"], facts, progress)
    k, seed = choice.n_clusters, config.seed
    found = fit_clusters(embeddings["train"], config.cluster, n_clusters=k, seed=seed, facts=facts)
    progress.step("cluster", 2, _STEPS)
    tasks = [example.task for example in examples["dev"]]
    dev_labels = assign_examples(found.model, embeddings["dev"], tasks=tasks, seed=config.seed)
    labels = {"train": found.labels, "dev": dev_labels}
    save_clusters(found.model, folder)
    for part, rows in examples.items():
        np.save(folder / f"{part}_labels.npy", labels[part], allow_pickle=False)
        _write_members(folder, part, rows, labels[part], found.model.n_clusters)
    progress.step("cluster", 3, _STEPS)
    record = summarize_clusters(found.model, examples["train"], embeddings["train"], found.labels, dev_labels, facts)
    counted = () if lengths.note is None else (lengths.note,)
    record = replace(record, notes=record.notes + choice.notes + counted, choice=choice.record)
    for note in record.notes:
        progress.note(f"cluster: {note}")
    write_json(folder / "record.json", to_json(record))
    progress.step("cluster", _STEPS, _STEPS)


def _facts(config: ClusterConfig, examples: list[Example], lengths: Lengths) -> ExampleFacts:
    library = Path(config.library).expanduser() if config.library else None
    tasks = [example.task for example in examples]
    return ExampleFacts(tasks=tasks, n_tokens=lengths.counts, token_unit=lengths.unit, library=library)


def _write_members(folder: Path, part: str, rows: list[Example], labels: np.ndarray, k: int) -> None:
    for index in range(k):
        members = (rows[place] for place in np.flatnonzero(labels == index).tolist())
        write_examples(folder / f"{cluster_name(index)}.{part}.jsonl", members)


def _library_digest(config: ClusterConfig) -> str:
    folder = Path(config.library).expanduser() if config.library else None
    if folder is None or not folder.is_dir():
        raise ConfigError(
            "model-based clustering needs a folder with an adapter for each task",
            where="cluster.library",
            found=config.library,
            do="name a folder that holds one adapter folder per task",
        )
    files = sorted(path for path in folder.rglob("adapter_*") if path.suffix in (".json", ".safetensors"))
    return digest_of({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})
