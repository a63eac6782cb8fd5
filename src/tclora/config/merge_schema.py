"""One merge as its YAML file states it, as frozen pydantic models. The keys are those that users of mergekit know.

A setting under `parameters` is one value; a gradient, which is a list of numbers spread evenly over the layers and
interpolated between; or a list of `{filter, value}`, of which the first whose filter matches a module holds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = ["AdapterEntry", "Filtered", "MergeFile", "OverrideEntry", "Scalar", "Setting"]

Scalar = bool | int | float | str | None

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_PLAIN_DTYPES = tuple(_DTYPES.values())


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Filtered:
    """A value for the modules that `filter`, a pattern, means; without a filter or with `*`, for all others."""

    value: Any
    filter: str | None = None


def _setting(value: Any) -> Any:
    """A scalar, a tuple of numbers (a gradient) or a tuple of `Filtered`."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        return _scalar(value)
    if value and all(isinstance(item, Mapping | Filtered) for item in value):
        return tuple(_filtered(item) for item in value)
    if value and all(_is_number(item) for item in value):
        return tuple(float(item) for item in value)
    raise ValueError("a list here is a gradient of numbers over the layers, or a list of {filter, value}")


def _filtered(item: Any) -> Filtered:
    if isinstance(item, Filtered):
        return item
    if "value" not in item or set(item) - {"filter", "value"} or not isinstance(item.get("filter"), str | None):
        raise ValueError("an item here is {filter, value}; found the keys " + ", ".join(map(str, item)))
    value = _setting(item["value"])
    if isinstance(value, tuple) and isinstance(value[0], Filtered):
        raise ValueError("a filter inside a filter is not read")
    return Filtered(value, item.get("filter"))


def _scalar(value: Any) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("Input should be a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError("a setting is a value, a list of numbers, or a list of {filter, value}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a weight is a number, and yes, no, true and false are none")
    return value


def _parameters(value: Any) -> Any:
    """Names in one spelling: `lambda`, which Python keeps for itself, is `scale`; dashes are underscores."""
    if not isinstance(value, Mapping):
        return value
    named: dict[str, Any] = {}
    for name, setting in value.items():
        key = {"lambda": "scale"}.get(str(name), str(name).replace("-", "_"))
        if key in named:
            raise ValueError(f"'{key}' is given twice, under two spellings")
        named[key] = setting
    return named


def _dtype(value: Any) -> Any:
    plain = _DTYPES.get(value, value) if isinstance(value, str) else value
    if plain not in _PLAIN_DTYPES:
        raise ValueError("there is no such output dtype; it is one of " + ", ".join(_PLAIN_DTYPES))
    return plain


Setting = Annotated[Any, BeforeValidator(_setting)]
Parameters = Annotated[dict[str, Setting], BeforeValidator(_parameters)]
# Whether they are finite is said, with their position, where they meet their adapters.
Weights = tuple[Annotated[float, Field(allow_inf_nan=True), BeforeValidator(_no_truth)], ...]


class AdapterEntry(_Keys):
    """One adapter: a PEFT folder or a Hub id, and what holds for it alone."""

    adapter: str = Field(min_length=1, validation_alias=AliasChoices("adapter", "model"))
    parameters: Parameters = Field(default_factory=dict)
    """`weight`, and parameters of the method that may differ between adapters."""
    revision: str | None = None
    """Of a Hub id."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the weights. An adapter that holds others is refused."""
    config_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of `adapter_config.json`, in which the scale of the weights is. An adapter with another is refused."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"adapter": value} if isinstance(value, str) else value


class OverrideEntry(_Keys):
    """What holds for the modules that `modules`, a pattern, means. Later entries win, key by key."""

    modules: str = Field(min_length=1)
    weights: Weights | None = None
    parameters: Parameters = Field(default_factory=dict)
    """Parameters of the method, and `scale`."""


class MergeFile(_Keys):
    """One merge: adapters, method, parameters, weights, and what differs between modules."""

    adapters: tuple[AdapterEntry, ...] = Field(min_length=1, validation_alias=AliasChoices("adapters", "models"))
    merge_method: str = "tc_lora"
    parameters: Parameters = Field(default_factory=dict)
    """Of the method; and `scale` (or `lambda`), which multiplies the merged delta, `weight` for every adapter alike,
    and `normalize`, which divides the weights by their sum where the method has no parameter of that name."""
    weights: Weights | None = None
    """One per adapter, in place of `weight` under each adapter."""
    overrides: tuple[OverrideEntry, ...] = ()
    dtype: Annotated[str, BeforeValidator(_dtype)] = "bf16"
    """`bfloat16`, `float16`, `float32`, or `bf16`, `fp16`, `fp32`."""
    seed: Annotated[int, Field(ge=0)] | None = None
    base_model: str | None = None
    """A folder or an id. Adapters are checked against it; it is never merged, and only methods that learn load it."""
    examples: tuple[str, ...] = ()
    """Data files for methods that learn."""
    learned: str | None = None
    """What such a method learned before, in place of `base_model` and `examples`."""

    @model_validator(mode="after")
    def _weights_are_given_once(self) -> "MergeFile":
        elsewhere = "weight" in self.parameters or any("weight" in entry.parameters for entry in self.adapters)
        if self.weights is not None and elsewhere:
            raise ValueError("give either `weights` or `parameters: weight`, not both")
        return self
