"""The file that is stored with a merge's output: every default written out, every adapter with its digest.

In: a `PreparedMerge`. Out: a `MergeFile` that, run again, gives the same weights to the bit, in this release or in one
whose defaults differ.
"""

import dataclasses
from typing import Any

from tclora.adapters import Adapter, weights_digest
from tclora.config import AdapterEntry, MergeFile
from tclora.merging import MERGE_METHODS, default_weight
from tclora.merging.learning import LEARNED_NAME
from tclora.merging.method import parse_values
from tclora.pipeline.merges.request import PreparedMerge
from tclora.pipeline.merges.settings import parameter_names, states_weights

__all__ = ["resolved_file"]


def resolved_file(prepared: PreparedMerge) -> MergeFile:
    """The request's file with nothing left to defaults. What was learned is expected beside it."""
    file, method = prepared.request.file, prepared.settled.method
    pairs = zip(file.adapters, prepared.adapters, strict=True)
    weights = file.weights
    if not states_weights(file) and prepared.learned is None:
        weights = (default_weight(method, len(file.adapters)),) * len(file.adapters)
    return file.model_copy(
        update={
            "merge_method": method,
            "adapters": tuple(_named(entry, adapter) for entry, adapter in pairs),
            "parameters": _parameters(file, prepared),
            "weights": weights,
            "seed": None,
            "examples": (),
            "learned": None if prepared.learned is None else LEARNED_NAME,
        }
    )


def _parameters(file: MergeFile, prepared: PreparedMerge) -> dict[str, Any]:
    method = prepared.settled.method
    stated = {name for entry in file.adapters for name in entry.parameters}
    parameters: dict[str, Any] = {name: value for name, value in _defaults(method).items() if name not in stated}
    parameters |= {"scale": prepared.settled.scale}
    parameters |= {name: _typed(method, name, value) for name, value in file.parameters.items()}
    if file.seed is not None and "seed" in parameters:
        parameters["seed"] = file.seed
    return parameters


def _defaults(method: str) -> dict[str, Any]:
    """The method's parameters that a file can state, at their defaults."""
    fields = dataclasses.fields(MERGE_METHODS.entry(method).facts["params"])  # pyright: ignore[reportArgumentType]
    plain = bool | int | float | str
    return {item.name: item.default for item in fields if isinstance(item.default, plain)}


def _typed(method: str, name: str, value: object) -> object:
    """A parameter that a flag gave as text, as the number it is."""
    if not isinstance(value, str) or name not in parameter_names(method):
        return value
    typed = parse_values(method, {name: value})[name]
    # A list in a file would be a gradient; text with commas is one value per adapter.
    return value if isinstance(typed, tuple) else typed


def _named(entry: AdapterEntry, adapter: Adapter) -> AdapterEntry:
    source = adapter.source
    pins = {"revision": source.revision, "config_sha256": source.config_sha256} if source else {"revision": None}
    return entry.model_copy(update={"sha256": weights_digest(adapter), **pins})
