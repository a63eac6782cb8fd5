"""The settings of an experiment of kind `planted`: worlds of planted adapters x merges x output ranks x seeds.

In: the file's keys. Out: `PlantedSettings`. A grid is a full product of the values of some settings of the planted
adapters; everything else is as in `adapters`. Nothing is trained and no base is needed. Refused: settings that planted
adapters do not have, a rival or a shown rank that takes no part.
"""

from itertools import product
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tclora.config.experiment import ExperimentSettings, Name, Part, Value
from tclora.config.schema import Count

__all__ = ["PlantConfig", "PlantedMergeConfig", "PlantedSettings", "StabilityConfig"]

Number = bool | int | float
OutputRank = Count | Literal["full"]


class PlantConfig(Part):
    """What is planted, where a grid does not say otherwise."""

    n_adapters: Count = 6
    d_out: Count = 96
    d_in: Count = 80
    rank: Count = 8
    """Of every adapter: `n_shared` directions that all hold, the others its own."""
    n_shared: Annotated[int, Field(ge=0)] = 3
    n_modules: Count = 2
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Cosine of the private directions of two adapters, on either side."""
    shared_strength: Annotated[float, Field(ge=0)] = 1.0
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Each further direction of an adapter is so much weaker."""
    spread: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the logarithm of an adapter's share in a shared direction."""
    sign_conflict: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the adapters that hold a shared direction with the opposite sign."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Norm of the noise over that of the adapter's delta."""
    scrambled: bool = True
    """Whether factors are mixed by an invertible matrix, which changes no delta."""

    def changed(self, point: dict[str, Number]) -> "PlantConfig":
        """The same with some settings changed, and checked."""
        return PlantConfig.model_validate(self.model_dump() | point)


class PlantedMergeConfig(Part):
    """A merge that takes part."""

    method: str | None = None
    """The name of `tclora methods`; None: the contestant's own name."""
    params: dict[str, Value] = Field(default_factory=dict)
    rank_param: str | None = None
    """The parameter that takes the output rank; None: the result is cut to it by an SVD of each module."""


class StabilityConfig(Part):
    """How CP depends on its start, its sweeps, the noise and its number of terms."""

    adapters: PlantConfig = PlantConfig(rank=5, n_shared=5, spread=0.7)
    """Best without private directions: then the planted terms are the only exact model, and can be found."""
    noise: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.0, 0.1, 0.3, 1.0), min_length=1)
    cp_ranks: tuple[Count, ...] = Field(default=(3, 5, 8), min_length=1)
    sweeps: tuple[Count, ...] = Field(default=(10, 30, 100, 300), min_length=1)
    n_starts: Annotated[int, Field(ge=0)] = 8
    """Random starts, beside the two made of singular vectors."""
    near: Annotated[float, Field(gt=0)] = 1e-3
    """A start is as good as the best where its relative error is within this of it."""


class PlantedSettings(ExperimentSettings):
    """Grids x seeds x merges x output ranks."""

    adapters: PlantConfig = PlantConfig()
    grids: dict[Name, dict[str, tuple[Number, ...]]] = Field(min_length=1)
    contestants: dict[Name, PlantedMergeConfig] = Field(min_length=1)
    ranks: tuple[OutputRank, ...] = Field(default=(8, 16, "full"), min_length=1)
    """`full`: the sum of the adapters' ranks, at which nothing has to be lost."""
    rivals: tuple[str, ...] = ("mean",)
    """Whom every contestant is compared with."""
    about: tuple[str, ...] = ()
    """The contestants that the answer speaks of, beside the best."""
    shown_rank: OutputRank | None = None
    """Of the answer, the tables by setting and the picture; None: the first of `ranks`."""
    stability: StabilityConfig | None = StabilityConfig()

    @model_validator(mode="after")
    def _names_mean_something(self) -> "PlantedSettings":
        for where, names in (("rivals", self.rivals), ("about", self.about)):
            if unknown := [name for name in names if name not in self.contestants]:
                raise ValueError(f"{where} names no contestant: {unknown[0]}")
        if self.shown_rank is not None and self.shown_rank not in self.ranks:
            raise ValueError(f"shown_rank is none of the ranks: {self.shown_rank}")
        return self

    @model_validator(mode="after")
    def _grids_can_be_planted(self) -> "PlantedSettings":
        for name, vary in self.grids.items():
            if unknown := [key for key in vary if key not in PlantConfig.model_fields]:
                raise ValueError(f"grid {name} varies what planted adapters do not have: {unknown[0]}")
            if empty := [key for key, values in vary.items() if not values]:
                raise ValueError(f"grid {name} has no values for {empty[0]}")
            for point in self.points(name):
                self.adapters.changed(point)
        return self

    def points(self, grid: str) -> list[dict[str, Number]]:
        """Every combination of a grid's values."""
        vary = self.grids[grid]
        return [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]

    @property
    def spoken_rank(self) -> int | str:
        """The output rank that the answer speaks of."""
        return self.ranks[0] if self.shown_rank is None else self.shown_rank
