"""The cells of a study of clusterings, and where each one lies.

In: a run's settings and those of the study. Out: one `Cell` for every encoder, clustering, number of clusters and
seed, with the settings of its own stages. Data is shared by all cells, embeddings by those of one encoder, and trained
libraries by those whose examples fell into the same clusters.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tclora.config import RunConfig
from tclora.config.study import StudyConfig
from tclora.pipeline.layout import RunFolder

__all__ = ["Cell", "CellFolder", "cells_of", "encoders_of"]


@dataclass(frozen=True)
class CellFolder(RunFolder):
    """A run folder whose data and embeddings are the study's; `root` holds what is the cell's own."""

    study: Path
    encoder: str
    library_name: str = ""

    @property
    def data(self) -> Path:
        return self.study / "data"

    @property
    def encode(self) -> Path:
        return self.study / "encode" / self.encoder

    @property
    def library(self) -> Path:
        return self.study / "libraries" / self.library_name


@dataclass(frozen=True)
class Cell:
    """One combination."""

    encoder: str
    clustering: str
    n_clusters: int
    seed: int
    trains: bool

    @property
    def name(self) -> str:
        return f"{self.encoder}-{self.clustering}-k{self.n_clusters}-seed{self.seed}"

    def folder(self, study: Path) -> CellFolder:
        """Where the cell lies."""
        return CellFolder(study / "cells" / self.name, study, self.encoder)

    def settings(self, config: RunConfig, study: StudyConfig) -> RunConfig:
        """The run's settings with those of the cell in their place; it trains the library and no control."""
        cluster = study.clusterings[self.clustering].model_copy(update={"n_clusters": self.n_clusters, "map": "none"})
        train = config.train.model_copy(update={"multi_task": False, "controls": ()})
        encode = encoders_of(config, study)[self.encoder]
        return config.model_copy(update={"encode": encode, "cluster": cluster, "train": train, "seed": self.seed})


def encoders_of(config: RunConfig, study: StudyConfig) -> dict:
    """The encoders by name: those of the study, or the run's own."""
    return study.encoders or {config.encode.encoder: config.encode}


def cells_of(config: RunConfig, study: StudyConfig) -> tuple[Cell, ...]:
    """Every combination, in the order of the file."""
    first = study.seeds[0]
    return tuple(
        Cell(encoder, clustering, k, seed, study.train == "all" or (study.train == "first_seed" and seed == first))
        for encoder, clustering, k, seed in product(
            encoders_of(config, study), study.clusterings, study.n_clusters, study.seeds
        )
    )
