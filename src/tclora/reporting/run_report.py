"""Everything a report is made of, as one frozen value."""

from dataclasses import dataclass
from typing import Any

from tclora.records import ClusterMapRecord, ClusterRecord, EncodeRecord, EvalRecord, MergeRecord, TrainRecord

__all__ = ["RunReport"]


@dataclass(frozen=True)
class RunReport:
    """What was run, on what, and what came of it. `wall_s` is keyed by stage; `held_out` is of unseen tasks."""

    name: str
    command: str
    config: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, str]
    encode: EncodeRecord
    clusters: ClusterRecord
    training: tuple[TrainRecord, ...]
    merges: tuple[MergeRecord, ...]
    evaluation: EvalRecord
    wall_s: dict[str, float]
    notes: tuple[str, ...] = ()
    held_out: EvalRecord | None = None
    cluster_map: ClusterMapRecord | None = None
