"""What a setting of a merge's file is at each module: filters and gradients, settled for the modules that are there.

In: a setting (`tclora.config.merge_schema`) and module paths. Out: a value per module. A gradient's place in a model is
`layer / (layers - 1)`, with layers counted up to the last that an adapter touches, 0 for embeddings and 1 for other
modules outside the layers, as in mergekit. Refused: a filter that matches nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tclora.config import Filtered
from tclora.errors import ConfigError
from tclora.merging import match_modules

__all__ = ["SettingValues", "split_values"]


class SettingValues:
    """The modules of a merge, each with its place between the first layer and the last."""

    def __init__(self, modules: Sequence[str], *, embeddings: Collection[str] = ()):
        self.modules = tuple(modules)
        layers = {path: _layer(path) for path in modules}
        last: dict[str, int] = {}
        for tower, layer in filter(None, layers.values()):
            last[tower] = max(layer, last.get(tower, 0))
        self._shares = {path: _share(at, last, path in embeddings) for path, at in layers.items()}

    def at_modules(self, setting: Any, *, where: str) -> dict[str, Any]:
        """What `setting` is at each module; a module that no filter matches is left out.

        Raises:
            ConfigError: a filter matches nothing; says `where`.
        """
        if not (isinstance(setting, tuple) and isinstance(setting[0], Filtered)):
            return {path: self._value(setting, path) for path in self.modules}
        found: dict[str, Any] = {}
        for item in setting:
            for path in self.matching(item.filter, where=where):
                found.setdefault(path, self._value(item.value, path))
        return found

    def matching(self, pattern: str | None, *, where: str) -> Sequence[str]:
        """The modules that a filter means: all of them without one."""
        if pattern is None or pattern == "*":
            return self.modules
        try:
            return match_modules(pattern, self.modules)
        except ConfigError as error:
            raise ConfigError(
                error.what, where=where, found=error.found, expected=error.expected, do=error.do
            ) from None

    def _value(self, value: Any, path: str) -> Any:
        return _interpolated(value, self._shares[path]) if isinstance(value, tuple) else value


def split_values(
    values: Mapping[str, Mapping[str, Any]], paths: Sequence[str]
) -> tuple[dict[str, Any], list[tuple[tuple[str, ...], dict[str, Any]]]]:
    """What is the same at all `paths`, by name; and groups of paths with what differs between them."""
    rows = {path: {name: held[path] for name, held in values.items() if path in held} for path in paths}
    first = next(iter(rows.values()), {})
    same = {name for name in first if all(name in row and row[name] == first[name] for row in rows.values())}
    groups: dict[tuple, list[str]] = {}
    for path, row in rows.items():
        rest = tuple((name, value) for name, value in row.items() if name not in same)
        if rest:
            groups.setdefault(rest, []).append(path)
    return {name: first[name] for name in first if name in same}, [(tuple(at), dict(row)) for row, at in groups.items()]


def _layer(path: str) -> tuple[str, int] | None:
    """The tower a module belongs to, which is its path up to the first number, and that number."""
    parts = path.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return None if at is None else (".".join(parts[:at]), int(parts[at]))


def _share(at: tuple[str, int] | None, last: Mapping[str, int], is_embedding: bool) -> float:
    if at is None:
        return 0.0 if is_embedding else 1.0
    tower, layer = at
    return layer / last[tower] if last[tower] else 1.0


def _interpolated(gradient: Sequence[float], share: float) -> float:
    at = share * (len(gradient) - 1)
    low = int(at)
    high = min(low + 1, len(gradient) - 1)
    return (1 - (at - low)) * gradient[low] + (at - low) * gradient[high]
