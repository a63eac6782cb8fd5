"""Proving a merge that was written: each adapter alone, the file against its definition, the model's own forward.

In: a written folder, the prepared request and the merge's result. Out: a `VerifiedMerge` with every figure. Checked:
(a) each adapter alone at weight 1 comes back through the same code; (b) the file, read back raw, holds the weighted sum
of the source files' deltas for linear methods, and the method's result before rounding for others; (c) the error of
the method's own model; (d) where the base is a folder, PEFT's logits with the merged folder against the base with the
deltas added by hand. Raised: `NumericalError` for whatever is further off than rounding explains.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tclora.adapters import Adapter, LoraFactors
from tclora.algebra import LowRankDelta, relative_distance
from tclora.errors import NumericalError
from tclora.merging import MergeResult, merge_adapters
from tclora.merging.method import Params
from tclora.pipeline.checks.raw_lora import RawLora
from tclora.pipeline.merges.base_check import base_folder
from tclora.pipeline.merges.request import PreparedMerge
from tclora.pipeline.merges.verify_file import FileCheck, Term, check_file
from tclora.pipeline.progress import Progress, Silent

__all__ = ["ForwardFigures", "IdentityCheck", "ModelErrors", "VerifiedMerge", "verify_merge"]

# Factors are stored in float32: half a unit of rounding in each, with room for their product.
IDENTITY_TOLERANCE = 1e-6
# Two float32 forwards of one model that differ in the order of their sums, some layers deep.
FORWARD_TOLERANCE = 1e-3

# Methods that are a weighted sum of deltas, and what the sum is multiplied by; None where a parameter makes it other.
_LINEAR: Mapping[str, Callable[[Any], float | None]] = {
    "mean": lambda params: 1.0,
    "cat": lambda params: 1.0,
    "task_arithmetic": lambda params: params.coefficient,
    "lorahub": lambda params: 1.0 if params.combine == "deltas" else None,
    "learned_cat": lambda params: 1.0,
    "adamerging": lambda params: 1.0,
}


@dataclass(frozen=True)
class IdentityCheck:
    """One adapter alone at weight 1: the largest distance to itself; None where no setting of the method holds it."""

    adapter: str
    relative_error: float | None


@dataclass(frozen=True)
class ModelErrors:
    """The relative error of the method's own model over modules."""

    min: float
    median: float
    worst: float
    worst_module: str


@dataclass(frozen=True)
class ForwardFigures:
    """Largest differences of logits; `effect` is that between the base alone and with the merge.

    `allowed` bounds `against_hand`. `against_sources`, for linear methods, also holds what the dtype rounds away.
    """

    against_hand: float
    allowed: float
    against_sources: float | None
    effect: float
    largest_logit: float


@dataclass(frozen=True)
class VerifiedMerge:
    """What was checked, with its figures."""

    identity: tuple[IdentityCheck, ...]
    file: FileCheck
    model: ModelErrors
    forward: ForwardFigures | None


def verify_merge(
    folder: Path, prepared: PreparedMerge, result: MergeResult, told: Progress | None = None
) -> VerifiedMerge:
    """Check the folder that was written for a merge.

    Raises:
        NumericalError: a figure is beyond what rounding explains; says which, where and by how much.
        MissingExtraError: a base folder is given and transformers or peft is not installed.
    """
    told = told or Silent()
    identity = []
    for index, adapter in enumerate(prepared.adapters):
        identity.append(_identity(adapter, prepared))
        told.step("verify adapters", index + 1, len(prepared.adapters))
    definition = _definition(prepared)
    against = "the weighted sum of the source files" if definition else "the method's result before rounding"
    file = check_file(folder, definition or _before_rounding(result), list(prepared.settled.modules), against)
    return VerifiedMerge(tuple(identity), file, _model_errors(result), _forward(folder, prepared, definition))


def _identity(adapter: Adapter, prepared: PreparedMerge) -> IdentityCheck:
    """Send one adapter at weight 1 through the merge, under the parameters of each of its modules."""
    worst = 0.0
    for params, paths in _by_params(adapter, prepared):
        holding = params.holding(max(adapter.shapes[path].r for path in paths))
        if holding is None:
            return IdentityCheck(adapter.name, None)
        alone = _part(adapter, paths)
        merged = merge_adapters(
            [alone], prepared.settled.method, params=holding, adapter_weights=[1.0], device=prepared.request.device
        ).adapter
        for path in paths:
            distance = _distance(merged.modules[path], adapter.modules[path])
            worst = max(worst, distance)
            if not distance <= IDENTITY_TOLERANCE:
                raise NumericalError(
                    "an adapter alone at weight 1 did not come back",
                    where=f"{adapter.name}, module {path}",
                    found=f"relative distance {distance:.2e}",
                    expected=f"at most {IDENTITY_TOLERANCE:.0e}",
                    do="report this with the adapters: the method is wrong for them",
                )
    return IdentityCheck(adapter.name, worst)


def _by_params(adapter: Adapter, prepared: PreparedMerge) -> list[tuple[Params, list[str]]]:
    # Modules under the same overrides share one object, so identity groups them even where fields cannot be hashed.
    groups: dict[int, tuple[Params, list[str]]] = {}
    for path in adapter.shapes:
        params = prepared.settled.modules[path].params
        groups.setdefault(id(params), (params, []))[1].append(path)
    return list(groups.values())


def _part(adapter: Adapter, paths: Sequence[str]) -> Adapter:
    if len(paths) == len(adapter.shapes):
        return adapter
    modules = {path: adapter.modules[path] for path in paths}
    return dataclasses.replace(adapter, modules=modules, shapes={path: adapter.shapes[path] for path in paths})


def _distance(found: LoraFactors, wanted: LoraFactors) -> float:
    pair = [LowRankDelta(("",), f.lora_b[None].double(), f.lora_a[None].double()) for f in (found, wanted)]
    return float(relative_distance(*pair).max())


def _definition(prepared: PreparedMerge) -> Callable[[str], list[Term]] | None:
    """For a linear method, the terms of each module's delta from the raw source files."""
    factor = _LINEAR.get(prepared.settled.method, lambda params: None)
    factors = {path: factor(settings.params) for path, settings in prepared.settled.modules.items()}
    if None in factors.values():
        return None
    sources = [RawLora(Path(adapter.source.folder)) for adapter in prepared.adapters if adapter.source is not None]

    def terms(path: str) -> list[Term]:
        settings = prepared.settled.modules[path]
        found = []
        for source, weight in zip(sources, settings.adapter_weights, strict=True):
            if path in source.paths:
                lora_b, lora_a, scale = source.factors(path)
                found.append((lora_b * (scale * weight * cast(float, factors[path]) * settings.scale), lora_a))
        return found

    return terms


def _before_rounding(result: MergeResult) -> Callable[[str], list[Term]]:
    def terms(path: str) -> list[Term]:
        factors = result.adapter.modules[path]
        return [(factors.lora_b.double(), factors.lora_a.double())]

    return terms


def _model_errors(result: MergeResult) -> ModelErrors:
    errors = {path: float(cast(float, figures["relative_error"])) for path, figures in result.modules.items()}
    worst = max(errors, key=lambda path: errors[path])
    return ModelErrors(min(errors.values()), statistics.median(errors.values()), errors[worst], worst)


def _forward(
    folder: Path, prepared: PreparedMerge, definition: Callable[[str], list[Term]] | None
) -> ForwardFigures | None:
    base = prepared.request.file.base_model
    place = None if base is None else base_folder(base)
    if place is None:
        return None
    from tclora.models import compare_forward

    written = RawLora(folder)
    merged = {path: _dense(lambda path: [_scaled(*written.factors(path))], path) for path in written.paths}
    sources = None if definition is None else {path: _dense(definition, path) for path in written.paths}
    found = compare_forward(place, folder, merged, sources)
    allowed = FORWARD_TOLERANCE * max(found.largest_logit, found.effect)
    if not found.against_hand <= allowed:
        raise NumericalError(
            "PEFT's forward with the merged folder is not the base with the merged deltas",
            where=base,
            found=f"logits up to {found.against_hand:.2e} apart",
            expected=f"at most {allowed:.2e}",
            do="do not use it; report this with the base and the adapters",
        )
    return ForwardFigures(allowed=allowed, **dataclasses.asdict(found))


def _scaled(lora_b: Tensor, lora_a: Tensor, scale: float) -> Term:
    return lora_b * scale, lora_a


def _dense(terms: Callable[[str], Sequence[Term]], path: str) -> Callable[[], Tensor]:
    return lambda: torch.stack([lora_b @ lora_a for lora_b, lora_a in terms(path)]).sum(dim=0)
