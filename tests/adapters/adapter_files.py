"""Builds PEFT folders by hand, byte by byte where needed, so that no test depends on the writer under test."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PREFIX = "base_model.model."
CONFIG = {
    "peft_type": "LORA",
    "base_model_name_or_path": "org/base",
    "revision": "abc",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 4,
    "bias": "none",
    "target_modules": ["q_proj", "v_proj"],
}
PATHS = [f"model.layers.{layer}.self_attn.{leaf}" for layer in range(2) for leaf in ("q_proj", "v_proj")]


def linear_names(path: str) -> tuple[str, str]:
    return f"{PREFIX}{path}.lora_A.weight", f"{PREFIX}{path}.lora_B.weight"


def tensors(r: int = 2, paths: list[str] = PATHS, d_in: int = 6, d_out: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for path in paths:
        name_a, name_b = linear_names(path)
        made[name_a] = torch.randn(r, d_in, generator=generator)
        made[name_b] = torch.randn(d_out, r, generator=generator)
    return made


def save_adapter(folder: Path, made: dict[str, Tensor] | None = None, **config: Any) -> Path:
    """A folder as PEFT leaves it; a config value of `...` removes the field."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors() if made is None else made, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    save_config(folder, **config)
    return folder


def save_config(folder: Path, **config: Any) -> None:
    fields = {key: value for key, value in {**CONFIG, **config}.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(fields))


def save_raw(folder: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    """A weights file with a header of our own making."""
    save_adapter(folder)
    claimed = len(header) if length is None else length
    (folder / "adapter_model.safetensors").write_bytes(claimed.to_bytes(8, "little") + header + data)
    return folder
