"""LoRA layers on a shared base for the length of one training, and their weights on disk.

In: a `Base` and settings. Out: the trainable parameters, float32, by name. The layers are PEFT's; afterwards they are
taken off and the base is what it was, to the bit. Written: `adapter_config.json` with fields that every PEFT version
knows, `adapter_model.safetensors` in PEFT's names; equal weights give equal bytes.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tclora.artifacts import write_bytes, write_json
from tclora.config import TrainConfig
from tclora.errors import MissingExtraError, ShapeError
from tclora.models import Base, Tokens
from tclora.training.initial import OFFSET, check_start, eva_start, hold_back_start
from tclora.training.variants import adapted_modules, changes_base, check_patterns, pattern_value, peft_fields

__all__ = ["drawing_from", "lora_on", "write_peft_folder", "written_weights"]

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
def lora_on(
    base: Base, params: TrainConfig, *, seed: int, rows: Sequence[Tokens] = ()
) -> Iterator[dict[str, torch.nn.Parameter]]:
    """Put fresh LoRA layers on the base inside the block, in training mode.

    Args:
        rows: the training rows; only `init_lora_weights: eva` looks at them.

    Returns:
        the trainable parameters by their name in the model, in the order of the model. What is written of them is
        `written_weights`, which must be called inside the block.

    Raises:
        ConfigError: `target_modules`, `layers` or a pattern matches nothing, or the initialization does not fit.
        DataError, NumericalError: `rows` do not do for EVA.
        MissingExtraError: peft is not installed.
    """
    peft = _peft()
    config = _peft_settings(peft, base, params)
    ranks = [pattern_value(params.rank_pattern, path, params.r) for path in adapted_modules(base, params)]
    with drawing_from(base.device, seed), warnings.catch_warnings():
        # PEFT reads a name that transformers is about to rename; the user can do nothing about it.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.PeftModel(base.model, config, adapter_name=_ADAPTER)
    try:
        with drawing_from(base.device, seed, 0):
            if changes_base(params):
                hold_back_start(peft, wrapped, config, params)
            if params.init_lora_weights == "eva":
                eva_start(peft, wrapped, rows, seed=seed, max_rank=max(ranks))
        wrapped.train()
        yield {name: weight for name, weight in base.model.named_parameters() if weight.requires_grad}
    finally:
        wrapped.unload()
        base.model.requires_grad_(False)
        base.model.eval()
        # PEFT leaves its config on the model, and would warn of it at the next training.
        if hasattr(base.model, "peft_config"):
            del base.model.peft_config


@torch.no_grad()
def written_weights(base: Base, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors that make up the adapter, by the names in the model; inside the block of `lora_on`.

    They are the trained parameters, with the factors that a variant holds frozen. Where the start was taken out of the
    base (PiSSA, OLoRA), each factor has twice the rank and the scale is folded in: `lora_b @ lora_a` is then the whole
    change of the base's own weight.

    Args:
        weights: what `lora_on` yielded, or other values for the same names.
    """
    every = {name: weight for name, weight in base.model.named_parameters() if ".lora_" in name}
    own = {
        name: weights.get(name, weight).detach().clone() for name, weight in every.items() if _ADAPTER in _parts(name)
    }
    for name in own:
        start = ".".join(OFFSET if part == _ADAPTER else part for part in _parts(name))
        if start in every:
            is_a = ".lora_A." in name
            both = torch.cat([own[name], every[start].to(own[name])], dim=0 if is_a else 1)
            own[name] = both if is_a else both * _scale_in(base, name)
    return own


def write_peft_folder(folder: Path, weights: Mapping[str, Tensor], base: Base, params: TrainConfig) -> None:
    """Write the adapter's two files into an existing folder.

    Args:
        weights: what `written_weights` gave.

    Raises:
        ShapeError: a factor does not have the rank that the settings give its module.
    """
    tensors = {_file_name(name): weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
    _check_ranks(weights, params)
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


def _peft_settings(peft: Any, base: Base, params: TrainConfig) -> Any:
    # A start from the base's weights is drawn after wrapping, one module at a time; see `hold_back_start`.
    start = True if changes_base(params) else params.init_lora_weights
    fields = peft_fields(base, params)
    options = {"eva_config": peft.EvaConfig(rho=1.0)} if start == "eva" else {}
    fields |= options | {"lora_dropout": params.lora_dropout, "init_lora_weights": start, "bias": "none"}
    config = peft.LoraConfig(**fields, fan_in_fan_out=_is_transposed(base.model))
    adapted = adapted_modules(base, params)
    check_patterns(params, adapted)
    check_start(base, params, adapted)
    return config


def _parts(name: str) -> list[str]:
    return name.split(".")


def _scale_in(base: Base, name: str) -> float:
    """The scale that PEFT's layer applies to the factor of this name."""
    layer = base.model.get_submodule(name[: name.index(".lora_")])
    return float(layer.scaling[_ADAPTER])


def _file_name(name: str) -> str:
    return "base_model.model." + ".".join(part for part in name.split(".") if part != _ADAPTER)


def _check_ranks(weights: Mapping[str, Tensor], params: TrainConfig) -> None:
    for name, weight in weights.items():
        r = pattern_value(params.rank_pattern, name[: name.index(".lora_")], params.r) * (
            2 if changes_base(params) else 1
        )
        found = weight.shape[0 if ".lora_A." in name or ".lora_embedding_A." in name else 1]
        if found != r:
            raise ShapeError(
                "a trained factor does not have the rank that its config would state",
                where=name,
                found=f"rank {found}, shape {tuple(weight.shape)}",
                expected=f"rank {r}",
                do="write what `written_weights` gives",
            )


def _peft_config(base: Base, params: TrainConfig) -> dict[str, Any]:
    fields = _doubled(peft_fields(base, params)) if changes_base(params) else peft_fields(base, params)
    return {
        **fields,
        "alpha_pattern": {key: _whole(alpha) for key, alpha in fields["alpha_pattern"].items()},
        "base_model_name_or_path": base.name,
        "bias": "none",
        "fan_in_fan_out": _is_transposed(base.model),
        "inference_mode": True,
        "init_lora_weights": True,  # whatever the start was: the delta is against the user's own base
        "lora_alpha": _whole(fields["lora_alpha"]),
        "lora_dropout": params.lora_dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "revision": base.revision,
        "task_type": "CAUSAL_LM",
    }


def _doubled(fields: dict[str, Any]) -> dict[str, Any]:
    """Twice the ranks, and a scale of 1 everywhere: it is folded into the factors."""
    ranks = {key: 2 * r for key, r in fields["rank_pattern"].items()}
    r = 2 * fields["r"]
    return fields | {"r": r, "lora_alpha": r, "use_rslora": False, "rank_pattern": ranks, "alpha_pattern": ranks}


def _whole(alpha: int | float) -> int | float:
    return int(alpha) if float(alpha).is_integer() else alpha  # servers expect an integer
