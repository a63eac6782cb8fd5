"""What holds for each module of a merge: adapter weights, parameters and scale, after all overrides.

In: settings for every module, and overrides for the modules that a pattern means. Out: one `ModuleSettings` per module;
later overrides win, key by key. No tensors, no files. Refused: patterns that match nothing, weights that are not one
finite number per adapter, parameters that the method does not have, learned weights that lack a module.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, Params, default_weight, parse_params, parse_values
from tclora.merging.module_patterns import match_modules
from tclora.merging.weights import resolve_weights

__all__ = ["ModuleSettings", "Override", "resolve_settings"]

AdapterWeights = Sequence[float] | Mapping[str, Sequence[float]] | None


@dataclass(frozen=True)
class Override:
    """Settings for the modules that `modules` means: a pattern (`match_modules`), or a tuple of whole paths.

    None, and a parameter that is not named, leave what held before.
    """

    modules: str | tuple[str, ...]
    adapter_weights: tuple[float, ...] | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    scale: float | None = None


@dataclass(frozen=True)
class ModuleSettings:
    """What holds for one module. Modules under the same overrides share one `params` object."""

    adapter_weights: tuple[float, ...]
    params: Params
    scale: float

    def in_order(self, order: Sequence[int]) -> "ModuleSettings":
        """These settings for the adapters in another order: position `k` takes what `order[k]` had.

        Parameters that hold one value per adapter move along, by the `in_order` of their class.
        """
        move = getattr(self.params, "in_order", None)
        params = self.params if move is None else move(tuple(order))
        return ModuleSettings(tuple(self.adapter_weights[i] for i in order), params, self.scale)


def resolve_settings(  # noqa: PLR0913 - the settings of a merge, each by name
    modules: Sequence[str],
    method: str,
    n: int,
    *,
    params: Params | Mapping[str, object] | None = None,
    adapter_weights: AdapterWeights = None,
    scale: float = 1.0,
    overrides: Sequence[Override] = (),
) -> dict[str, ModuleSettings]:
    """The settings of each of `modules`, for `n` adapters in the caller's order.

    Args:
        params: for every module: the method's parameters, or plain values; None takes its defaults.
        adapter_weights: for every module, or per module (learned weights), each as given; None takes the method's own.

    Raises:
        ConfigError: a pattern matches nothing, or a weight, a parameter or a scale is wrong; says for which modules.
    """
    weights = _weights_by_module(modules, method, n, adapter_weights)
    touched: dict[str, list[int]] = {path: [] for path in modules}
    for index, override in enumerate(overrides):
        for path in _paths(override, modules):
            touched[path].append(index)
    layers = {chosen: _Layers(overrides, chosen) for chosen in {tuple(indices) for indices in touched.values()}}
    settled = {chosen: layer.params(method, n, params) for chosen, layer in layers.items()}
    scales = {chosen: layer.scale(scale) for chosen, layer in layers.items()}
    return {
        path: ModuleSettings(layers[key].weights(n) or weights[path], settled[key], scales[key])
        for path, key in ((path, tuple(indices)) for path, indices in touched.items())
    }


@dataclass(frozen=True)
class _Layers:
    """The overrides that hold for some modules, by index, in their order."""

    overrides: Sequence[Override]
    chosen: tuple[int, ...]

    def params(self, method: str, n: int, params: Params | Mapping[str, object] | None) -> Params:
        values = {key: value for i in self.chosen for key, value in self.overrides[i].params.items()}
        try:
            settled = _with_values(method, params, values)
            _check_tuples(settled, n)
        except ConfigError as error:
            raise _named(error, self._where) from None
        return settled

    def scale(self, scale: float) -> float:
        for i in self.chosen:
            scale = scale if self.overrides[i].scale is None else cast(float, self.overrides[i].scale)
        if not math.isfinite(scale):
            raise ConfigError("the scale is not a finite number", where=self._where, found=scale)
        return float(scale)

    def weights(self, n: int) -> tuple[float, ...] | None:
        given = [self.overrides[i] for i in self.chosen if self.overrides[i].adapter_weights is not None]
        if not given:
            return None
        return _checked_weights(n, cast(tuple, given[-1].adapter_weights), _label(given[-1]))

    @property
    def _where(self) -> str | None:
        return "; ".join(_label(self.overrides[i]) for i in self.chosen) or None


def _weights_by_module(
    modules: Sequence[str], method: str, n: int, given: AdapterWeights
) -> Mapping[str, tuple[float, ...]]:
    if isinstance(given, Mapping):
        missing, unknown = sorted(set(modules) - set(given)), sorted(set(given) - set(modules))
        if missing or unknown:
            raise ConfigError(
                "the weights per module do not match the modules of the adapters",
                where=(missing or unknown)[0],
                found=f"{len(missing)} modules without weights, {len(unknown)} weights for modules that are not there",
                expected="weights for every module and no others",
                do="learn or write the weights for these adapters",
            )
        return {path: _checked_weights(n, given[path], path) for path in modules}
    uniform = (default_weight(method, n),) * n if given is None else _checked_weights(n, given, None)
    return dict.fromkeys(modules, uniform)


def _checked_weights(n: int, weights: Sequence[float], where: str | None) -> tuple[float, ...]:
    try:
        return resolve_weights(n, weights)
    except ConfigError as error:
        raise _named(error, where) from None


def _paths(override: Override, modules: Sequence[str]) -> Sequence[str]:
    if isinstance(override.modules, str):
        return match_modules(override.modules, modules)
    known = set(modules)
    for path in override.modules:
        if path not in known:
            raise ConfigError("an override names a module that no adapter has", where=path)
    return override.modules


def _with_values(method: str, params: Params | Mapping[str, object] | None, values: Mapping[str, object]) -> Params:
    if params is None or isinstance(params, Mapping):
        return parse_params(method, {**(params or {}), **values})
    expected = cast(type, MERGE_METHODS.entry(method).facts["params"])
    if not isinstance(params, expected):
        raise ConfigError(
            f"the parameters are not those of {method}",
            found=type(params).__name__,
            expected=f"{expected.__name__}, or plain values",
        )
    return dataclasses.replace(cast(Any, params), **parse_values(method, values)) if values else params


def _check_tuples(params: Params, n: int) -> None:
    """Refuse a parameter that is given per adapter, but not once for each."""
    if not hasattr(params, "in_order"):
        return
    for item in dataclasses.fields(cast(Any, params)):
        value = getattr(params, item.name)
        if isinstance(value, tuple) and len(value) != n:
            raise ConfigError(
                f"'{item.name}' is given per adapter, and not once for each",
                found=f"{len(value)} values for {n} adapters",
                expected="one value for all adapters, or one per adapter in their order",
            )


def _label(override: Override) -> str:
    where = override.modules if isinstance(override.modules, str) else ", ".join(override.modules[:3])
    return f"override of {where}"


def _named(error: ConfigError, where: str | None) -> ConfigError:
    """The same error, which says where it holds unless it already does."""
    place = error.where if where is None else where if error.where is None else f"{where}: {error.where}"
    return ConfigError(error.what, where=place, expected=error.expected, found=error.found, do=error.do)
