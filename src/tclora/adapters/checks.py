"""What is in an adapter, and whether adapters belong together.

In: a source, or adapters. Out: an `AdapterSummary` that lists every reason to refuse instead of raising the first;
warnings in words for bases that differ. Refused: adapters whose shared modules have different shapes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tclora.adapters.config import CONFIG_FILE
from tclora.adapters.keys import KeyTable
from tclora.adapters.locate import WEIGHTS_FILE, Located, locate
from tclora.adapters.lora import Adapter, ModuleShape
from tclora.adapters.peft_format import Scan, adapter_name, scan_adapter
from tclora.adapters.scaling import scale_rule
from tclora.adapters.stored_modules import StoredModules
from tclora.adapters.targets import layer_of, leaf_of, target_notes
from tclora.errors import AdapterError, AdapterMismatchError

__all__ = ["AdapterSummary", "check_mergeable", "check_same_base", "inspect_adapter"]

# Listing more bad tensors than this helps nobody.
_MAX_BAD_MODULES = 20
# What models are wrapped in, now and in other versions; no two modules differ in these parts alone.
_WRAPPERS = {"base_model", "model", "language_model", "text_model", "transformer", "module"}


@dataclass(frozen=True)
class AdapterSummary:
    """What one adapter holds; `refusals` is empty exactly when it can be merged."""

    name: str
    folder: str
    base_model: str | None
    base_revision: str | None
    ranks: tuple[int, ...]
    scale_rule: str
    n_modules: int
    n_parameters: int
    dtypes: tuple[str, ...]
    targets: tuple[str, ...]
    layers: tuple[int, ...]
    notes: tuple[str, ...]
    refusals: tuple[str, ...]
    finite: bool
    bytes: int


def inspect_adapter(source: str | Path, *, revision: str | None = None) -> AdapterSummary:
    """Say what is in an adapter, listing every reason to refuse it instead of raising.

    Every tensor of a supported adapter is read once, to see that it is finite. `bytes` is the size of the two files.
    """
    try:
        located = locate(source, revision=revision)
    except AdapterError as error:
        nothing = Scan(None, {}, KeyTable({}), None, (error,))
        return _summary(Located(str(source), Path(source)), nothing, (), finite=False)
    scan = scan_adapter(located.folder)
    damaged = _damaged_modules(located, scan)
    return _summary(located, scan, damaged, finite=not damaged and not scan.refusals)


def check_same_base(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """Warnings, by adapter name, where adapters name different base models or revisions; empty if all agree."""
    warnings = []
    for what, field in (("base model", "base_model"), ("base revision", "base_revision")):
        named = [(adapter.name, getattr(adapter, field)) for adapter in adapters]
        given = [(name, value) for name, value in named if value is not None]
        for name, value in given[1:]:
            if value != given[0][1]:
                warnings.append(f"{given[0][0]} names the {what} {given[0][1]}, but {name} names {value}")
    return tuple(warnings)


def check_mergeable(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters whose deltas of one module cannot be added; a module that some of them lack is fine.

    Raises:
        AdapterMismatchError: a module has another d_in, d_out or kind in two adapters, or two paths that can only be
            one module; names both and the module.
    """
    first: dict[str, Adapter] = {}
    for adapter in adapters:
        for path, shape in adapter.shapes.items():
            other = first.setdefault(path, adapter)
            if _footprint(other.shapes[path]) != _footprint(shape):
                raise _mismatch(other, adapter, path)
    _refuse_other_names(adapters)


def _refuse_other_names(adapters: Sequence[Adapter]) -> None:
    """Refuse two adapters that seem to name one module differently, as versions of transformers do.

    `language_model.model.layers.0` became `model.language_model.layers.0`. Merged as two modules each would be taken
    at its own weight, and loaded in full. Where one adapter has both names they are two modules.
    """
    holders: dict[str, dict[str, Adapter]] = {}
    distinct: set[str] = set()
    for adapter in adapters:
        own: dict[str, str] = {}
        for path in adapter.shapes:
            key = _without_wrappers(path)
            if own.setdefault(key, path) != path:
                distinct.add(key)
            holders.setdefault(key, {}).setdefault(path, adapter)
    for key, by_path in holders.items():
        if len(by_path) > 1 and key not in distinct:
            (path, one), (other_path, other) = list(by_path.items())[:2]
            raise AdapterMismatchError(
                f"{one.name} and {other.name} name one module differently",
                where=key,
                found=f"{path} in {one.name}, {other_path} in {other.name}",
                expected="the module paths of one version of transformers and PEFT",
                do=f"load {other.name} on the base in the version that you use, save it again and merge that",
            )


def _without_wrappers(path: str) -> str:
    """The path without the names of what a model is wrapped in, up to its layer number."""
    parts = path.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
    return ".".join([*(part for part in parts[:number] if part not in _WRAPPERS), *parts[number:]])


def _footprint(shape: ModuleShape) -> tuple[int, int, str]:
    return shape.d_out, shape.d_in, shape.kind


def _mismatch(one: Adapter, other: Adapter, path: str) -> AdapterMismatchError:
    bases = [f"{adapter.name} names the base {adapter.base_model or 'nowhere'}" for adapter in (one, other)]
    return AdapterMismatchError(
        f"{one.name} and {other.name} cannot be merged at {path}",
        found="; ".join(_described(adapter, path) for adapter in (one, other)),
        expected=f"one shape and kind for a module; {', '.join(bases)}",
        do=f"merge adapters of one base model, or leave {other.name} out",
    )


def _described(adapter: Adapter, path: str) -> str:
    shape = adapter.shapes[path]
    where = adapter.source.folder if adapter.source else adapter.name
    kind = "" if shape.kind == "linear" else f" ({shape.kind})"
    return f"lora_a ({shape.r}, {shape.d_in}) and lora_b ({shape.d_out}, {shape.r}){kind} in {where}"


def _damaged_modules(located: Located, scan: Scan) -> tuple[AdapterError, ...]:
    if scan.refusals or scan.scales is None:
        return ()
    errors = []
    try:
        modules = StoredModules(located.folder / WEIGHTS_FILE, scan.table.modules, scan.scales)
    except AdapterError as error:
        return (error,)
    for path in modules:
        try:
            modules[path]
        except AdapterError as error:
            errors.append(error)
            if len(errors) == _MAX_BAD_MODULES:
                break
    return tuple(errors)


def _summary(located: Located, scan: Scan, damaged: tuple[AdapterError, ...], *, finite: bool) -> AdapterSummary:
    config, shapes = scan.config, [keys.shape for keys in scan.table.modules.values()]
    paths = list(scan.table.modules)
    leaves = Counter(leaf_of(path) for path in paths)
    return AdapterSummary(
        name=adapter_name(located),
        folder=str(located.folder),
        base_model=config.base_model if config else None,
        base_revision=config.base_revision if config else None,
        ranks=tuple(sorted({shape.r for shape in shapes})),
        scale_rule=scale_rule(config) if config else "unknown",
        n_modules=len(shapes),
        n_parameters=sum(shape.r * (shape.d_in + shape.d_out) for shape in shapes),
        dtypes=tuple(sorted({info.dtype for info in scan.header.values()})),
        targets=tuple(sorted(leaves)),
        layers=tuple(sorted({layer for path in paths if (layer := layer_of(path)) is not None})),
        notes=scan.table.notes + (tuple(target_notes(config, paths)) if config else ()),
        refusals=tuple(f"{type(error).__name__}: {error}" for error in (*scan.refusals, *damaged)),
        finite=finite,
        bytes=sum(_size(located.folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except (OSError, ValueError):
        return 0
