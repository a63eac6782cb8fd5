"""Adapters made for tests: random, of chosen ranks and module sets, in memory or written as a library would."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tclora.adapters import Adapter, LoraFactors, make_adapter

SHAPES = {"self_attn.q_proj": (24, 16), "mlp.up_proj": (40, 16)}


def random_adapter(
    name: str, r: int, seed: int, *, leaves=tuple(SHAPES), layers: int = 2, size: float = 1.0
) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for layer in range(layers):
        for leaf in leaves:
            d_out, d_in = SHAPES[leaf]
            lora_a = torch.randn(r, d_in, generator=generator)
            lora_b = torch.randn(d_out, r, generator=generator) * size
            modules[f"model.layers.{layer}.{leaf}"] = LoraFactors(lora_a=lora_a, lora_b=lora_b)
    return make_adapter(name, modules, base_model="org/base")


def write_peft(folder: Path, r: int, seed: int, *, leaves=tuple(SHAPES), dtype=torch.float32, **config) -> dict:
    """A PEFT folder as a training library writes it; returns the float64 delta of each module by its own formula.

    `ranks` and `alphas` map leaf names to overrides, written as `rank_pattern` and `alpha_pattern`.
    """
    ranks, alphas = config.pop("ranks", {}), config.pop("alphas", {})
    alpha, rslora = config.pop("lora_alpha", 2 * r), config.pop("use_rslora", False)
    generator = torch.Generator().manual_seed(seed)
    tensors, deltas = {}, {}
    for layer in range(2):
        for leaf in leaves:
            d_out, d_in = SHAPES[leaf]
            short = leaf.split(".")[-1]
            rank, own_alpha = ranks.get(short, r), alphas.get(short, alpha)
            lora_a = torch.randn(rank, d_in, generator=generator).to(dtype)
            lora_b = torch.randn(d_out, rank, generator=generator).to(dtype)
            path = f"model.layers.{layer}.{leaf}"
            tensors[f"base_model.model.{path}.lora_A.weight"] = lora_a
            tensors[f"base_model.model.{path}.lora_B.weight"] = lora_b
            scaling = own_alpha / (rank**0.5 if rslora else rank)
            deltas[path] = scaling * lora_b.double() @ lora_a.double()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
        "r": r,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "target_modules": [leaf.split(".")[-1] for leaf in leaves],
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return deltas


def dense(adapter: Adapter) -> dict[str, torch.Tensor]:
    """The float64 delta of every module."""
    return {name: factors.lora_b.double() @ factors.lora_a.double() for name, factors in adapter.modules.items()}


def weighted_sum(adapters: list[Adapter], weights: list[float]) -> dict[str, torch.Tensor]:
    """The definition: sum of weighted dense deltas, a missing module being zero."""
    total: dict[str, torch.Tensor] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, delta in dense(adapter).items():
            total[name] = total.get(name, 0) + weight * delta
    return total


def distance(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest relative Frobenius distance over modules; the module sets must agree."""
    assert sorted(found) == sorted(wanted)
    return max(float((found[n] - wanted[n]).norm() / wanted[n].norm()) for n in wanted)
