"""A merge's YAML file: read strictly, told apart from a run's, and written back so that it gives the same merge.

In: a file, or its keys. Out: a `MergeFile`. Refused: keys of mergekit that mean nothing for adapters, each with its
reason; unknown keys, with the nearest known one; files that are neither a merge nor a run, or mix the two.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tclora.config.load import dump_yaml, read_yaml, validate
from tclora.config.merge_schema import AdapterEntry, Filtered, MergeFile, OverrideEntry
from tclora.config.schema import RunConfig
from tclora.errors import ConfigError

__all__ = ["config_kind", "dump_merge_file", "load_merge_file", "merge_file_of", "plain_merge_file", "read_merge_keys"]

_MERGE_KEYS = ("adapters", "models", "merge_method", "slices", "modules")
# Keys that a run cannot do without; `seed` and the like say nothing.
_RUN_KEYS = tuple(name for name, field in RunConfig.model_fields.items() if field.is_required())

_ONE_STACK = "the layers of a LoRA belong to its base and cannot be moved"
_NO_TOKENIZER = "an adapter has no tokenizer; the base's own is used"
_UNSUPPORTED = {
    "slices": _ONE_STACK,
    "modules": "merges of several sub-models are not read; adapters of them are merged by module path as they are",
    "tokenizer_source": _NO_TOKENIZER,
    "tokenizer": _NO_TOKENIZER,
    "chat_template": _NO_TOKENIZER,
    "out_dtype": "`dtype` is that of the output; all arithmetic is in float64",
    "residual_weight": "it belongs to slices, and " + _ONE_STACK,
}
_UNSUPPORTED_PARAMETERS = {
    "int8_mask": "masks are never held in memory here, so there is nothing to save",
}


def config_kind(data: Mapping[str, Any], *, where: str) -> Literal["merge", "run"]:
    """Whether the keys are those of one merge or of a whole run.

    Raises:
        ConfigError: they are neither, or both.
    """
    merge = [key for key in _MERGE_KEYS if key in data]
    run = [key for key in _RUN_KEYS if key in data]
    if bool(merge) == bool(run):
        raise ConfigError(
            "the file is neither a merge nor a run" if not merge else "the file mixes a merge and a run",
            where=where,
            found="keys " + (", ".join(map(str, data)) or "none"),
            expected=f"adapters and merge_method for one merge; {', '.join(_RUN_KEYS)} for a run",
            do="see the two kinds in docs/commands.md",
        )
    return "merge" if merge else "run"


def load_merge_file(path: Path, overrides: Sequence[str] = ()) -> MergeFile:
    """Read a merge's YAML file and apply `a.b=c` overrides.

    Raises:
        ConfigError: names the file, the key, and the nearest known key.
    """
    return merge_file_of(read_merge_keys(path, overrides), where=str(path))


def read_merge_keys(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys of a merge's or a run's file. What was learned may lie beside the file, as it does in an output."""
    data = read_yaml(path, overrides)
    learned = data.get("learned")
    if isinstance(learned, str) and not Path(learned).exists() and (path.parent / learned).exists():
        data["learned"] = str(path.parent / learned)
    return data


def merge_file_of(data: Mapping[str, Any], *, where: str) -> MergeFile:
    """The merge that plain keys describe.

    Raises:
        ConfigError: a key is unknown, not supported, or has a wrong value.
    """
    for key, reason in _UNSUPPORTED.items():
        if key in data:
            raise _unsupported(key, reason, where)
    file = validate(MergeFile, data, where=where)
    named = [("parameters", file.parameters)]
    named += [(f"adapters.{i}.parameters", entry.parameters) for i, entry in enumerate(file.adapters)]
    for key, parameters in named:
        for name, reason in _UNSUPPORTED_PARAMETERS.items():
            if name in parameters:
                raise _unsupported(f"{key}.{name}", reason, where)
    return file


def dump_merge_file(file: MergeFile) -> str:
    """The merge as YAML, which `load_merge_file` reads back as the same merge."""
    return dump_yaml(plain_merge_file(file))


def plain_merge_file(file: MergeFile) -> dict[str, Any]:
    """The merge as plain keys, which `merge_file_of` reads back as the same merge."""
    plain = {
        "merge_method": file.merge_method,
        "adapters": [_adapter(entry) for entry in file.adapters],
        "weights": None if file.weights is None else list(file.weights),
        "parameters": _settings(file.parameters),
        "overrides": [_override(entry) for entry in file.overrides],
        "dtype": file.dtype,
        "seed": file.seed,
        "base_model": file.base_model,
        "examples": list(file.examples),
        "learned": file.learned,
    }
    return _stated(plain)


def _adapter(entry: AdapterEntry) -> dict[str, Any]:
    plain = {"adapter": entry.adapter, "revision": entry.revision, "sha256": entry.sha256}
    plain |= {"config_sha256": entry.config_sha256}
    return _stated(plain | {"parameters": _settings(entry.parameters)})


def _override(entry: OverrideEntry) -> dict[str, Any]:
    weights = None if entry.weights is None else list(entry.weights)
    return _stated({"modules": entry.modules, "weights": weights, "parameters": _settings(entry.parameters)})


def _settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(setting) for name, setting in parameters.items()}


def _plain(setting: Any) -> Any:
    if isinstance(setting, Filtered):
        return _stated({"filter": setting.filter}) | {"value": _plain(setting.value)}
    return [_plain(item) for item in setting] if isinstance(setting, tuple) else setting


def _stated(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if value is not None and value != [] and value != {}}


def _unsupported(key: str, reason: str, where: str) -> ConfigError:
    return ConfigError(f"the key '{key}' is not supported", where=where, found=reason, do="leave it out")
