"""Frozen records that cross a stage boundary: JSON in and out, no tensors."""

from tclora.records.many import ComparisonRecord, EntrantRecord, FigureRecord, ManyEvalRecord, ManyTaskRecord
from tclora.records.records import (
    ClusterMapRecord,
    ClusterRecord,
    ClusterSummary,
    ContestantRecord,
    EncodeRecord,
    EvalRecord,
    MergeRecord,
    NClustersPoint,
    NClustersRecord,
    PairedRecord,
    Score,
    TrainRecord,
)
from tclora.records.serial import from_json, to_json
from tclora.records.study import StudyAgreement, StudyCell, StudyRecord

__all__ = [
    "ClusterMapRecord",
    "ClusterRecord",
    "ClusterSummary",
    "ComparisonRecord",
    "ContestantRecord",
    "EncodeRecord",
    "EntrantRecord",
    "EvalRecord",
    "FigureRecord",
    "ManyEvalRecord",
    "ManyTaskRecord",
    "MergeRecord",
    "NClustersPoint",
    "NClustersRecord",
    "PairedRecord",
    "Score",
    "StudyAgreement",
    "StudyCell",
    "StudyRecord",
    "TrainRecord",
    "from_json",
    "to_json",
]
