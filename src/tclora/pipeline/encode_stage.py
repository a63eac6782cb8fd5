"""The encode stage: one unit row per example."""

from functools import cache
from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, read_json, sha256_file, write_json
from tclora.config import RunConfig
from tclora.data import read_examples
from tclora.encoding import fit_encoder, read_precomputed, save_encoder
from tclora.models import base_files_digest, load_base
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.progress import Progress
from tclora.pipeline.stage import Stage, inputs_digest, run_stage
from tclora.records import EncodeRecord, from_json, to_json

__all__ = ["encode_stage", "read_encode_record"]


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


def read_encode_record(run: RunFolder) -> EncodeRecord:
    """The record of the finished encode stage."""
    return from_json(EncodeRecord, read_json(run.encode / "record.json"))


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
