"""The encode stage: one unit row per example, streamed into `train.npy` and `dev.npy`.

In: the data stage's files. Out: the two matrices, the encoder that made them, and the record. The encoder is fitted
once; then shards of the texts are embedded, here or by the workers of an executor, and joined. The stage works in its
folder: a killed one goes on from the rows that are done. Memory holds a chunk of texts and a batch of rows, whatever
the number of examples. Refused: what the encoder refuses, precomputed rows that do not fit the examples.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from tclora.artifacts import Manifest, fsync_folder, read_json, sha256_file, write_json
from tclora.config import RunConfig
from tclora.data import count_examples, iter_examples
from tclora.encoding import (
    MAX_SHARDS,
    SENTENCE_ENCODERS,
    EncodeJob,
    ShardRecord,
    encode_shard,
    fit_encoder,
    fit_limit,
    join_shards,
    load_encoder,
    open_precomputed,
    precomputed_path,
    sample_rows,
    save_encoder,
    save_sentence_encoder,
    sentence_digest,
    sentence_source,
    shard_ranges,
)
from tclora.execution import Executor, LocalExecutor
from tclora.models import base_files_digest, load_base
from tclora.pipeline.layout import RunFolder
from tclora.pipeline.progress import Progress
from tclora.pipeline.stages.encode_pieces import Pieces, open_pieces, read_throughput
from tclora.pipeline.stages.stage import Stage, inputs_digest, run_stage
from tclora.records import EncodeRecord, from_json, to_json

__all__ = ["encode_stage", "read_encode_record"]

PARTS = ("train", "dev")


def encode_stage(
    config: RunConfig, run: RunFolder, data: Manifest, progress: Progress, executor: Executor | None = None
) -> Manifest:
    """Embed every training and dev example; rows that are done are not embedded again."""
    # Where an encoder runs and where a matrix lies do not matter; what they are does.
    settings = config.encode.model_dump(mode="json", exclude={"path", "device"})
    inputs = {"data": inputs_digest(data)}
    if config.encode.encoder == "hidden_states":
        inputs["base"] = base_files_digest(config.base)
        settings["base"] = config.base.model_dump(
            mode="json", include={"template", "max_length", "dtype", "quantization"}
        )
    if config.encode.encoder in SENTENCE_ENCODERS:
        inputs["model"] = sentence_digest(config.encode)
    if config.encode.encoder == "precomputed" and precomputed_path(config.encode.path).is_file():
        inputs["embeddings"] = sha256_file(precomputed_path(config.encode.path))
    stage = Stage("encode", run.encode, settings, inputs, config.seed, resumable=True)
    work = _Work(config, run, stage.key, executor or LocalExecutor(), progress)
    return run_stage(stage, lambda folder: _build(work, folder), progress)


def read_encode_record(run: RunFolder) -> EncodeRecord:
    """The record of the finished encode stage, with the throughput it had."""
    record = from_json(EncodeRecord, read_json(run.encode / "record.json"))
    return replace(record, texts_per_s=read_throughput(run.encode))


@dataclass(frozen=True)
class _Work:
    config: RunConfig
    run: RunFolder
    key: str
    executor: Executor
    progress: Progress

    def texts(self, part: str) -> Path:
        return self.run.data / f"{part}.jsonl"


def _build(work: _Work, folder: Path) -> None:
    pieces = open_pieces(folder, work.key, whole=("encoder",))
    counts = {part: count_examples(work.texts(part)) for part in PARTS}
    missing = [part for part in PARTS if not pieces.has(f"{part}.npy")]
    if work.config.encode.encoder == "precomputed":
        open_precomputed(work.config.encode.path, sum(counts.values()))
        embed = encode_shard
    else:
        pieces, embed = _fitted(work, folder, pieces, counts["train"], needed=bool(missing))
    for part in missing:
        pieces = _embed_part(work, folder, pieces, (part, counts[part]), embed)
    shutil.rmtree(folder / "work" / "shards", ignore_errors=True)
    write_json(folder / "record.json", to_json(_record(work.config, folder)))


def _fitted(
    work: _Work, folder: Path, pieces: Pieces, n_train: int, *, needed: bool
) -> tuple[Pieces, Callable[[EncodeJob], ShardRecord]]:
    """The encoder in its folder, fitted where it is not there yet, and the function that embeds a shard with it."""
    config, encoder, local = work.config, None, isinstance(work.executor, LocalExecutor)
    base = cache(lambda: load_base(config.base))
    if not pieces.has("encoder"):
        if config.encode.encoder in SENTENCE_ENCODERS and not local:
            save_sentence_encoder(config.encode, folder / "encoder")  # the workers load it, this process need not
        else:
            encoder = fit_encoder(config.encode, _sample(work, n_train), seed=config.seed, base=base)
            save_encoder(encoder, folder / "encoder")
        files = {f"encoder/{path.name}": path for path in (folder / "encoder").iterdir()}
        pieces = pieces.with_files(files)
    if not needed or not local:
        return pieces, encode_shard
    # In this process one encoder serves all shards; a worker loads its own from the folder.
    encoder = encoder or load_encoder(config.encode, folder / "encoder", base=base)
    return pieces, partial(encode_shard, encoder=encoder)


def _sample(work: _Work, n_train: int) -> list[str]:
    chosen = set(sample_rows(n_train, fit_limit(work.config.encode), seed=work.config.seed))
    examples = enumerate(iter_examples(work.texts("train")))
    return [example.text(work.config.encode.text) for index, example in examples if index in chosen]


def _embed_part(
    work: _Work,
    folder: Path,
    pieces: Pieces,
    part: tuple[str, int],
    embed: Callable[[EncodeJob], ShardRecord],
) -> Pieces:
    name, n_rows = part
    jobs = _jobs(work, folder, name, n_rows)
    records = list(work.executor.map(embed, jobs, watcher=work.progress))
    matrix = join_shards(records, folder / "work" / "shards" / f"{name}.npy")
    pieces = pieces.with_matrix(f"{name}.npy", matrix, n_rows, sum(record.wall_s for record in records))
    fsync_folder(folder)
    for job in jobs:
        shutil.rmtree(job.out)
    return pieces


def _jobs(work: _Work, folder: Path, part: str, n_rows: int) -> list[EncodeJob]:
    # One process writes one file, which then needs no joining.
    ranges = shard_ranges(n_rows, max_shards=1 if isinstance(work.executor, LocalExecutor) else MAX_SHARDS)
    precomputed = work.config.encode.encoder == "precomputed"
    first_row = count_examples(work.texts("train")) if precomputed and part == "dev" else 0
    return [
        EncodeJob(
            name=f"{part} texts" if len(ranges) == 1 else f"{part} texts {index + 1}/{len(ranges)}",
            config=work.config.encode,
            text_file=str(work.texts(part)),
            start=start,
            stop=stop,
            out=str(folder / "work" / "shards" / f"{part}-{start}-{stop}"),
            key=work.key,
            encoder_folder=None if precomputed else str(folder / "encoder"),
            base=work.config.base if work.config.encode.encoder == "hidden_states" else None,
            first_row=first_row,
        )
        for index, (start, stop) in enumerate(ranges)
    ]


def _record(config: RunConfig, folder: Path) -> EncodeRecord:
    rows = {part: np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in PARTS}
    encode = config.encode
    return EncodeRecord(
        encoder=encode.encoder,
        text=encode.text,
        n_train=len(rows["train"]),
        n_dev=len(rows["dev"]),
        d_embed=int(rows["train"].shape[1]),
        dtype=str(rows["train"].dtype),
        n_bytes=sum((folder / f"{part}.npy").stat().st_size for part in PARTS),
        model=sentence_source(encode).name if encode.encoder in SENTENCE_ENCODERS else None,
    )
