"""A job small enough to be trained many times: a random two-layer Llama on disk and forty short examples."""

import shutil
from pathlib import Path

import pytest
import torch

from tclora.config import BaseModelConfig
from tclora.config.schema import TrainConfig
from tclora.data import Example, write_examples
from tclora.models import Base, bundled_base_path, load_base
from tclora.training import TrainJob, train_adapter


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "base"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_base_path() / name, folder)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=1,
        eos_token_id=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder) -> Base:
    return load_base(base_config(tiny_folder))


@pytest.fixture
def job(tiny_folder, tmp_path) -> TrainJob:
    return make_job(tiny_folder, tmp_path)


@pytest.fixture(scope="session")
def whole(tiny_folder, tiny, tmp_path_factory) -> dict[str, bytes]:
    """The files of the job's adapter, trained without an interruption."""
    job = make_job(tiny_folder, tmp_path_factory.mktemp("whole"))
    train_adapter(job, base=tiny)
    return {path.name: path.read_bytes() for path in Path(job.out).iterdir()}


def make_job(tiny_folder: Path, folder: Path) -> TrainJob:
    words = ["red", "green", "blue", "black", "white"]
    rows = [Example(f"Name color {i % 5} " + "please " * (i % 7), output=words[i % 5]) for i in range(48)]
    write_examples(folder / "train.jsonl", rows[:40])
    write_examples(folder / "dev.jsonl", rows[40:])
    return TrainJob(
        name="cluster-0",
        base=base_config(tiny_folder),
        train_file=str(folder / "train.jsonl"),
        dev_file=str(folder / "dev.jsonl"),
        out=str(folder / "cluster-0"),
        params=TrainConfig(epochs=1.5, batch_size=6, lr=2e-2, checkpoint_every=3),
        seed=0,
    )


def base_config(folder: Path) -> BaseModelConfig:
    return BaseModelConfig(path=str(folder), threads=1, device="cpu", max_length=48)
