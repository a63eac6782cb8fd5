"""A merge result into a folder that is being staged: weights, config, card and record."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tclora.adapters import fill_adapter_folder
from tclora.artifacts import write_bytes, write_json
from tclora.merging import MergeResult, merge_card, merge_record
from tclora.pipeline.dtypes import torch_dtype
from tclora.records import MergeRecord, to_json

__all__ = ["RECORD_NAME", "add_verified", "write_merged"]

RECORD_NAME = "merge.json"
_CARD_NAME = "README.md"
# More of an update than this lost to rounding is said; 0.004 is usual for bf16.
_COARSE = 0.05


def write_merged(result: MergeResult, staging: Path, *, dtype: str, out: str, command: str) -> MergeRecord:
    """Fill `staging` with the merged adapter; the caller renames it into place when this returns."""
    rounding = fill_adapter_folder(result.adapter, staging, dtype=torch_dtype(dtype))
    result = replace(result, said=_said_of_rounding(rounding, dtype))
    write_bytes(staging / _CARD_NAME, merge_card(result, dtype=dtype, command=command).encode())
    record = merge_record(result, dtype=dtype, out=out)
    write_json(staging / RECORD_NAME, to_json(record))
    return record


def _said_of_rounding(rounding: Mapping[str, float], dtype: str) -> tuple[str, ...]:
    coarse = [path for path, part in rounding.items() if part > _COARSE]
    if not coarse:
        return ()
    worst = max(coarse, key=lambda path: (rounding[path], path))
    return (
        f"rounding to {dtype} changed {len(coarse)} of {len(rounding)} updates by more than {_COARSE:.0%}, by about "
        f"{rounding[worst]:.2g} times its norm in {worst}: its terms nearly cancel; write fp32, or take `svd`",
    )


def add_verified(staging: Path, record: MergeRecord, verified: object) -> MergeRecord:
    """Put what a verification found into the record and the card of a folder that is still being staged."""
    from tclora.pipeline.merges.verified_table import verified_markdown

    proven = replace(record, verified=to_json(verified))
    card = (staging / _CARD_NAME).read_text(encoding="utf-8") + verified_markdown(proven.verified)
    write_bytes(staging / _CARD_NAME, card.encode())
    write_json(staging / RECORD_NAME, to_json(proven))
    return proven
