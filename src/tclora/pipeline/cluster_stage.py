"""The cluster stage: every example gets a cluster, and each cluster its files of examples."""

from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, read_json, write_json
from tclora.clustering import assign_clusters, fit_clusters, save_clusters, summarize_clusters
from tclora.config import RunConfig
from tclora.data import read_examples, write_examples
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.pipeline.progress import Progress
from tclora.pipeline.stage import Stage, inputs_digest, run_stage
from tclora.records import ClusterRecord, from_json, to_json

__all__ = ["cluster_stage", "read_cluster_record", "read_labels"]


def cluster_stage(config: RunConfig, run: RunFolder, data: Manifest, encode: Manifest, progress: Progress) -> Manifest:
    """Cluster the training examples and assign the dev examples."""
    inputs = {"data": inputs_digest(data), "encode": inputs_digest(encode)}
    stage = Stage("cluster", run.cluster, config.cluster.model_dump(mode="json"), inputs, config.seed)
    return run_stage(stage, lambda folder: _build_clusters(config, run, folder), progress)


def read_cluster_record(run: RunFolder) -> ClusterRecord:
    """The record of the finished cluster stage."""
    return from_json(ClusterRecord, read_json(run.cluster / "record.json"))


def read_labels(run: RunFolder, part: str) -> np.ndarray:
    """Cluster index of each example of `train` or `dev`."""
    return np.load(run.cluster / f"{part}_labels.npy", allow_pickle=False)


def _build_clusters(config: RunConfig, run: RunFolder, folder: Path) -> None:
    examples = {part: read_examples([str(run.data / f"{part}.jsonl")]) for part in ("train", "dev")}
    embeddings = {part: np.load(run.encode / f"{part}.npy", allow_pickle=False) for part in ("train", "dev")}
    model = fit_clusters(embeddings["train"], config.cluster, seed=config.seed)
    save_clusters(model, folder)
    labels = {part: assign_clusters(rows, model.centroids) for part, rows in embeddings.items()}
    for part, rows in examples.items():
        np.save(folder / f"{part}_labels.npy", labels[part], allow_pickle=False)
        for index in range(config.cluster.n_clusters):
            members = [example for example, label in zip(rows, labels[part], strict=True) if label == index]
            write_examples(folder / f"{cluster_name(index)}.{part}.jsonl", members)
    record = summarize_clusters(model, examples["train"], embeddings["train"], labels["train"], labels["dev"])
    write_json(folder / "record.json", to_json(record))
