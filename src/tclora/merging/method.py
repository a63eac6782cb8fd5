"""What a merge method is: a function with a frozen parameter class, in a registry.

A method takes a `ModuleStack` (modules of one shape, adapters side by side), its parameters and one weight per module
and adapter, and returns one low-rank update per module. It never sees files, names of adapters or the base model.
"""

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from tclora.algebra import LowRankDelta, ModuleStack
from tclora.errors import ConfigError
from tclora.registry import Registry
from tclora.shapes import Float

__all__ = [
    "MERGE_METHODS",
    "MergeFunction",
    "MergedStack",
    "Params",
    "default_params",
    "default_weight",
    "parse_params",
    "parse_values",
    "recorded_params",
]


@runtime_checkable
class Params(Protocol):
    """The parameters of a method: a frozen dataclass that also says how to hold one adapter exactly."""

    def holding(self, rank: int) -> "Params | None":
        """These parameters, changed where needed so that one adapter of `rank` at weight 1 must come back.

        That is: a rank of at least `rank`, nothing pruned, nothing dropped. None where no setting of the method gives
        one adapter back (isotropic merging, for one); the merge then proves its own plumbing with `mean`.
        """
        ...


@dataclass(frozen=True)
class MergedStack:
    """What a method returns for one stack.

    `relative_error` is that of the method's own model: of the stack for a joint model, of the weighted sum for a
    truncation, 0 for an exact method. `size` is the Frobenius norm of what was modelled, so that errors of modules
    can be put together. `diagnostics` are plain numbers per module, for the record.
    """

    delta: LowRankDelta
    relative_error: Float[Tensor, " m"]
    size: Float[Tensor, " m"]
    diagnostics: tuple[dict[str, object], ...]


@runtime_checkable
class MergeFunction(Protocol):
    """A merge method."""

    def __call__(self, stack: ModuleStack, params: Any, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
        """Merge the adapters of every module of the stack. Inputs are not changed."""
        ...


MERGE_METHODS: Registry[MergeFunction] = Registry("merge method")
"""Every merge method. Facts: `params` (its class), `needs`, `leaves`, `cost`, and where they differ from the usual:

`default_weight`: the weight of each adapter when none is given, `"mean"` (1 / n, the usual) or `"one"` (1 each: methods
whose published form adds or normalizes by itself). `prepare`: a function of all stacks and the parameters, for what a
method must know of all modules first. `breaks`: which of the invariances of the contract the method lacks, as a tuple
of `gauge` (how an adapter is factored), `scale` (ten times the adapters, ten times the result), `equal` (equal adapters
at 1 / n merge to one of them), `alone` (one adapter at weight 1, at default parameters, comes back). `learns`: the
function that learns weights or statistics from examples first (`tclora.merging.learning`); with it `labelled`, whether
the examples need responses, `statistics`, true where the method cannot run without what was learned, and
`takes_weights`, true where adapter weights count beside it.
`most_adapters`: how many adapters it takes, where that is limited. `equal_ranks`: true where those that have a module
must have it at one rank.
"""


def default_params(method: str) -> Params:
    """The parameters of a method, all at their defaults."""
    return parse_params(method, {})


def default_weight(method: str, n: int) -> float:
    """The weight of each of `n` adapters where the user gives none."""
    return 1.0 if MERGE_METHODS.entry(method).facts.get("default_weight") == "one" else 1.0 / n


def parse_params(method: str, values: Mapping[str, object]) -> Params:
    """Build a method's parameters from plain values, text included.

    Raises:
        ConfigError: a name is unknown (the nearest is suggested), a value has the wrong type or range.
    """
    kind = typing.cast(type, MERGE_METHODS.entry(method).facts["params"])
    return kind(**parse_values(method, values))


def recorded_params(params: Params) -> dict[str, object]:
    """The parameters as plain values, for records; fields marked as not recorded (learned tensors) are left out."""
    fields = dataclasses.fields(typing.cast(Any, params))
    return {item.name: getattr(params, item.name) for item in fields if item.metadata.get("recorded", True)}


def parse_values(method: str, values: Mapping[str, object]) -> dict[str, object]:
    """Some of a method's parameters from plain values, each of its type; their ranges are the class's to check.

    Raises:
        ConfigError: a name is unknown (the nearest is suggested), or a value has the wrong type.
    """
    kind = typing.cast(type, MERGE_METHODS.entry(method).facts["params"])
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            raise ConfigError(
                f"the method '{method}' has no parameter '{name}'",
                expected=", ".join(known) or "no parameters",
                do=f"did you mean '{near[0]}'?" if near else "see `tclora methods`",
            )
    return {name: _value(method, name, hints[name], value) for name, value in values.items()}


def _value(method: str, name: str, hint: Any, value: object) -> object:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and (value is None or value == "none"):
        return None
    per_adapter = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    single = [kind for kind in kinds if kind is not type(None) and kind not in per_adapter]
    parts = _parts(value) if per_adapter else None
    if per_adapter and (parts is not None or not single):
        # `tuple[float, ...]`: one value per adapter.
        item = typing.get_args(per_adapter[0])[0]
        return tuple(_value(method, name, item, part) for part in ([value] if parts is None else parts))
    if typing.get_origin(single[0]) is typing.Literal:
        return _choice(method, name, typing.get_args(single[0]), value)
    for hint in single:
        with contextlib.suppress(TypeError, ValueError):
            return _number(hint, value)
    raise ConfigError(
        f"the parameter '{name}' of '{method}' is of the wrong type",
        found=repr(value),
        expected=" or ".join(getattr(hint, "__name__", str(hint)) for hint in single),
    )


def _parts(value: object) -> list[object] | None:
    """The values of a list, or of text with commas; None where it is one value."""
    if isinstance(value, str) and "," in value:
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else None


def _choice(method: str, name: str, choices: tuple[str, ...], value: object) -> str:
    text = str(value).replace("-", "_")
    if text not in choices:
        raise ConfigError(
            f"the parameter '{name}' of '{method}' has no such value",
            found=value,
            expected="one of " + ", ".join(choices),
        )
    return text


def _number(hint: Any, value: Any) -> object:
    if hint is bool:
        if isinstance(value, bool):
            return value
        return {"true": True, "false": False}.get(str(value).lower()) or _fail_unless_false(value)
    if isinstance(value, bool):
        raise TypeError
    if hint is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return hint(value)


def _fail_unless_false(value: object) -> bool:
    if str(value).lower() != "false":
        raise ValueError
    return False
