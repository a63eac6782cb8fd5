"""The settings of a study: a run's YAML file with one more key, `study`.

In: the file. Out: a `RunConfig`, whose data, base, encoder and training every cell shares, and a `StudyConfig`: the
encoders, clusterings, numbers of clusters and seeds whose every combination is one cell.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tclora.config.load import read_yaml, validate
from tclora.config.schema import ClusterConfig, Count, EncodeConfig, RunConfig

__all__ = ["StudyConfig", "load_study"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
Seed = Annotated[int, Field(ge=0)]

_CLUSTERINGS = {
    "kmeans": ClusterConfig(),
    "spherical": ClusterConfig(algorithm="spherical_kmeans"),
    "minibatch": ClusterConfig(algorithm="minibatch_kmeans"),
    "ward": ClusterConfig(algorithm="agglomerative"),
    "average": ClusterConfig(algorithm="agglomerative", linkage="average"),
    "random": ClusterConfig(algorithm="random"),
}


class StudyConfig(BaseModel):
    """What varies in a study of clusterings; the names given here stand in its tables."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    encoders: dict[Name, EncodeConfig] = Field(default_factory=dict)
    """By name; empty: the run's own encoder."""
    clusterings: dict[Name, ClusterConfig] = Field(default_factory=lambda: dict(_CLUSTERINGS), min_length=1)
    """By name: an algorithm and its settings. Embeddings have unit rows, so plain and spherical k-means are the
    Euclidean and the cosine form of one algorithm; so are `linkage: ward` and `average`."""
    n_clusters: tuple[Count, ...] = Field(default=(5, 10), min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=1)
    train: Literal["all", "first_seed", "none"] = "first_seed"
    """Which cells also train a library and score it on the dev examples, each by the adapter of its cluster."""
    silhouette_rows: Count = 2000
    """Rows of the sample that silhouettes are measured on; time and memory grow with its square."""
    n_bootstrap: Count = 1000

    @model_validator(mode="after")
    def _numbers_are_whole(self) -> "StudyConfig":
        for name, values in (("n_clusters", self.n_clusters), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"a value stands twice in {name}")
        return self


def load_study(path: Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, StudyConfig]:
    """Read a study's file.

    Raises:
        ConfigError: as for a run; names the file and the key.
    """
    data = read_yaml(path, overrides)
    study = validate(StudyConfig, data.pop("study", None) or {}, where=f"{path}: study")
    return validate(RunConfig, data, where=str(path)), study
