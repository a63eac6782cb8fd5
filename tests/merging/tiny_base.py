"""A tiny random Llama as a base, and adapters on it of which one was made to help; in memory, without a download."""

import torch

from tclora.adapters import Adapter, LoraFactors, make_adapter
from tclora.models import Base, Template, Tokens, collate, load_base, token_losses
from tclora.models.base import _logits_are_head_of_hidden

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.v_proj")


def tiny_llama(*, vocab_size: int = 64, tokenizer=None, dtype=torch.float32) -> Base:
    """Two layers of width 16. Its tokenizer is None unless given: tokens are made by hand then."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        # The default of 0.02 makes a model that says much the same whatever is hooked on it.
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(False).to(dtype)
    cpu = torch.device("cpu")
    return Base(model, tokenizer, Template("plain"), "tiny", None, 64, cpu, _logits_are_head_of_hidden(model, cpu))


def bundled_tokenizer():
    from tclora.config import BaseModelConfig

    return load_base(BaseModelConfig(path="bundled")).tokenizer


def random_on(base: Base, name: str, r: int, seed: int, *, modules=MODULES, size: float = 0.3) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for path in modules:
        d_out, d_in = base.model.get_submodule(path).weight.shape
        down, up = torch.randn(r, d_in, generator=generator), torch.randn(d_out, r, generator=generator)
        factors[path] = LoraFactors(size * down, size * up)
    return make_adapter(name, factors)


def trained_on(base: Base, name: str, r: int, rows: list[Tokens], *, modules=MODULES, size: float = 1.0) -> Adapter:
    """The best rank-`r` step down the gradient of the rows' loss, `size` long in every module."""
    weights = [base.model.get_submodule(path).weight for path in modules]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        gradients = torch.autograd.grad(token_losses(base, collate(rows, device=base.device)).mean(), weights)
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    factors = {}
    for path, gradient in zip(modules, gradients, strict=True):
        u, s, vh = torch.linalg.svd(-gradient.float(), full_matrices=False)
        root = (s[:r] / s[:r].norm() * size).sqrt()
        factors[path] = LoraFactors((root[:, None] * vh[:r]).contiguous(), (u[:, :r] * root).contiguous())
    return make_adapter(name, factors)
