"""The stages on text: data, encode and cluster.

Data: the user's files become `train.jsonl` and `dev.jsonl` in one form. Encode: one unit row per example. Cluster:
k-means on a sample, every example assigned, one pair of files per cluster.
"""

from functools import cache
from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, read_json, sha256_file, write_json
from tclora.clustering import assign_clusters, fit_clusters, save_clusters, summarize_clusters
from tclora.config import DataConfig, RunConfig
from tclora.data import Example, expand_paths, hold_out, read_examples, sample_examples, split_dev, write_examples
from tclora.encoding import fit_encoder, read_precomputed, save_encoder
from tclora.errors import DataError
from tclora.models import base_files_digest, load_base
from tclora.pipeline.layout import RunFolder, cluster_name
from tclora.pipeline.progress import Progress
from tclora.pipeline.stage import Stage, inputs_digest, run_stage
from tclora.records import ClusterRecord, EncodeRecord, from_json, to_json

__all__ = ["cluster_stage", "data_stage", "encode_stage", "read_cluster_record", "read_encode_record", "read_labels"]


def data_stage(config: RunConfig, run: RunFolder, progress: Progress) -> Manifest:
    """Read, sample and split the examples."""
    given = {"train": config.data.train, "dev": config.data.dev, "held_out": config.data.held_out}
    paths = {part: expand_paths(names) for part, names in given.items() if names}
    # Where files lie does not matter, so that a moved folder is not read again; what they hold does.
    settings = config.data.model_dump(mode="json", exclude=set(given))
    inputs = {f"{part}/{index}": sha256_file(path) for part, files in paths.items() for index, path in enumerate(files)}
    stage = Stage("data", run.data, settings, inputs, config.seed)
    return run_stage(stage, lambda folder: _build_data(config.data, folder, config.seed), progress)


def encode_stage(config: RunConfig, run: RunFolder, data: Manifest, progress: Progress) -> Manifest:
    """Embed every training and dev example."""
    settings = config.encode.model_dump(mode="json", exclude={"path"})
    inputs = {"data": inputs_digest(data)}
    if config.encode.encoder == "hidden_states":
        inputs["base"] = base_files_digest(config.base)
        settings["base"] = config.base.model_dump(mode="json", include={"template", "max_length", "dtype"})
    if config.encode.encoder == "precomputed" and config.encode.path and Path(config.encode.path).is_file():
        inputs["embeddings"] = sha256_file(Path(config.encode.path))
    stage = Stage("encode", run.encode, settings, inputs, config.seed)
    return run_stage(stage, lambda folder: _build_embeddings(config, run, folder), progress)


def cluster_stage(config: RunConfig, run: RunFolder, data: Manifest, encode: Manifest, progress: Progress) -> Manifest:
    """Cluster the training examples and assign the dev examples."""
    inputs = {"data": inputs_digest(data), "encode": inputs_digest(encode)}
    stage = Stage("cluster", run.cluster, config.cluster.model_dump(mode="json"), inputs, config.seed)
    return run_stage(stage, lambda folder: _build_clusters(config, run, folder), progress)


def read_cluster_record(run: RunFolder) -> ClusterRecord:
    """The record of the finished cluster stage."""
    return from_json(ClusterRecord, read_json(run.cluster / "record.json"))


def read_encode_record(run: RunFolder) -> EncodeRecord:
    """The record of the finished encode stage."""
    return from_json(EncodeRecord, read_json(run.encode / "record.json"))


def read_labels(run: RunFolder, part: str) -> np.ndarray:
    """Cluster index of each example of `train` or `dev`."""
    return np.load(run.cluster / f"{part}_labels.npy", allow_pickle=False)


def _build_data(config: DataConfig, folder: Path, seed: int) -> None:
    train = read_examples(config.train, format=config.format, fields=config.fields)
    if config.hold_out_sha1:
        train = hold_out(train, config.hold_out_sha1)
    if config.dev:
        dev = read_examples(config.dev, format=config.format, fields=config.fields)
    else:
        train, dev = split_dev(train, config.dev_fraction, seed=seed)
    train, dev = _sampled(train, config.max_train, seed), _sampled(dev, config.max_dev, seed)
    if not train or not dev:
        raise DataError(
            "there are no examples to work with",
            found=f"{len(train)} for training, {len(dev)} for dev",
            expected="at least one of each",
            do="check hold_out_sha1, dev_fraction and the data files",
        )
    held_out = read_examples(config.held_out, format=config.format, fields=config.fields) if config.held_out else []
    parts = {"train": train, "dev": dev, "held_out": _sampled(held_out, config.max_held_out, seed)}
    for part, rows in parts.items():
        write_examples(folder / f"{part}.jsonl", rows)


def _sampled(examples: list[Example], limit: int | None, seed: int) -> list[Example]:
    return examples if limit is None or len(examples) <= limit else sample_examples(examples, limit, seed=seed)


def _build_embeddings(config: RunConfig, run: RunFolder, folder: Path) -> None:
    parts = {part: read_examples([str(run.data / f"{part}.jsonl")]) for part in ("train", "dev")}
    texts = {part: [example.text(config.encode.text) for example in examples] for part, examples in parts.items()}
    n_train, n_dev = len(texts["train"]), len(texts["dev"])
    if config.encode.encoder == "precomputed":
        rows = read_precomputed(config.encode.path, n_train + n_dev)
        embeddings = {"train": rows[:n_train], "dev": rows[n_train:]}
    else:
        base = cache(lambda: load_base(config.base))
        encoder = fit_encoder(config.encode, texts["train"], seed=config.seed, base=base)
        save_encoder(encoder, folder / "encoder")
        embeddings = {part: encoder.encode(rows) for part, rows in texts.items()}
    for part, rows in embeddings.items():
        np.save(folder / f"{part}.npy", rows, allow_pickle=False)
    d_embed = int(embeddings["train"].shape[1])
    record = EncodeRecord(config.encode.encoder, config.encode.text, n_train, n_dev, d_embed)
    write_json(folder / "record.json", to_json(record))


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
