"""Where things lie in a run folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["EQUAL_PARAMETERS", "MULTI_TASK", "PER_TASK", "RANDOM_CLUSTERS", "RunFolder", "cluster_name"]

MULTI_TASK = "multi-task"
EQUAL_PARAMETERS = "multi-task-equal-parameters"
RANDOM_CLUSTERS, PER_TASK = "random-clusters", "per-task"
"""Control libraries. They lie apart from the library, so that merging its folder never takes one in."""


@dataclass(frozen=True)
class RunFolder:
    """The folders of one run."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def encode(self) -> Path:
        return self.root / "encode"

    @property
    def cluster(self) -> Path:
        return self.root / "cluster"

    @property
    def cluster_map(self) -> Path:
        return self.root / "cluster-map"

    @property
    def library(self) -> Path:
        return self.root / "library"

    @property
    def controls(self) -> Path:
        return self.root / "controls"

    @property
    def merge(self) -> Path:
        return self.root / "merge"

    @property
    def merge_controls(self) -> Path:
        return self.root / "merge-controls"

    @property
    def evaluate(self) -> Path:
        return self.root / "evaluate"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def extensions(self) -> Path:
        """What `tclora extend` added."""
        return self.root / "extensions"

    @property
    def library_index(self) -> Path:
        """Says what the library is, once it was changed."""
        return self.root / "library.json"

    @property
    def parts(self) -> tuple[Path, ...]:
        """Every folder that a run writes."""
        stages = (self.data, self.encode, self.cluster, self.library, self.merge, self.evaluate, self.report)
        return (*stages, self.cluster_map, self.controls, self.merge_controls, self.extensions)

    def clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie in the folder."""
        for folder in self.parts:
            shutil.rmtree(folder, ignore_errors=True)
        self.library_index.unlink(missing_ok=True)


def cluster_name(index: int) -> str:
    """The name of a cluster and of its adapter."""
    return f"cluster-{index}"
