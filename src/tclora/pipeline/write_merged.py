"""A merge result into a folder that is being staged: weights, config, card and record."""

from pathlib import Path

from tclora.adapters import fill_adapter_folder
from tclora.artifacts import write_json
from tclora.merging import MergeResult, merge_card, merge_record
from tclora.pipeline.dtypes import torch_dtype
from tclora.records import MergeRecord, to_json

__all__ = ["RECORD_NAME", "write_merged"]

RECORD_NAME = "merge.json"


def write_merged(result: MergeResult, staging: Path, *, dtype: str, out: str, command: str) -> MergeRecord:
    """Fill `staging` with the merged adapter; the caller renames it into place when this returns."""
    card = merge_card(result, dtype=dtype, command=command)
    fill_adapter_folder(result.adapter, staging, dtype=torch_dtype(dtype), card=card)
    record = merge_record(result, dtype=dtype, out=out)
    write_json(staging / RECORD_NAME, to_json(record))
    return record
