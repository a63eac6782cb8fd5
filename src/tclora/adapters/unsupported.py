"""What an adapter config can say that a sum of low-rank updates cannot represent, each by its name.

In: the parsed `adapter_config.json`. Out: one `AdapterError` for each such setting, not raised, so that a reader
can raise the first and an inspection can list them all. A field that is not known here and is set is also refused:
a newer library may mean by it that the delta is not `lora_b @ lora_a`.
"""

from collections.abc import Mapping
from typing import Any

from tclora.adapters.config import CONFIG_FILE
from tclora.errors import AdapterError

__all__ = ["BASE_CHANGING_INITS", "config_refusals"]

_NEEDS_MORE_THAN_A_DELTA = {
    "use_dora": "DoRA rescales the base weights by a trained magnitude",
    "lora_bias": "a bias on lora_B is trained, and no delta of a weight holds it",
    "modules_to_save": "whole modules were trained and saved beside the LoRA",
    "trainable_token_indices": "rows of the embedding were trained and saved beside the LoRA",
    "target_parameters": "parameters packed over experts have a layout that changed between versions of PEFT",
    "use_qalora": "QA-LoRA pools the inputs before lora_A",
    "use_bdlora": "BD-LoRA holds block-diagonal factors",
    "kasa_config": "KaSA truncates the base weights and trains a diagonal between the factors",
    "velora_config": "VeLoRA compresses the inputs of lora_A while training",
    "monteclora_config": "MonteCLoRA samples its update",
    "arrow_config": "Arrow routes between adapters at run time",
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens",
    "layer_replication": "layers of the base are repeated, so module paths mean other layers",
    "megatron_config": "the factors are split over Megatron's parallel layers",
}
BASE_CHANGING_INITS = ("pissa", "olora", "corda", "lora_ga", "loftq")
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "true", "false")

# Fields that change training, naming or loading, but not what the saved tensors mean.
_HARMLESS = frozenset(
    {
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "task_type",
        "inference_mode",
        "r",
        "target_modules",
        "exclude_modules",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "use_rslora",
        "init_lora_weights",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "qalora_group_size",
        "runtime_config",
        "ensure_weight_tying",
        "merge_weights",
        "unsloth_fixed",
        "unsloth_version",
    }
)
_HARMLESS_VALUES = {"bias": "none", "megatron_core": "megatron.core"}


def config_refusals(raw: Mapping[str, Any], *, where: object) -> list[AdapterError]:
    """Every reason in a config why its adapter is not a sum of low-rank updates, in the order of its fields' names."""
    peft_type = raw.get("peft_type")
    if peft_type != "LORA":
        return [
            _refusal(
                "this is not a LoRA adapter", where, f"peft_type {peft_type!r}", "peft_type 'LORA'", "leave it out"
            )
        ]
    refusals = []
    for name in sorted(raw):
        reason = _reason(name, raw[name])
        if reason is not None:
            found = f"{name} = {_short(raw[name])} in {CONFIG_FILE}"
            refusals.append(_refusal(reason, where, found, "a plain LoRA", _advice(name)))
    return refusals


def _reason(name: str, value: Any) -> str | None:
    if name == "init_lora_weights":
        return _init_reason(value)
    # Compared by type too: 0 is an unset field, but so is an empty list.
    if value is None or value is False or value in ([], {}, "") or name in _HARMLESS:
        return None
    if name in _NEEDS_MORE_THAN_A_DELTA:
        return f"{name} cannot be represented: {_NEEDS_MORE_THAN_A_DELTA[name]}"
    if name in _HARMLESS_VALUES:
        if value == _HARMLESS_VALUES[name]:
            return None
        what = "biases of the base were trained" if name == "bias" else "it names other code to load"
        return f"{name} cannot be represented: {what}"
    return f"the setting {name} is not known, and may change what the tensors mean"


def _init_reason(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    name = str(value).lower()
    if name.startswith(BASE_CHANGING_INITS):
        return f"the initialization {name[:50]} changed the base weights, so the delta is not against the plain base"
    if name in _PLAIN_INITS:
        return None
    return f"the initialization {name[:50]} is not known, and may change the base weights"


def _advice(name: str) -> str:
    if name == "init_lora_weights":
        return "save it again with save_pretrained(..., path_initial_model_for_weight_conversion=...)"
    if name in _NEEDS_MORE_THAN_A_DELTA or name == "bias":
        return "leave this adapter out, or train it again as a plain LoRA"
    return "if the setting does not change the delta, remove it from a copy of the config"


def _refusal(what: str, where: object, found: str, expected: str, do: str) -> AdapterError:
    return AdapterError(what, where=where, found=found, expected=expected, do=do)


def _short(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{len(value)} entries"
    return repr(value)[:100]
