"""The settings of an experiment of kind `merges`: libraries x seeds x contestants, each at a scale of its own choice.

In: the file's keys. Out: `MergesSettings`; a contestant with a `sweep` becomes one for every value. Refused: names that
mean nothing (a rival, a reference, a library), settings that a contestant's kind has no use for, a grid without 1.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tclora.config.experiment import ExperimentSettings, Name, Part, Value
from tclora.config.schema import Count, LearnShare

__all__ = [
    "ContestantConfig",
    "ExactMatchConfig",
    "GapConfig",
    "LearnConfig",
    "LibraryConfig",
    "MergesSettings",
    "RowsConfig",
    "ScalesConfig",
    "SweepConfig",
]

ContestantKind = Literal["merge", "base", "best_single", "routed", "multi_task", "random_factors"]


class LibraryConfig(Part):
    """A run whose adapters are merged: its file, what differs from it, and where the run of each seed lies."""

    run: str
    """The run's YAML file, from the folder of the experiment's file."""
    output: str
    """The run folder; `{seed}` in it becomes the seed."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings in place of the file's: `cluster.n_clusters: 5`."""
    x: float | None = None
    """Where the library stands on the axis of a plot over libraries, such as its number of clusters."""

    @model_validator(mode="after")
    def _seeds_have_folders(self) -> "LibraryConfig":
        if "{seed}" not in self.output:
            raise ValueError("the output of a library names the seed, as in runs/k10/seed-{seed}")
        return self


class LearnConfig(Part):
    """What a method that learns may read: training rows, without their responses unless it learns from labels."""

    rows: Count = 24
    """Rows of each cluster."""
    share: LearnShare = "even"
    """`size`: as many rows in all, from each cluster in proportion to its size."""
    seed: Annotated[int, Field(ge=0)] = 0


class SweepConfig(Part):
    """One contestant for every value of one setting."""

    over: str
    """A parameter of the method, or `output_rank`."""
    values: tuple[Value, ...] = Field(min_length=1)


class ContestantConfig(Part):
    """Who takes part: a merge of the library, or something that merges are compared with."""

    kind: ContestantKind = "merge"
    method: str | None = None
    """merge: the name of `tclora methods`; None: the contestant's own name."""
    params: dict[str, Value] = Field(default_factory=dict)
    weights: Literal["uniform", "size"] = "uniform"
    of: Literal["library", "random_clusters"] = "library"
    """merge, routed, best_single: whose adapters."""
    output_rank: Count | None = None
    """The result is cut to this rank by an SVD of each module; what that loses is told."""
    scale: Annotated[float, Field(gt=0)] | Literal["choose"] | None = None
    """None: `choose` for single adapters, 1 for routed, multi_task and base, which are taken as they were trained."""
    like: str | None = None
    """random_factors: the contestant whose ranks and module norms they have."""
    learn: LearnConfig = LearnConfig()
    sweep: SweepConfig | None = None
    libraries: tuple[str, ...] = ()
    """Only with these; empty: with all."""
    series: str | None = None
    x: float | None = None
    """Where it stands on the axis of a plot over a setting; set by a sweep."""

    @model_validator(mode="after")
    def _only_what_it_uses(self) -> "ContestantConfig":
        given = self.model_fields_set
        unused = {"method", "params", "weights", "output_rank", "learn", "sweep"} if self.kind != "merge" else set()
        unused |= set() if self.kind == "random_factors" else {"like"}
        unused |= {"of"} if self.kind in ("base", "multi_task", "random_factors") else set()
        unused |= {"scale"} if self.kind == "base" else set()
        if wrong := sorted(given & unused):
            raise ValueError(f"a contestant of kind {self.kind} has no use for {', '.join(wrong)}")
        if self.kind == "random_factors" and self.like is None:
            raise ValueError("random factors are `like` another contestant: name it")
        return self

    @property
    def chosen_scale(self) -> float | None:
        """The scale that is given; None where it is to be chosen."""
        if self.scale is None:
            return 1.0 if self.kind in ("base", "routed", "multi_task") else None
        return None if self.scale == "choose" else float(self.scale)


class RowsConfig(Part):
    """Rows at most. Dev rows fall by a hash into `choose`, where scales are chosen, and `report`, where nothing is."""

    choose: Count = 300
    report: Count = 600
    held_out: Annotated[int, Field(ge=0)] = 200
    """Of the task families that no adapter saw. They choose nothing."""


class ScalesConfig(Part):
    """How a contestant's scale is looked for on the rows of `choose`."""

    grid: tuple[Annotated[float, Field(gt=0)], ...] = (0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
    walk: Literal["downhill", "every"] = "downhill"
    """`downhill`: from 1 until the loss rises; `every`: the whole grid, which a plot over scales needs."""
    steps: Annotated[int, Field(ge=0)] = 2
    """Steps to the vertex of a parabola through the best and its neighbors."""

    @model_validator(mode="after")
    def _starts_at_one(self) -> "ScalesConfig":
        if 1.0 not in self.grid or list(self.grid) != sorted(set(self.grid)):
            raise ValueError("the grid of scales rises and holds 1")
        return self


class ExactMatchConfig(Part):
    """Answers to the first rows of `report`, generated greedily and compared with the right one."""

    rows: Annotated[int, Field(ge=0)] = 0
    max_new_tokens: Count = 32


class GapConfig(Part):
    """The two contestants between which a share of the gap is closed: 0 at `start`, 1 at `end`."""

    start: str = "mean"
    end: str = "routed"


class MergesSettings(ExperimentSettings):
    """Libraries x seeds x contestants."""

    libraries: dict[Name, LibraryConfig] = Field(min_length=1)
    contestants: dict[Name, ContestantConfig] = Field(min_length=1)
    rows: RowsConfig = RowsConfig()
    scales: ScalesConfig = ScalesConfig()
    about: tuple[str, ...] = ()
    """The contestants that the answer speaks of, beside the best; with a sweep, its values or the name of all."""
    rivals: tuple[str, ...] = ("mean",)
    """Whom every contestant is compared with; `LIBRARY/NAME` is one of another library on the same rows."""
    gap: GapConfig | None = GapConfig()
    exact_match: ExactMatchConfig = ExactMatchConfig()
    by: Literal["none", "family", "task", "cluster"] = "none"
    """Groups of rows that figures are also given for."""
    by_min_rows: Count = 20
    """Over all seeds; groups with fewer are put together as `others`."""
    spectra: bool = False
    """Also measure how many directions each adapter of the library has, beside what merging costs its rows."""
    quality: bool = False
    """Also measure the clustering of each library, beside what contestants lose."""
    x_label: str = ""
    cache: str | None = None
    """A folder for losses that several experiments share; None: one in `output`."""
    batch_size: Count = 32

    @model_validator(mode="after")
    def _names_mean_something(self) -> "MergesSettings":
        names, found = set(self.entries), set(self.contestants) | set(self.entries)
        for where, given in (("about", self.about), ("rivals", [_own(rival) for rival in self.rivals])):
            if unknown := [name for name in given if name not in (found if where == "about" else names)]:
                raise ValueError(f"{where} names no contestant: {unknown[0]}")
        for name, one in self.contestants.items():
            if one.like is not None and (one.like not in names or self.entries[one.like].kind != "merge"):
                raise ValueError(f"{name} is like no merge of this experiment: {one.like}")
            if unknown := [library for library in one.libraries if library not in self.libraries]:
                raise ValueError(f"{name} is of no library of this experiment: {unknown[0]}")
        others = [rival.partition("/")[0] for rival in self.rivals if "/" in rival]
        if unknown := [library for library in others if library not in self.libraries]:
            raise ValueError(f"a rival is of no library of this experiment: {unknown[0]}")
        return self

    @model_validator(mode="after")
    def _ends_of_the_gap(self) -> "MergesSettings":
        if self.gap and (unknown := [n for n in (self.gap.start, self.gap.end) if n not in self.entries]):
            raise ValueError(f"gap names no contestant: {unknown[0]}; give `gap: null`, or an end that takes part")
        return self

    @property
    def entries(self) -> Mapping[str, ContestantConfig]:
        """The contestants by name, sweeps written out."""
        return {name: one for given, config in self.contestants.items() for name, one in _written_out(given, config)}

    def in_library(self, library: str) -> Mapping[str, ContestantConfig]:
        """Those that take part in a library."""
        return {name: one for name, one in self.entries.items() if not one.libraries or library in one.libraries}


def _own(rival: str) -> str:
    return rival.partition("/")[2] or rival


def _written_out(name: str, config: ContestantConfig) -> list[tuple[str, ContestantConfig]]:
    method = config.model_copy(update={"method": config.method or name}) if config.kind == "merge" else config
    if method.sweep is None:
        return [(name, method)]
    found = []
    for value in method.sweep.values:
        x = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        held = {"sweep": None, "series": method.series or name, "x": x}
        if method.sweep.over == "output_rank":
            held["output_rank"] = value
        else:
            held["params"] = {**method.params, method.sweep.over: value}
        found.append((f"{name} {method.sweep.over}={value}", method.model_copy(update=held)))
    return found
