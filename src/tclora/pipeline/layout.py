"""Where things lie in a run folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MULTI_TASK", "RunFolder", "cluster_name"]

MULTI_TASK = "multi-task"


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
    def library(self) -> Path:
        return self.root / "library"

    @property
    def merge(self) -> Path:
        return self.root / "merge"

    @property
    def evaluate(self) -> Path:
        return self.root / "evaluate"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie in the folder."""
        stages = (self.data, self.encode, self.cluster, self.library, self.merge, self.evaluate, self.report)
        for folder in stages:
            shutil.rmtree(folder, ignore_errors=True)


def cluster_name(index: int) -> str:
    """The name of a cluster and of its adapter."""
    return f"cluster-{index}"
