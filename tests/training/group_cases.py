"""What the tests of grouped training share: tiny bases of three kinds, jobs of unequal clusters, and comparisons."""

import dataclasses
import shutil
from pathlib import Path

import torch

from tclora.adapters import read_adapter
from tclora.config.schema import BaseModelConfig, TrainConfig
from tclora.data import Example, write_examples
from tclora.models import bundled_base_path
from tclora.training import TrainJob

WORDS = ["red", "green", "blue", "black", "white"]


def save_base(folder: Path, model) -> Path:
    """A model with the bundled tokenizer, as a folder."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_base_path() / name, folder)
    model.save_pretrained(folder)
    return folder


def made(architecture: str):
    """A random model of two layers, without dropout of its own."""
    import transformers

    sizes = {"vocab_size": 4096, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1}
    llama = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
    }
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "n_inner": 48}
    quiet = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    configs = {
        "llama": lambda: transformers.LlamaConfig(**sizes, **llama),
        "qwen2": lambda: transformers.Qwen2Config(**sizes, **llama),
        "mistral": lambda: transformers.MistralConfig(**sizes, **llama, sliding_window=8),
        "gpt2": lambda: transformers.GPT2Config(**sizes, **gpt2, **quiet),
        "gpt2_dropout": lambda: transformers.GPT2Config(**sizes, **gpt2),
        "gptneox": lambda: transformers.GPTNeoXConfig(
            **sizes, **{key: value for key, value in llama.items() if key != "num_key_value_heads"}
        ),
        "bloom": lambda: transformers.BloomConfig(**sizes, hidden_size=32, n_layer=2, n_head=2),
        "gemma2": lambda: transformers.Gemma2Config(**sizes, **llama, head_dim=16, sliding_window=8),
        "mixtral": lambda: transformers.MixtralConfig(**sizes, **llama, num_local_experts=2, num_experts_per_tok=2),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(configs[architecture]())


def made_jobs(base_folder: Path, folder: Path, n: int = 3, **params) -> list[TrainJob]:
    """Jobs on clusters of unequal size and length, so that passes mix them in every way."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"epochs": 2, "batch_size": 5, "lr": 1e-2, "checkpoint_every": 4, "r": 4, "lora_dropout": 0.0}
    jobs = []
    for index in range(n):
        rows = [
            Example(f"Name color {i % 5} " + "please " * ((i * (index + 1)) % 7), output=WORDS[(i + index) % 5])
            for i in range(23 + 6 * index)
        ]
        write_examples(folder / f"{index}.train.jsonl", rows[:-4])
        write_examples(folder / f"{index}.dev.jsonl", rows[-4:])
        jobs.append(
            TrainJob(
                name=f"cluster-{index}",
                base=BaseModelConfig(path=str(base_folder), threads=1, device="cpu", max_length=48),
                train_file=str(folder / f"{index}.train.jsonl"),
                dev_file=str(folder / f"{index}.dev.jsonl"),
                out=str(folder / f"cluster-{index}"),
                params=TrainConfig(**(settings | params)),
                seed=index,
            )
        )
    return jobs


def moved(jobs: list[TrainJob], folder: Path) -> list[TrainJob]:
    """The same jobs with outputs elsewhere."""
    return [dataclasses.replace(job, out=str(folder / job.name)) for job in jobs]


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def difference(one: TrainJob, other: TrainJob) -> float:
    """The Frobenius distance of two adapters' updates over all modules, relative to the first."""
    left, right = (read_adapter(Path(job.out)).modules for job in (one, other))
    assert left.keys() == right.keys()
    deltas = [(left[name].lora_b @ left[name].lora_a, right[name].lora_b @ right[name].lora_a) for name in left]
    apart = sum(float((a - b).double().square().sum()) for a, b in deltas)
    return (apart / sum(float(a.double().square().sum()) for a, _ in deltas)) ** 0.5
