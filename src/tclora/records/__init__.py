"""Frozen records that cross a stage boundary: JSON in and out, no tensors."""

from tclora.records.records import (
    ClusterRecord,
    ClusterSummary,
    ContestantRecord,
    EncodeRecord,
    EvalRecord,
    MergeRecord,
    Score,
    TrainRecord,
)
from tclora.records.serial import from_json, to_json

__all__ = [
    "ClusterRecord",
    "ClusterSummary",
    "ContestantRecord",
    "EncodeRecord",
    "EvalRecord",
    "MergeRecord",
    "Score",
    "TrainRecord",
    "from_json",
    "to_json",
]
