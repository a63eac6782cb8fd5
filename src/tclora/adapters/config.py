"""`adapter_config.json`: what of it matters to a delta, checked field by field.

In: the parsed JSON object. Out: `LoraConfig`, with PEFT's defaults where old files lack a field. Refused: a rank or
alpha that is missing or is not a number, and patterns that are not tables of numbers. What a delta cannot represent
is in `tclora.adapters.unsupported`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tclora.adapters.files import parse_json, read_bounded
from tclora.errors import AdapterError

__all__ = ["CONFIG_FILE", "LoraConfig", "parse_config", "read_config"]

CONFIG_FILE = "adapter_config.json"
MAX_CONFIG_BYTES = 4_000_000
MAX_ALPHA = 3.0e38

T = TypeVar("T")


@dataclass(frozen=True)
class LoraConfig:
    """The fields of a LoRA config that say how its tensors become deltas, and where they belong."""

    r: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: tuple[str, ...] | str | None
    excludes: bool
    layers_to_transform: tuple[int, ...] | None
    ensure_weight_tying: bool
    base_model: str | None
    base_revision: str | None
    task_type: str | None


def read_config(folder: Path) -> dict[str, Any]:
    """The JSON object in the folder's `adapter_config.json`.

    Raises:
        AdapterError: no such file, too large, or not strict JSON.
    """
    return parse_json(read_bounded(folder / CONFIG_FILE, MAX_CONFIG_BYTES), what=CONFIG_FILE, where=folder)


def parse_config(raw: Mapping[str, Any], *, where: object) -> LoraConfig:
    """Check the fields that matter.

    Raises:
        AdapterError: names the folder, the field, what it holds and what it should.
    """

    def field(name: str, check: Callable[[Any], T | None], expected: str, default: Any = None) -> T:
        value = raw.get(name)
        if value is None and default is None:
            raise _wrong(name, "nothing" if name not in raw else "null", expected, where)
        checked = check(default if value is None else value)
        if checked is None:
            raise _wrong(name, repr(value)[:200], expected, where)
        return checked

    def optional(name: str, check: Callable[[Any], T | None], expected: str) -> T | None:
        return None if raw.get(name) is None else field(name, check, expected)

    return LoraConfig(
        r=field("r", _positive, "a whole number of 1 or more"),
        alpha=field("lora_alpha", _finite, "a finite number"),
        use_rslora=field("use_rslora", _boolean, "true or false", False),
        rank_pattern=field("rank_pattern", _table(_positive), "a table of module patterns to ranks of 1 or more", {}),
        alpha_pattern=field("alpha_pattern", _table(_finite), "a table of module patterns to finite numbers", {}),
        target_modules=optional("target_modules", _targets, "a list of names or one pattern"),
        excludes=bool(raw.get("exclude_modules")),
        layers_to_transform=optional("layers_to_transform", _layers, "a layer number or a list of them"),
        ensure_weight_tying=field("ensure_weight_tying", _boolean, "true or false", False),
        base_model=optional("base_model_name_or_path", _text, "a name or path"),
        base_revision=optional("revision", _text, "a revision"),
        task_type=optional("task_type", _text, "a task type such as CAUSAL_LM"),
    )


def _wrong(name: str, found: str, expected: str, where: object) -> AdapterError:
    return AdapterError(
        f"{name} in {CONFIG_FILE} cannot be used",
        where=where,
        found=found,
        expected=expected,
        do="correct the config, or save the adapter again",
    )


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value >= 1 else None


def _finite(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    # A factor beyond float32 would turn even a zero lora_b into NaN.
    return number if abs(number) <= MAX_ALPHA else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    # Names are shown to people: control characters could drive their terminal.
    return value if isinstance(value, str) and value.isprintable() else None


def _table(check: Callable[[Any], T | None]) -> Callable[[Any], dict[str, T] | None]:
    def checked(value: Any) -> dict[str, T] | None:
        if not isinstance(value, dict):
            return None
        pairs = [(key, number) for key, item in value.items() if (number := check(item)) is not None]
        return dict(pairs) if len(pairs) == len(value) else None

    return checked


def _targets(value: Any) -> tuple[str, ...] | str | None:
    if isinstance(value, list) and all(_text(item) is not None for item in value):
        return tuple(value)
    return _text(value)


def _layers(value: Any) -> tuple[int, ...] | None:
    layers = value if isinstance(value, list) else [value]
    return tuple(layers) if all(type(layer) is int for layer in layers) else None
