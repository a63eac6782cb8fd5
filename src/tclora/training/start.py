"""How an adapter starts, taken from PEFT's own layers, so that every initialization PEFT knows is the grouped one too.

In: a base and settings. Out: initial weights by PEFT's names, and for each module its names, scaling and dropout; or
the reason why these settings on this base cannot be grouped. The base is left as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tclora.config import TrainConfig
from tclora.models import Base, Tokens
from tclora.training.lora import lora_on

__all__ = ["ModuleStart", "Start", "peft_start"]


@dataclass(frozen=True)
class ModuleStart:
    """One adapted module: the names of its factors among the weights."""

    lora_a: str
    lora_b: str
    scaling: float
    dropout: float


@dataclass(frozen=True)
class Start:
    """An adapter before its first step."""

    weights: Mapping[str, Tensor]
    modules: Mapping[str, ModuleStart]


def peft_start(base: Base, params: TrainConfig, *, seed: int, rows: Sequence[Tokens] = ()) -> Start | str:
    """The adapter as PEFT makes it from `seed`, or why it cannot be trained in a group.

    Raises:
        ConfigError: `target_modules` matches nothing.
        MissingExtraError: peft is not installed.
    """
    before = {path: _identity(module) for path, module in base.model.named_modules()}
    with lora_on(base, params, seed=seed, rows=rows) as weights:
        layers = {path: module for path, module in base.model.named_modules() if hasattr(module, "lora_A")}
        reasons = [reason for path, layer in layers.items() if (reason := _refusal(path, layer, before, weights))]
        if reasons:
            return reasons[0]
        modules = {path: _module(path, layer) for path, layer in layers.items()}
        strays = set(weights) - {name for module in modules.values() for name in (module.lora_a, module.lora_b)}
        if strays:
            return f"{min(strays)} is trained beside the LoRA factors"
        return Start({name: weight.detach().clone() for name, weight in weights.items()}, modules)


def _identity(module: Any) -> tuple[int, int] | None:
    weight = getattr(module, "weight", None)
    return (weight.data_ptr(), weight._version) if isinstance(weight, Tensor) else None


def _refusal(path: str, layer: Any, before: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str | None:
    """Why this layer is more than `base(x) + lora_b(lora_a(dropout(x))) * scaling` over a plain matrix."""
    from peft.tuners.lora import layer as peft_layers

    module = layer.base_layer
    if type(layer) is not peft_layers.Linear or not _is_plain(module):
        return f"{path} is of type {type(module).__name__}, not Linear or Conv1D"
    if layer.lora_variant or any(layer.lora_bias.values()) or set(layer.lora_A) != {"default"}:
        return f"{path} has a LoRA of another kind"
    if not weights.keys() >= {f"{path}.lora_A.default.weight", f"{path}.lora_B.default.weight"}:
        return f"one factor of {path} is frozen"
    return f"the start changes the base at {path}" if _identity(module) != before[path] else None


def _is_plain(module: Any) -> bool:
    if "forward" in vars(module):  # another library has put something on this very module
        return False
    linear = isinstance(module, torch.nn.Linear) and type(module).forward is torch.nn.Linear.forward
    return (linear or type(module).__name__ == "Conv1D") and module.weight.is_floating_point()


def _module(path: str, layer: Any) -> ModuleStart:
    dropout = getattr(layer.lora_dropout["default"], "p", 0.0)
    names = (f"{path}.lora_{side}.default.weight" for side in "AB")
    return ModuleStart(*names, scaling=float(layer.scaling["default"]), dropout=float(dropout))
