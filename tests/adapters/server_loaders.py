"""How each server decides on an adapter, written out anew from what its loader does: refuse, or a delta per module.

Independent of the code under test: these functions open the two files themselves and know nothing of findings. Sources:
vLLM `lora/peft_helper.py`, `lora/utils.py`, `lora/lora_model.py`; SGLang `srt/lora/{lora_config,lora_manager,lora,
mem_pool}.py`; llama.cpp `convert_lora_to_gguf.py`, `src/llama-adapter.h`. All main branches of October 2026, except
that vLLM's patterns are ignored as its releases do.
"""

import json
import math
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

PREFIX = "base_model.model."


class LoaderError(Exception):
    """The server does not load the adapter."""


def files(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    return json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")


def peft_deltas_of(folder: Path) -> dict[str, Tensor]:
    """The definition: alpha / r, or alpha / sqrt(r), with PEFT's `get_pattern_key` for both patterns."""
    config, tensors = files(folder)

    def patterned(field: str, default: float, path: str) -> float:
        hits = [v for k, v in (config.get(field) or {}).items() if re.match(rf"(.*\.)?({k})$", path)]
        return hits[0] if hits else default

    deltas = {}
    for path, (a, b) in pairs(tensors).items():
        r, alpha = (patterned(f, config[n], path) for f, n in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")))
        deltas[path] = (alpha / (math.sqrt(r) if config.get("use_rslora") else r)) * b.double() @ a.double()
    return deltas


def vllm(folder: Path, max_rank: int = 16) -> dict[str, Tensor]:
    config, tensors = files(folder)
    if not {"r", "lora_alpha", "target_modules"} <= set(config):
        raise LoaderError("required fields")
    if [name for name in config.get("modules_to_save") or [] if name not in ("classifier", "score")]:
        raise LoaderError("modules_to_save")
    if config.get("use_dora") or config.get("lora_bias") or config.get("bias", "none") != "none":
        raise LoaderError("features")
    if str(config.get("init_lora_weights")).lower().startswith(("pissa", "olora", "corda", "loftq")):
        raise LoaderError("init")
    if max(config["r"], *[a.shape[0] for a, _ in pairs(tensors).values()], 0) > max_rank:
        raise LoaderError("rank")
    for name in tensors:
        if name.endswith((".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")):
            continue
        parts = name.split(".")
        plain = parts[-1] == "weight" and parts[-2] in ("lora_A", "lora_B")
        if not plain and parts[-1] not in ("lora_embedding_A", "lora_embedding_B"):
            raise LoaderError(f"{name} is unsupported LoRA weight")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    return {path: scale * b.double() @ a.double() for path, (a, b) in pairs(tensors).items()}


def sglang(folder: Path, max_rank: int | None = None) -> dict[str, Tensor]:
    config, tensors = files(folder)
    targets, r, alpha = config.get("target_modules"), config["r"], config["lora_alpha"]
    if config.get("use_dora"):
        raise LoaderError("DoRA")
    if not isinstance(targets, list) and targets not in ("all", "all-linear"):
        raise LoaderError("target_modules")
    if any(v != r for v in (config.get("rank_pattern") or {}).values()):
        raise LoaderError("rank_pattern")
    if any(v != alpha for v in (config.get("alpha_pattern") or {}).values()):
        raise LoaderError("alpha_pattern")
    if max_rank is not None and r > max_rank:
        raise LoaderError("rank")
    if any(name.endswith(".bias") for name in tensors):
        raise LoaderError("a bias would be taken for lora_B")
    known = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}
    held = pairs(tensors)
    leaves = {path.split(".")[-1] for path in [*held, *(targets if isinstance(targets, list) else [])]}
    if leaves - known:
        raise LoaderError(f"get_hidden_dim not implemented for {leaves - known}")
    for path in held:
        parent, _, leaf = path.rpartition(".")
        if leaf in ("q_proj", "k_proj", "v_proj") and not {f"{parent}.q_proj", f"{parent}.v_proj"} <= set(held):
            raise LoaderError("KeyError while stacking q, k and v")
    lost = [name for name in tensors if name.endswith(".weight") and "lora_" not in name and "base_layer" not in name]
    deltas = {path: alpha / r * b.double() @ a.double() for path, (a, b) in held.items()}
    # A full tensor is a change of its own that is not served.
    return deltas | {name: torch.full((1, 1), torch.nan) for name in lost}


def llama_cpp(folder: Path) -> dict[str, Tensor]:
    config, tensors = files(folder)
    lost = []
    for name in tensors:
        if any(part in name for part in (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")):
            continue
        if ".base_layer.weight" in name:
            continue
        if "_layernorm" not in name and ".norm" not in name:
            raise LoaderError(f"Unexpected name '{name}': Not a lora_A or lora_B tensor")
        lost.append(name)
    deltas = {}
    for path, (a, b) in pairs(tensors).items():
        d_out, d_in = b.shape[0], a.shape[1]
        if re.search(r"\.(c_attn|c_fc|c_proj)$", path):
            # The base keeps (d_in, d_out) as (d_out, d_in); the factors are swapped and turned, and no longer fit it.
            d_out, d_in = d_in, d_out
        if (d_out, d_in) != (b.shape[0], a.shape[1]):
            raise LoaderError("tensor has incorrect shape (hint: maybe wrong base model?)")
        alpha, rank = config["lora_alpha"], a.shape[0]
        deltas[path] = (alpha / rank if alpha else 1.0) * b.double() @ a.double()
    return deltas | {name: torch.full((1, 1), torch.nan) for name in lost}


def pairs(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """lora_A and lora_B by module path, whatever adapter name stands in the tensors' names."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        hit = re.fullmatch(r"base_model\.model\.(.+)\.lora_(embedding_)?([AB])(\.\w+)?(\.weight)?", name)
        if hit and tensor.dim() == 2:
            found.setdefault(hit[1], {})[hit[3]] = tensor
    return {path: (both["A"], both["B"]) for path, both in found.items() if len(both) == 2}
