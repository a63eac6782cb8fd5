"""The front door for adapters: PEFT folders or Hub ids in, one PEFT folder out. No base model, no training library.

Everything that can be refused is refused before any work (`merge_request.py`). The output appears whole or not at all,
and with `verify` only if what was written proves right. It holds `merge.yaml`, which gives the same merge again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tclora.adapters import Adapter, refuse_existing
from tclora.artifacts import staged_folder, write_bytes
from tclora.config import dump_merge_file
from tclora.merging import MergeResult, merge_adapters, plan_merge
from tclora.merging.learning import write_learned
from tclora.pipeline.merges.learning import learn
from tclora.pipeline.merges.request import MergeRequest, PreparedMerge, prepare_merge
from tclora.pipeline.merges.resolved import resolved_file
from tclora.pipeline.merges.write import add_verified, write_merged
from tclora.pipeline.progress import Progress, Silent
from tclora.records import MergeRecord

__all__ = ["MERGE_FILE_NAME", "MergeRequest", "merge_folders", "plan_folders"]

MERGE_FILE_NAME = "merge.yaml"

# Rough figures of a two-core machine, for the expected time of a dry run only.
_FLOPS_PER_S = 2e10
_BYTES_PER_S = 5e8
_BYTES_PER_VALUE = {"bf16": 2, "fp16": 2, "fp32": 4}


def merge_folders(request: MergeRequest, progress: Progress | None = None) -> MergeRecord:
    """Merge adapter folders into one and write it with its model card.

    Raises:
        TcLoraError: the request is wrong, an adapter is broken or unsupported, the output exists, or what was written
            does not verify; nothing is at the output then.
    """
    told = progress or Silent()
    prepared = prepare_merge(request, told)
    settled, learned = learn(request.file, request.device, prepared.adapters, prepared.settled, told)
    prepared = replace(prepared, settled=settled, learned=learned)
    told.begin("merge")
    out = Path(request.out)
    again = partial(refuse_existing, out, overwrite=request.overwrite)
    with staged_folder(out, overwrite=request.overwrite, refuse=again) as staging, _spool(staging) as spool:
        result = _merge(prepared, spool, told)
        record = write_merged(result, staging, dtype=request.file.dtype, out=request.out, command=request.command)
        write_bytes(staging / MERGE_FILE_NAME, dump_merge_file(resolved_file(prepared)).encode())
        if learned is not None:
            write_learned(learned, staging)
        if request.verify:
            from tclora.pipeline.merges.verify import verify_merge

            record = add_verified(staging, record, verify_merge(staging, prepared, result, told))
    for note in record.notes:
        told.note(note)
    told.end("merge", wall_s=record.wall_s, skipped=False)
    return record


def plan_folders(request: MergeRequest, progress: Progress | None = None) -> dict[str, object]:
    """What `merge_folders` would do: shapes, bytes and a rough time. Writes nothing."""
    prepared = prepare_merge(request, progress or Silent())
    adapters = prepared.adapters
    plan = plan_merge(adapters, prepared.settled.modules)
    read_bytes = sum(_n_values(adapter) * 4 for adapter in adapters)
    flops = sum(8.0 * len(group.names) * (group.d_out + group.d_in) * sum(group.ranks) ** 2 for group in plan.groups)
    out_rank = max(sum(group.ranks) for group in plan.groups)
    width = sum(len(group.names) * (group.d_out + group.d_in) for group in plan.groups)
    return {
        "method": prepared.settled.method,
        "n_adapters": len(adapters),
        "n_modules": plan.n_modules,
        "shapes": [
            {"d_out": g.d_out, "d_in": g.d_in, "n_modules": len(g.names), "ranks": list(g.ranks)} for g in plan.groups
        ],
        "read_bytes": read_bytes,
        "written_bytes_at_most": width * out_rank * _BYTES_PER_VALUE[request.file.dtype],
        "expected_s": round(read_bytes / _BYTES_PER_S + flops / _FLOPS_PER_S, 1),
        "out": request.out,
    }


@contextmanager
def _spool(staging: Path) -> Iterator[Path]:
    """A place for the merged factors while the merge runs, which is not part of the output."""
    path = staging / "factors.spool"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _merge(prepared: PreparedMerge, spool: Path, told: Progress) -> MergeResult:
    request, settled = prepared.request, prepared.settled
    return merge_adapters(
        prepared.adapters,
        settled.method,
        params=settled.params,
        adapter_weights=settled.adapter_weights,
        scale=settled.scale,
        overrides=settled.overrides,
        device=request.device,
        workers=request.workers,
        spool=spool,
        name=Path(request.out).name,
        on_progress=lambda done, total: told.step("merge", done, total),
    )


def _n_values(adapter: Adapter) -> int:
    return sum(shape.r * (shape.d_out + shape.d_in) for shape in adapter.shapes.values())
