"""From a merge's file to what the merge is called with, for the modules of its adapters.

In: a `MergeFile` and module paths. Out: `SettledMerge`: parameters, weights, scale and overrides as `merge_adapters`
takes them, adapters in the file's order. What an adapter does not state for itself it takes from the settings for all;
a parameter that differs between adapters becomes a tuple, which the method may refuse. Everything a user can get wrong
is found here, before any work: unknown names, patterns that match nothing, a weight for some adapters only.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tclora.config import MergeFile, OverrideEntry
from tclora.errors import ConfigError
from tclora.merging import MERGE_METHODS, ModuleSettings, Override, default_weight, resolve_settings
from tclora.merging.method import Params
from tclora.pipeline.setting_values import SettingValues, split_values

__all__ = ["SettledMerge", "parameter_names", "settle", "states_weights"]

# These stand under `parameters` and are not the method's, unless it has one of the name.
_WEIGHT, _SCALE, _NORMALIZE = "weight", "scale", "normalize"

Weights = tuple[float, ...]


@dataclass(frozen=True)
class SettledMerge:
    """What to call the merge with, and what that comes to in each module."""

    method: str
    params: Mapping[str, object] | Params
    adapter_weights: Weights | Mapping[str, Weights]
    scale: float
    overrides: tuple[Override, ...]
    modules: Mapping[str, ModuleSettings]

    def with_learned(self, params: Params, adapter_weights: Weights | Mapping[str, Weights]) -> "SettledMerge":
        """The same merge by what was learned; overrides hold on top of it."""
        modules = resolve_settings(
            tuple(self.modules),
            self.method,
            len(next(iter(self.modules.values())).adapter_weights),
            params=params,
            adapter_weights=adapter_weights,
            scale=self.scale,
            overrides=self.overrides,
        )
        return SettledMerge(self.method, params, adapter_weights, self.scale, self.overrides, modules)


def states_weights(file: MergeFile) -> bool:
    """Whether the file says how much of each adapter enters the merge."""
    return file.weights is not None or any(_WEIGHT in held.parameters for held in (file, *file.adapters))


def parameter_names(method: str) -> tuple[str, ...]:
    """The names of a method's parameters."""
    return tuple(field.name for field in dataclasses.fields(cast(Any, MERGE_METHODS.entry(method).facts["params"])))


def settle(file: MergeFile, modules: Sequence[str], *, embeddings: Collection[str] = ()) -> SettledMerge:
    """Settle a merge's file for `modules`, of which `embeddings` are embedding layers.

    Raises:
        ConfigError: a setting is wrong, or a pattern matches nothing; names the key.
        UnknownNameError: there is no such method.
    """
    at = SettingValues(modules, embeddings=embeddings)
    method = MERGE_METHODS.entry(file.merge_method).name
    known = parameter_names(method)
    normalize = _NORMALIZE not in known and _flag(file.parameters.get(_NORMALIZE, False))
    params, scale, overrides = _for_all(file, at, known)
    weights = _weights(file, at, method, normalize)
    for index, entry in enumerate(file.overrides):
        overrides += _overrides(entry, at, f"overrides.{index}", normalize)
    resolved = resolve_settings(
        at.modules,
        method,
        len(file.adapters),
        params=params,
        adapter_weights=weights,
        scale=scale,
        overrides=overrides,
    )
    return SettledMerge(method, params, weights, scale, tuple(overrides), resolved)


def _for_all(
    file: MergeFile, at: SettingValues, known: Collection[str]
) -> tuple[dict[str, object], float, list[Override]]:
    """Parameters and scale that hold everywhere, and overrides for what differs between modules."""
    given = [file.parameters, *(entry.parameters for entry in file.adapters)]
    names = dict.fromkeys(name for parameters in given for name in parameters)
    ours = {_WEIGHT, _SCALE} | ({_NORMALIZE} - set(known))
    values: dict[str, Mapping[str, Any]] = {name: _per_module(file, at, name) for name in names if name not in ours}
    if _NORMALIZE in names and _NORMALIZE in ours:
        _common(file, at, _NORMALIZE)
    if _SCALE in names:
        values[_SCALE] = _common(file, at, _SCALE)
    if file.seed is not None and "seed" in names:
        raise ConfigError("the seed is given twice", where="seed and parameters.seed", do="leave one of them out")
    if file.seed is not None and "seed" in known:
        values["seed"] = dict.fromkeys(at.modules, file.seed)
    same, groups = split_values(values, at.modules)
    scale = _number(same.pop(_SCALE, 1.0), f"parameters.{_SCALE}")
    return same, scale, [_override(paths, row, "parameters") for paths, row in groups]


def _per_module(file: MergeFile, at: SettingValues, name: str) -> dict[str, Any]:
    """The value of a parameter at each module; a tuple where it differs between adapters."""
    if not any(name in entry.parameters for entry in file.adapters):
        return _common(file, at, name)
    rows = _per_adapter(file, at, name)
    return {path: row[0] if all(value == row[0] for value in row) else row for path, row in rows.items()}


def _common(file: MergeFile, at: SettingValues, name: str) -> dict[str, Any]:
    for entry in file.adapters:
        if name in entry.parameters:
            raise ConfigError(
                f"'{name}' holds for the merge, not for one adapter",
                where=entry.adapter,
                do=f"write it under `parameters` of the file, or use `{_WEIGHT}` for one adapter",
            )
    return at.at_modules(file.parameters[name], where=f"parameters.{name}") if name in file.parameters else {}


def _per_adapter(file: MergeFile, at: SettingValues, name: str) -> dict[str, tuple]:
    """The values of a parameter for all adapters at each module; modules where nobody states one are left out."""
    common: dict[str, Any] = {}
    if name in file.parameters:
        common = at.at_modules(file.parameters[name], where=f"parameters.{name}")
    columns = [
        common | at.at_modules(entry.parameters[name], where=f"adapters.{index}.parameters.{name}")
        if name in entry.parameters
        else common
        for index, entry in enumerate(file.adapters)
    ]
    stated = [path for path in at.modules if any(path in column for column in columns)]
    for entry, column in zip(file.adapters, columns, strict=True):
        missing = next((path for path in stated if path not in column), None)
        if missing is not None:
            raise ConfigError(
                f"'{name}' is given for some adapters and not for others",
                where=f"{entry.adapter}, module {missing}",
                found=f"no {name}",
                expected=f"a {name} for every adapter, or one for all under `parameters`",
            )
    return {path: tuple(column[path] for column in columns) for path in stated}


def _weights(file: MergeFile, at: SettingValues, method: str, normalize: bool) -> Weights | dict[str, Weights]:
    if file.weights is not None:
        return _normal(file.weights, normalize, "weights")
    default = (default_weight(method, len(file.adapters)),) * len(file.adapters)
    places = [f"{entry.adapter}: {_WEIGHT}" for entry in file.adapters]
    rows = dict.fromkeys(at.modules, _normal(default, normalize, _WEIGHT))
    for path, row in _per_adapter(file, at, _WEIGHT).items():
        numbers = tuple(_number(value, place) for value, place in zip(row, places, strict=True))
        rows[path] = _normal(numbers, normalize, f"{_WEIGHT}, module {path}")
    return next(iter(rows.values())) if len(set(rows.values())) == 1 else rows


def _overrides(entry: OverrideEntry, at: SettingValues, where: str, normalize: bool) -> list[Override]:
    paths = at.matching(entry.modules, where=f"{where}.modules")
    chosen = set(paths)
    values = {
        name: {
            path: value
            for path, value in at.at_modules(setting, where=f"{where}.parameters.{name}").items()
            if path in chosen
        }
        for name, setting in entry.parameters.items()
    }
    same, groups = split_values(values, paths)
    weights = None if entry.weights is None else _normal(entry.weights, normalize, f"{where}.weights")
    first = dataclasses.replace(_override(entry.modules, same, where), adapter_weights=weights)
    return [first, *(_override(at_paths, row, where) for at_paths, row in groups)]


def _override(modules: str | tuple[str, ...], values: Mapping[str, Any], where: str) -> Override:
    params = {name: value for name, value in values.items() if name != _SCALE}
    scale = _number(values[_SCALE], f"{where}.{_SCALE}") if _SCALE in values else None
    return Override(modules, params=params, scale=scale)


def _normal(weights: Weights, normalize: bool, where: str) -> Weights:
    """The weights as given, or divided by their sum."""
    if not normalize:
        return weights
    total = math.fsum(weights)
    if not abs(total) > 1e-9 * math.fsum(map(abs, weights)):
        raise ConfigError(
            "weights that sum to zero cannot be normalized", where=where, found=weights, do="leave `normalize` out"
        )
    return tuple(weight / total for weight in weights)


def _number(value: object, where: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(cast(Any, value))
    except (TypeError, ValueError):
        raise ConfigError("a setting is not a number", where=where, found=repr(value), expected="a number") from None


def _flag(value: object) -> bool:
    words = {"true": True, "false": False}
    if isinstance(value, bool) or str(value).lower() in words:
        return value if isinstance(value, bool) else words[str(value).lower()]
    raise ConfigError("a setting is neither true nor false", where=f"parameters.{_NORMALIZE}", found=repr(value))
