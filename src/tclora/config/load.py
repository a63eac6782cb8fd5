"""From YAML text to settings: strict, with file, line and key in every refusal.

Refused: duplicate keys, anchors and aliases (a few hundred bytes of aliases can expand to gigabytes), custom tags,
unknown keys (with the nearest known one), numbers written so that YAML reads them as text (`1e-4`) are mended.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tclora.config.schema import RunConfig
from tclora.errors import ConfigError

__all__ = ["apply_overrides", "dump_config", "dump_yaml", "load_config", "parse_yaml", "read_yaml", "validate"]

Settings = TypeVar("Settings", bound=BaseModel)

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 40
# YAML 1.1 wants a dot in a float, so `1e-4` arrives as text; every ML engineer writes it.
_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
# `$NAME`, `${NAME}` or `${NAME:-default}`; `$$` is a plain `$`.
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|(?P<bare>\w+))")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's YAML file and apply `a.b=c` overrides.

    Raises:
        ConfigError: names the file, the line or key, and the nearest known key.
    """
    return validate(RunConfig, read_yaml(path, overrides), where=str(path))


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain keys of a YAML file, its variables filled in and `a.b=c` overrides applied."""
    data = parse_yaml(_read(path), where=str(path))
    return apply_overrides(_expand(data, str(path)), overrides)


def parse_yaml(text: str, *, where: str = "YAML") -> dict[str, Any]:
    """Parse one YAML mapping of plain values, refusing what hides mistakes."""
    import yaml

    try:
        node = yaml.compose(_without_aliases(text, where), Loader=yaml.SafeLoader)
        value = _plain(node, where, 0)
    except yaml.YAMLError as error:
        raise ConfigError("the YAML cannot be read", where=where, found=_one_line(error)) from None
    except RecursionError:
        raise ConfigError("the YAML is nested too deeply", where=where) from None
    if not isinstance(value, dict):
        raise ConfigError("the YAML is not a mapping", where=where, found=type(value).__name__, expected="key: value")
    return value


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `a.b=value` paths in a copy of `data`; list items by index, values read as YAML."""
    result = _copy(data)
    for override in overrides:
        path, found, text = override.partition("=")
        if not found or not path.strip():
            raise ConfigError("an override is not of the form a.b=value", where="--set", found=override)
        _set(result, path.strip().split("."), parse_yaml(f"value: {text}", where=f"--set {path}")["value"], override)
    return result


def validate(kind: type[Settings], data: Mapping[str, Any], *, where: str) -> Settings:
    """Check plain data against a settings model; the first fault is raised as a `ConfigError`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top)"
        raise ConfigError(
            f"{first['msg'].removeprefix('Value error, ')}: {key}",
            where=where,
            found=repr(first.get("input"))[:200],
            do=_suggestion(kind, first),
        ) from None


def dump_config(config: RunConfig) -> str:
    """The resolved settings as YAML, which `load_config` reads back."""
    return dump_yaml(config.model_dump(mode="json"))


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, which `read_yaml` reads back as the same, texts that look like numbers or variables too."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _EXPONENT.match(text) else None)

    Dumper.add_representer(str, represent)
    return yaml.dump(_escaped(data), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def _escaped(value: Any) -> Any:
    """Values, not keys, so that `_expand` gives them back."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) and _VARIABLE.search(value) else value


def _read(path: Path) -> str:
    if not path.is_file():
        raise ConfigError("there is no such config file", where=path, do="check the path")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError("the config file is too large", where=path, expected=f"at most {_MAX_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("the config file is not UTF-8", where=path, found=_one_line(error)) from None


def _without_aliases(text: str, where: str) -> str:
    import yaml

    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
            line = token.start_mark.line + 1
            raise ConfigError("anchors and aliases are not read", where=f"{where}, line {line}", do="write it out")
    return text


def _plain(node: Any, where: str, depth: int) -> Any:
    import yaml

    if depth > _MAX_DEPTH:
        raise ConfigError("the YAML is nested too deeply", where=where, expected=f"at most {_MAX_DEPTH} levels")
    if node is None:
        return {}
    if node.tag.startswith(("tag:yaml.org,2002:python", "!")):
        raise ConfigError("tags are not read", where=f"{where}, line {node.start_mark.line + 1}", found=node.tag)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, where, depth)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, where, depth + 1) for item in node.value]
    value = yaml.SafeLoader("").construct_object(node)
    return float(value) if isinstance(value, str) and node.style is None and _EXPONENT.match(value) else value


def _mapping(node: Any, where: str, depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in result:
            raise ConfigError(f"the key '{key}' is given twice", where=f"{where}, line {line}", do="keep one of them")
        result[key] = _plain(value_node, where, depth + 1)
    return result


def _expand(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, where) for item in value]
    return _VARIABLE.sub(lambda match: _variable(match, where), value) if isinstance(value, str) else value


def _variable(match: re.Match[str], where: str) -> str:
    if match["escaped"]:
        return "$"
    name = match["braced"] or match["bare"]
    value = os.environ.get(name, match["default"])
    if value is None:
        raise ConfigError(f"the environment variable {name} is not set", where=where, do=f"export {name}=...")
    return value


def _set(data: Any, path: list[str], value: Any, override: str) -> None:
    for depth, part in enumerate(path[:-1]):
        data = _child(data, part, path[: depth + 1], override)
    last = path[-1]
    if isinstance(data, list):
        data[_index(data, last, override)] = value
    else:
        data[last] = value


def _child(data: Any, part: str, walked: list[str], override: str) -> Any:
    if isinstance(data, list):
        return data[_index(data, part, override)]
    child = data.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise ConfigError(f"'{'.'.join(walked)}' holds a value, not settings", where=f"--set {override}", found=child)
    return child


def _index(items: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(
            "a list item is not there", where=f"--set {override}", found=part, expected=f"0 to {len(items) - 1}"
        )
    return int(part)


def _suggestion(kind: type[BaseModel], fault: Any) -> str | None:
    if fault["type"] != "extra_forbidden":
        return None
    known = _fields_at(kind, [part for part in fault["loc"][:-1] if isinstance(part, str)])
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else "known keys: " + ", ".join(known)


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = next((field for name, field in kind.model_fields.items() if part in _spellings(name, field)), None)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            break
        kind = inner
    return list(kind.model_fields)


def _spellings(name: str, field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    return [name, *(str(choice) for choice in alias.choices)] if isinstance(alias, AliasChoices) else [name]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
