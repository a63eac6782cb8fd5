"""Models for these tests: the bundled base, and tiny random ones made from a config, without a download."""

import pytest
import torch

from tclora.config import BaseModelConfig
from tclora.data import Example
from tclora.models import Base, Template, load_base
from tclora.models.base import _logits_are_head_of_hidden


@pytest.fixture(scope="session")
def seed_lm() -> Base:
    return load_base(BaseModelConfig(path="bundled", max_length=256))


@pytest.fixture
def examples() -> list[Example]:
    return [
        Example("Say hello.", output="Hello there, how are you?"),
        Example("Name the capital of the country.", input="France", output="Paris"),
        Example("Is this sentence well formed? " * 6, input="who are you", output="yes"),
        Example("Count.", output="one two three four five six seven eight nine ten"),
        Example("", output="A text that asks nothing."),
    ]


def _random(config, tokenizer) -> Base:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    cpu = torch.device("cpu")
    return Base(model, tokenizer, Template("plain"), "random", None, 64, cpu, _logits_are_head_of_hidden(model, cpu))


@pytest.fixture(scope="session")
def gpt2(seed_lm) -> Base:
    from transformers import GPT2Config

    return _random(GPT2Config(vocab_size=4096, n_positions=64, n_embd=32, n_layer=2, n_head=2), seed_lm.tokenizer)


@pytest.fixture(scope="session")
def gemma2(seed_lm) -> Base:
    """Its logits are soft-capped, so they are not the output layer of the last hidden state."""
    from transformers import Gemma2Config

    config = Gemma2Config(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.5,
    )
    return _random(config, seed_lm.tokenizer)
