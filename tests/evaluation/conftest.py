"""A tiny random Llama with a byte-level tokenizer, and adapters for it in PEFT's format."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tclora.data import ChoiceItem, Example
from tclora.evaluation import ChoiceSet, DevSet
from tclora.models import Base, Template

N_CLUSTERS = 3
CLUSTER_NAMES = tuple(f"cluster-{i}" for i in range(N_CLUSTERS))


@pytest.fixture(scope="session")
def tiny_base() -> Base:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, **{symbol: i + 2 for i, symbol in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=256, initializer_range=0.5, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return Base(model, fast, Template("plain"), "tiny", None, 256, torch.device("cpu"), split_head=True)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> tuple[str, ...]:
    """Three adapters that disagree, one for each cluster."""
    root = tmp_path_factory.mktemp("adapters")
    return tuple(write_lora(root / name, seed=i, rank=i + 1) for i, name in enumerate(CLUSTER_NAMES))


@pytest.fixture(scope="session")
def dev() -> DevSet:
    examples = [Example(f"say {i}", "word" if i % 2 else "", "abc" * (1 + i % 3), f"family/{i % 2}") for i in range(12)]
    return DevSet(tuple(examples), tuple(i % N_CLUSTERS for i in range(12)))


@pytest.fixture(scope="session")
def choices() -> tuple[ChoiceSet, ...]:
    quiz = [
        ChoiceItem(
            str(i),
            "quiz",
            "A passage." if i % 2 else "",
            f"What is {i}?",
            ("no", "yes, it is", "maybe")[: 2 + i % 2],
            i % 2,
        )
        for i in range(7)
    ]
    blanks = [
        ChoiceItem(str(i), "blank", "", f"Ann saw Bob, so _ waved {i} times.", ("Ann", "Robert"), i % 2)
        for i in range(5)
    ]
    return (
        ChoiceSet("quiz", tuple(quiz), tuple(i % N_CLUSTERS for i in range(7)), "bytes"),
        ChoiceSet("blanks", tuple(blanks), tuple((i + 1) % N_CLUSTERS for i in range(5)), "none"),
    )


@pytest.fixture
def make_lora() -> Callable[..., str]:
    return write_lora


def write_lora(folder: Path, *, seed: int, rank: int = 2, lora_alpha: int = 8) -> str:
    """A random LoRA on two projections of the tiny base."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, 16, generator=generator) * 0.3
        tensors[f"{module}.lora_B.weight"] = torch.randn(16, rank, generator=generator) * 0.3
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": lora_alpha,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)
