"""A merge result into a folder that is being staged: weights, config, card and record."""

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


def write_merged(result: MergeResult, staging: Path, *, dtype: str, out: str, command: str) -> MergeRecord:
    """Fill `staging` with the merged adapter; the caller renames it into place when this returns."""
    card = merge_card(result, dtype=dtype, command=command)
    fill_adapter_folder(result.adapter, staging, dtype=torch_dtype(dtype), card=card)
    record = merge_record(result, dtype=dtype, out=out)
    write_json(staging / RECORD_NAME, to_json(record))
    return record


def add_verified(staging: Path, record: MergeRecord, verified: object) -> MergeRecord:
    """Put what a verification found into the record and the card of a folder that is still being staged."""
    from tclora.pipeline.merges.verified_table import verified_markdown

    proven = replace(record, verified=to_json(verified))
    card = (staging / _CARD_NAME).read_text(encoding="utf-8") + verified_markdown(proven.verified)
    write_bytes(staging / _CARD_NAME, card.encode())
    write_json(staging / RECORD_NAME, to_json(proven))
    return proven
