"""LoRA layers on a shared base for the length of one training, and their weights on disk.

In: a `Base` and settings. Out: the trainable parameters, float32, by name. The layers are PEFT's; afterwards they are
taken off and the base is what it was, to the bit. Written: `adapter_config.json` with fields that every PEFT version
knows, `adapter_model.safetensors` in PEFT's names; equal weights give equal bytes.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tclora.artifacts import write_bytes, write_json
from tclora.config import TrainConfig
from tclora.errors import MissingExtraError
from tclora.models import Base, resolve_targets

__all__ = ["drawing_from", "lora_on", "write_peft_folder"]

_ADAPTER = "default"
"""PEFT's name for the adapter in memory; it never stands in a file."""


@contextmanager
def drawing_from(device: torch.device, *seeds: int) -> Iterator[None]:
    """Let torch's global generators draw from `seeds` inside the block, and put them back after it.

    PEFT's initialization and dropout know no other generator. With one seed for each step, no generator state has to
    be kept for a resumed run to draw the same numbers.
    """
    digest = hashlib.sha256("/".join(map(str, seeds)).encode()).digest()
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        yield


@contextmanager
def lora_on(base: Base, params: TrainConfig, *, seed: int) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Put fresh LoRA layers on the base inside the block, in training mode.

    Returns:
        the trainable parameters by their name in the model, in the order of the model.

    Raises:
        ConfigError: `target_modules` matches nothing.
        MissingExtraError: peft is not installed.
    """
    peft = _peft()
    targets = resolve_targets(base.model, params.target_modules)
    config = peft.LoraConfig(
        r=params.r,
        lora_alpha=params.lora_alpha,
        lora_dropout=params.lora_dropout,
        use_rslora=params.use_rslora,
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=_is_transposed(base.model),
        bias="none",
    )
    with drawing_from(base.device, seed), warnings.catch_warnings():
        # PEFT reads a name that transformers is about to rename; the user can do nothing about it.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.PeftModel(base.model, config, adapter_name=_ADAPTER)
    try:
        wrapped.train()
        yield {name: weight for name, weight in base.model.named_parameters() if weight.requires_grad}
    finally:
        wrapped.unload()
        base.model.requires_grad_(False)
        base.model.eval()
        # PEFT leaves its config on the model, and would warn of it at the next training.
        if hasattr(base.model, "peft_config"):
            del base.model.peft_config


def write_peft_folder(folder: Path, weights: Mapping[str, Tensor], base: Base, params: TrainConfig) -> None:
    """Write the adapter's two files into an existing folder."""
    tensors = {_file_name(name): weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
    write_bytes(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_json(folder / "adapter_config.json", _peft_config(base, params))


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtraError(
            "adapters cannot be trained without peft",
            where="train",
            found="peft is not installed",
            expected="the 'library' extra",
            do="pip install 'tclora[library]'",
        ) from None
    return peft


def _is_transposed(model: Any) -> bool:
    # GPT-2's Conv1D keeps its weight as (d_in, d_out); PEFT wants to be told.
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


def _file_name(name: str) -> str:
    return "base_model.model." + ".".join(part for part in name.split(".") if part != _ADAPTER)


def _peft_config(base: Base, params: TrainConfig) -> dict[str, Any]:
    targets = resolve_targets(base.model, params.target_modules)
    alpha = float(params.lora_alpha)
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": base.name,
        "bias": "none",
        "fan_in_fan_out": _is_transposed(base.model),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,  # servers expect an integer
        "lora_dropout": params.lora_dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": params.r,
        "rank_pattern": {},
        "revision": base.revision,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_rslora": params.use_rslora,
    }
