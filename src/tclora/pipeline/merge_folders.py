"""The front door for adapters: PEFT folders or Hub ids in, one PEFT folder out. No base model, no training library.

Everything that can be refused is refused before any work: parameters, weights, the output, adapters that do not belong
together. The output appears whole or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tclora.adapters import (
    Adapter,
    base_shapes,
    check_against_base,
    check_mergeable,
    check_same_base,
    read_adapter,
    refuse_existing,
)
from tclora.artifacts import staged_folder
from tclora.errors import ConfigError
from tclora.merging import MERGE_METHODS, merge_adapters, parse_params, plan_merge, resolve_weights
from tclora.pipeline.dtypes import torch_dtype
from tclora.pipeline.progress import Progress, Silent
from tclora.pipeline.write_merged import write_merged
from tclora.records import MergeRecord

__all__ = ["MergeRequest", "merge_folders", "plan_folders"]

# Rough figures of a two-core machine, for the expected time of a dry run only.
_FLOPS_PER_S = 2e10
_BYTES_PER_S = 5e8
_BYTES_PER_VALUE = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class MergeRequest:
    """What `tclora merge` was asked for. `params` are the method's, as plain values."""

    adapters: tuple[str, ...]
    out: str
    method: str = "tc_lora"
    params: dict[str, object] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    scale: float = 1.0
    dtype: str = "bf16"
    device: str = "auto"
    base: str | None = None
    overwrite: bool = False
    command: str = ""


def merge_folders(request: MergeRequest, progress: Progress | None = None) -> MergeRecord:
    """Merge adapter folders into one and write it with its model card.

    Raises:
        TcLoraError: the request is wrong, an adapter is broken or unsupported, or the output exists; nothing is
            written then.
    """
    told = progress or Silent()
    adapters = _read(request, told)
    told.begin("merge")
    with staged_folder(Path(request.out), overwrite=request.overwrite) as staging:
        result = merge_adapters(
            adapters,
            request.method,
            params=request.params,
            adapter_weights=request.weights,
            scale=request.scale,
            device=request.device,
            name=Path(request.out).name,
            on_progress=lambda done, total: told.step("merge", done, total),
        )
        record = write_merged(result, staging, dtype=request.dtype, out=request.out, command=request.command)
    for note in record.notes:
        told.note(note)
    told.end("merge", wall_s=record.wall_s, skipped=False)
    return record


def plan_folders(request: MergeRequest, progress: Progress | None = None) -> dict[str, object]:
    """What `merge_folders` would do: shapes, bytes and a rough time. Writes nothing."""
    adapters = _read(request, progress or Silent())
    plan = plan_merge(adapters, resolve_weights(len(adapters), request.weights))
    read_bytes = sum(_n_values(adapter) * 4 for adapter in adapters)
    flops = sum(8.0 * len(group.names) * (group.d_out + group.d_in) * sum(group.ranks) ** 2 for group in plan.groups)
    out_rank = max(sum(group.ranks) for group in plan.groups)
    width = sum(len(group.names) * (group.d_out + group.d_in) for group in plan.groups)
    return {
        "method": request.method,
        "n_adapters": len(adapters),
        "n_modules": plan.n_modules,
        "shapes": [
            {"d_out": g.d_out, "d_in": g.d_in, "n_modules": len(g.names), "ranks": list(g.ranks)} for g in plan.groups
        ],
        "read_bytes": read_bytes,
        "written_bytes_at_most": width * out_rank * _BYTES_PER_VALUE[request.dtype],
        "expected_s": round(read_bytes / _BYTES_PER_S + flops / _FLOPS_PER_S, 1),
        "out": request.out,
    }


def _read(request: MergeRequest, told: Progress) -> list[Adapter]:
    _check_request(request)
    adapters = [read_adapter(source) for source in _distinct(request.adapters)]
    check_mergeable(adapters)
    for warning in check_same_base(adapters):
        told.note(warning)
    if request.base is not None:
        shapes = base_shapes(request.base)
        for adapter in adapters:
            check_against_base(adapter, shapes)
    return adapters


def _check_request(request: MergeRequest) -> None:
    MERGE_METHODS.entry(request.method)
    parse_params(request.method, request.params)
    torch_dtype(request.dtype)
    resolve_weights(len(request.adapters), request.weights)
    # A slip of the pen after -o must not cost a home folder: only an adapter may be replaced.
    refuse_existing(Path(request.out), overwrite=request.overwrite)
    for source in request.adapters:
        if Path(source).exists() and Path(source).resolve() == Path(request.out).resolve():
            raise ConfigError("the output is one of the adapters", where=request.out, do="choose another output")


def _distinct(sources: Sequence[str]) -> Sequence[str]:
    """Refuse one folder named twice: it would count double without anybody seeing it."""
    seen: dict[str, str] = {}
    for source in sources:
        key = str(Path(source).resolve()) if Path(source).exists() else source
        if key in seen:
            raise ConfigError(
                "an adapter is named twice",
                where=source,
                found=f"also as {seen[key]}",
                do="name it once, and give it a larger weight if that is what you mean",
            )
        seen[key] = source
    return sources


def _n_values(adapter: Adapter) -> int:
    return sum(shape.r * (shape.d_out + shape.d_in) for shape in adapter.shapes.values())
