"""What the variant settings mean on a given base: which modules get factors, and of what rank.

In: a base and `TrainConfig`. Out: the fields of PEFT's `LoraConfig`, and the modules that get factors. Refused: layers
that the base lacks, and patterns that match no adapted module.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tclora.config import TrainConfig
from tclora.errors import ConfigError
from tclora.models import Base, resolve_targets

__all__ = [
    "adapted_modules",
    "changes_base",
    "check_patterns",
    "chosen_layers",
    "pattern_value",
    "peft_fields",
]

_STARTS_FROM_BASE = ("pissa", "olora")


def changes_base(params: TrainConfig) -> bool:
    """Whether the initialization takes its factors out of the base weights, as PiSSA and OLoRA do."""
    return isinstance(params.init_lora_weights, str) and params.init_lora_weights.startswith(_STARTS_FROM_BASE)


def pattern_value(pattern: Mapping[str, Any], path: str, default: Any) -> Any:
    """The value of the first key that matches the module path as PEFT matches it, else the default."""
    return next((value for key, value in pattern.items() if _matches(key, path)), default)


def chosen_layers(base: Base, params: TrainConfig) -> tuple[list[int], str] | None:
    """The numbers of the adapted layers and the name of the list they lie in; None where all are adapted.

    Of an odd number of layers the middle one belongs to the last half, so that the halves share none and miss none.

    Raises:
        ConfigError: a layer does not exist, or the base's list of layers cannot be told.
    """
    if params.layers == "all":
        return None
    pattern, n_layers = _layer_list(base, params)
    halves = {"first-half": range(n_layers // 2), "last-half": range(n_layers // 2, n_layers)}
    wanted = sorted(set(halves[params.layers] if isinstance(params.layers, str) else params.layers))
    if not wanted or wanted[-1] >= n_layers:
        raise ConfigError(
            "train.layers names layers that the base does not have",
            where="train.layers",
            found=params.layers,
            expected=f"layers among 0 to {n_layers - 1} of '{pattern}', at least one",
            do="correct train.layers",
        )
    return wanted, pattern


def peft_fields(base: Base, params: TrainConfig) -> dict[str, Any]:
    """The fields of `adapter_config.json` and of PEFT's `LoraConfig` that say where the factors go and how large.

    Raises:
        ConfigError: `target_modules`, `layers` or a pattern fits nothing in the base.
    """
    targets = resolve_targets(base.model, params.target_modules)
    layers = chosen_layers(base, params)
    if layers is not None and isinstance(targets, str):
        raise ConfigError(
            "train.layers cannot narrow a regular expression",
            where="train.layers, train.target_modules",
            found=targets,
            expected="attention, all-linear or a list of names",
            do="write the layers into the expression, as in model\\.layers\\.(4|5)\\..*q_proj",
        )
    return {
        "r": params.r,
        "lora_alpha": params.lora_alpha,
        "use_rslora": params.use_rslora,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "layers_to_transform": None if layers is None else layers[0],
        "layers_pattern": None if layers is None else layers[1],
        "rank_pattern": dict(params.rank_pattern),
        "alpha_pattern": dict(params.alpha_pattern),
    }


def adapted_modules(base: Base, params: TrainConfig) -> dict[str, Any]:
    """The modules that get factors, by path, in the order of the model.

    Raises:
        ConfigError: as `peft_fields`, or no target lies in the chosen layers.
    """
    fields = peft_fields(base, params)
    chosen = {path: module for path, module in base.model.named_modules() if path and _is_target(path, fields)}
    if not chosen:
        raise ConfigError(
            "no target module lies in the chosen layers",
            where="train.layers, train.target_modules",
            found=f"target_modules {params.target_modules}, layers {params.layers}",
            expected="at least one module",
            do="correct one of them",
        )
    return chosen


def _is_target(path: str, fields: Mapping[str, Any]) -> bool:
    targets, layers = fields["target_modules"], fields["layers_to_transform"]
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    if not any(path == target or path.endswith(f".{target}") for target in targets):
        return False
    if layers is None:
        return True
    match = re.match(rf"(?:^|.*?\.){re.escape(fields['layers_pattern'])}\.(\d+)\.", path)
    return match is not None and int(match[1]) in layers


def check_patterns(params: TrainConfig, paths: Iterable[str]) -> None:
    """Refuse a key of `rank_pattern` or `alpha_pattern` that matches none of the adapted modules.

    Raises:
        ConfigError: names the key.
    """
    known = list(paths)
    for name, pattern in (("rank_pattern", params.rank_pattern), ("alpha_pattern", params.alpha_pattern)):
        for key in pattern:
            if not any(_matches(key, path) for path in known):
                raise ConfigError(
                    f"a key of {name} matches no adapted module",
                    where=f"train.{name}",
                    found=key,
                    expected=f"the end of a module path such as {known[0]}, or an expression for it",
                    do="correct the key, or add the module to target_modules",
                )


def _matches(key: str, path: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({key})$", path) is not None
    except re.error as error:
        raise ConfigError(
            "a module pattern is no regular expression",
            where="train.rank_pattern, train.alpha_pattern",
            found=f"{key}: {error}",
            do="correct it",
        ) from None


def _layer_list(base: Base, params: TrainConfig) -> tuple[str, int]:
    """The name of the base's list of layers, and how many it holds."""
    lists = {path: len(module) for path, module in base.model.named_modules() if type(module).__name__ == "ModuleList"}
    found = {path.rsplit(".", 1)[-1]: size for path, size in lists.items()}
    if params.layers_pattern is not None:
        found = {name: size for name, size in found.items() if name == params.layers_pattern}
    else:
        n_layers = getattr(base.model.config.get_text_config(), "num_hidden_layers", None)
        found = {name: size for name, size in found.items() if size == n_layers}
    if len(found) != 1:
        raise ConfigError(
            "it cannot be told which modules are the layers of the base",
            where="train.layers, train.layers_pattern",
            found=", ".join(f"{path} ({size})" for path, size in lists.items()) or "no list of modules",
            expected="one list of as many modules as the model's config states layers",
            do="name the list in train.layers_pattern, as in 'layers' or 'h'",
        )
    return next(iter(found.items()))
