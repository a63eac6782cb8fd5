"""The flags of `tclora merge` as the keys of a merge's file, so that both are one thing.

In: the keys of a file, or none, and flags. Out: a `MergeFile`. A flag wins over the file: `--weights` over every weight
in it, `--param` over that parameter for all and for one adapter; what `overrides` says of some modules stays, and
`--weights-for` and `--param-for` are added after it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tclora.config import MergeFile, merge_file_of, plain_merge_file
from tclora.errors import ConfigError

__all__ = ["MergeFlags", "merge_file_from"]

_PARAM_FOR = re.compile(r"(?P<pattern>.+?):(?P<name>[\w-]+)=(?P<value>.*)")


@dataclass(frozen=True)
class MergeFlags:
    """What was given on the command line; None and nothing where it was not."""

    method: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    param_words: Sequence[str] = ()
    weights: str | None = None
    weights_for: Sequence[str] = ()
    params_for: Sequence[str] = ()
    top: Mapping[str, object] = field(default_factory=dict)
    """Keys of the file that a flag of the same meaning sets: dtype, seed, base_model, examples, learned."""


def merge_file_from(keys: Mapping[str, Any], flags: MergeFlags, *, where: str) -> MergeFile:
    """The merge that a file's keys and flags describe together.

    Raises:
        ConfigError: a key or a flag is wrong.
    """
    plain = plain_merge_file(merge_file_of(keys, where=where))
    if flags.method is not None:
        plain["merge_method"] = flags.method
    if flags.top.get("seed") is not None:
        _drop(plain, "seed")
    for name, value in {**_pairs(flags.param_words), **_given(flags.params)}.items():
        _set_parameter(plain, name, value)
    if flags.weights is not None:
        _drop(plain, "weight")
        plain["weights"] = _numbers(flags.weights, "--weights")
    plain["overrides"] = [*plain.get("overrides", ()), *_overrides(flags)]
    for one, other in (("examples", "learned"), ("learned", "examples")):
        if flags.top.get(one) and not flags.top.get(other):
            plain.pop(other, None)
    return merge_file_of(plain | _given(flags.top), where="tclora merge")


def _overrides(flags: MergeFlags) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for word in flags.weights_for:
        pattern, found, numbers = word.rpartition("=")
        if not found or not pattern:
            raise ConfigError(
                "weights for some modules are not PATTERN=numbers",
                where="--weights-for",
                found=word,
                expected="q_proj=0.5,0.3",
            )
        made.append({"modules": pattern, "weights": _numbers(numbers, "--weights-for")})
    for word in flags.params_for:
        found = _PARAM_FOR.fullmatch(word)
        if found is None:
            raise ConfigError(
                "a parameter for some modules is not PATTERN:name=value",
                where="--param-for",
                found=word,
                expected="layers.0-7:cp_rank=8",
            )
        made.append({"modules": found["pattern"], "parameters": {found["name"]: found["value"]}})
    return made


def _set_parameter(plain: dict[str, Any], name: str, value: object) -> None:
    key = {"lambda": "scale"}.get(name, name)
    _drop(plain, key)
    if key == "seed":
        plain.pop("seed", None)
    if key == "weight":
        plain.pop("weights", None)
    plain["parameters"] = plain.get("parameters", {}) | {key: value}


def _drop(plain: dict[str, Any], name: str) -> None:
    """Take a parameter out, for all and for each adapter."""
    for holder in [plain, *plain["adapters"]]:
        holder["parameters"] = {key: value for key, value in holder.get("parameters", {}).items() if key != name}


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value not in (None, (), [])}


def _numbers(text: str, where: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError("the weights are not numbers", where=where, found=text, expected="0.5,0.3,0.2") from None


def _pairs(words: Sequence[str]) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for word in words:
        name, found, value = word.partition("=")
        if not found:
            raise ConfigError("a parameter is not name=value", where="--param", found=word)
        pairs[name.strip().replace("-", "_")] = value.strip()
    return pairs
