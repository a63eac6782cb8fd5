"""Which LoRA variants can be trained, and why the others cannot be a member of a library.

In: what the user wrote under `train`. Out: the same without settings that say nothing. Refused, each with its reason:
what a delta `lora_b @ lora_a` against the user's own base cannot hold, and starts that tclora cannot make.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["check_initialization", "drop_plain_settings", "with_multi_task"]

_STARTS = ("gaussian", "orthogonal", "pissa", "pissa_niter_N", "olora", "eva", "mica")
_NITER = re.compile(r"pissa_niter_[1-9][0-9]{0,2}")

_NO_STARTS = {
    "loftq": "it trains against a quantized copy of the base; the rest to the user's own base is not of low rank",
    "corda": "it needs covariances of every module's inputs, which tclora does not collect",
    "lora_ga": "it needs gradients of every base weight, which tclora does not collect",
}
_NO_SETTINGS = {
    "use_dora": "DoRA rescales the base weights by a trained magnitude, and no delta of low rank holds it",
    "lora_bias": "a bias on lora_B is no part of a delta of a weight",
    "bias": "trained biases of the base are no part of a delta of a weight",
    "modules_to_save": "whole trained modules are no part of a delta of low rank",
    "trainable_token_indices": "trained rows of the embedding are no part of a delta of low rank",
    "target_parameters": "parameters packed over experts have a layout that changed between versions of PEFT",
    "layer_replication": "repeated layers give the module paths another meaning",
    "use_qalora": "QA-LoRA pools the inputs, so its factors are no delta of the weight",
    "loftq_config": _NO_STARTS["loftq"],
}
_SAYS_NOTHING = (None, False, "none", [], {})


def check_initialization(value: Any) -> Any:
    """The initialization as given, `True` for PEFT's own.

    Raises:
        ValueError: it is none, or one that cannot end as a plain LoRA; says why.
    """
    name = value.lower() if isinstance(value, str) else value
    if name is True or name in ("true", "kaiming", "default"):
        return True
    if isinstance(name, str) and (name in _STARTS[:3] + _STARTS[4:] or _NITER.fullmatch(name)):
        return name
    if name is False or name == "false":
        raise ValueError("both factors would start at random, so the training would begin with a random update")
    reason = next((reason for start, reason in _NO_STARTS.items() if str(name).startswith(start)), None)
    if reason is not None:
        raise ValueError(f"{name} cannot be trained here: {reason}")
    raise ValueError(f"no such initialization; there are true, {', '.join(_STARTS)}")


def drop_plain_settings(data: Any) -> Any:
    """The settings without fields of PEFT's config that stand at 'off', as configs are often written.

    Raises:
        ValueError: such a field is on; says why the merger could not hold what it trains.
    """
    if not isinstance(data, Mapping):
        return data
    for name, reason in _NO_SETTINGS.items():
        if name in data and data[name] not in _SAYS_NOTHING:
            raise ValueError(f"{name} cannot be merged: {reason}; leave it out")
    return {name: value for name, value in data.items() if name not in _NO_SETTINGS}


def with_multi_task(data: Any) -> Any:
    """The settings with `multi_task` in one place: `controls: [multi_task, ...]` means `multi_task: true`.

    Raises:
        ValueError: one key asks for the control and the other refuses it.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("controls"), list | tuple):
        return data
    if "multi_task" not in data["controls"]:
        return data
    if data.get("multi_task") is False:
        raise ValueError("multi_task is false and stands among the controls: drop one of the two")
    others = [name for name in data["controls"] if name != "multi_task"]
    return {**data, "multi_task": True, "controls": others}
