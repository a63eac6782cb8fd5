"""What the testbeds found: planted adapters recovered, CP models fitted again and again, pairs of skills joined."""

from dataclasses import dataclass, field

from tclora.records.experiment import Contrast
from tclora.records.records import Score

__all__ = [
    "PlantedCell",
    "PlantedFigures",
    "PlantedMarginal",
    "PlantedRecord",
    "SkillAlone",
    "SkillCell",
    "SkillFigures",
    "SkillsRecord",
    "StabilityCell",
    "StabilityFigures",
]

Point = dict[str, bool | int | float]


@dataclass(frozen=True)
class PlantedCell:
    """One merge of one planted world, against one truth."""

    grid: str
    point: Point
    seed: int
    contestant: str
    rank: int | str
    """The output rank that was asked for, or `full`."""
    truth: str
    error: float
    """Frobenius norm of the difference from the truth over that of the truth, as the merge stands."""
    best_scale: float
    """The factor at which it comes nearest to the truth, which only who knows the truth can tell."""
    best_error: float


@dataclass(frozen=True)
class PlantedFigures:
    """One contestant over all worlds: seeds are resampled first, then worlds."""

    contestant: str
    rank: int | str
    truth: str
    error: Score
    best_error: Score
    less: dict[str, Contrast]
    """By rival: the difference of `best_error` on the same worlds; negative where the contestant is nearer."""


@dataclass(frozen=True)
class PlantedMarginal:
    """One contestant over the worlds of a grid that share the value of one setting."""

    grid: str
    setting: str
    value: bool | int | float
    contestant: str
    truth: str
    best_error: Score


@dataclass(frozen=True)
class StabilityCell:
    """Where one start of one module's CP model ended."""

    noise: float
    cp_rank: int
    sweeps: int
    seed: int
    module: str
    start: str
    relative_error: float
    factor_match: float
    converged: bool


@dataclass(frozen=True)
class StabilityFigures:
    """All starts, modules and seeds of one noise, number of terms and sweeps."""

    noise: float
    cp_rank: int
    sweeps: int
    n_models: int
    """Modules times seeds."""
    error: float
    """The solver's own choice among its starts, in the mean over models."""
    error_spread: float
    """The worst start less the best, of each model, in the mean over models."""
    share_near: float
    """Of the single starts: those as good as the best of their model."""
    match: float
    """The solver's own choice, in the mean over models."""
    match_lowest: float
    """Its lowest model."""
    match_starts: float
    """The mean over all single starts."""


@dataclass(frozen=True)
class PlantedRecord:
    """The whole experiment."""

    name: str
    seeds: tuple[int, ...]
    n_worlds: int
    """Of each seed."""
    figures: tuple[PlantedFigures, ...]
    marginals: tuple[PlantedMarginal, ...]
    stability: tuple[StabilityFigures, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SkillCell:
    """One contestant on the joint test of one pair, at one size and seed."""

    size: str
    pair: str
    seed: int
    contestant: str
    rank: int | None
    scale: float
    exact: float
    """Share of answers that are right to the letter."""
    content: float
    """Share of answers with the right content, in whatever format."""
    format: float
    """Share of answers in the format that was asked for, whatever their content."""
    n_rows: int


@dataclass(frozen=True)
class SkillFigures:
    """One contestant of one size over all seeds, and all pairs (`pair` is empty) or one: seeds resampled first."""

    size: str
    pair: str
    contestant: str
    rank: int | None
    exact: Score
    content: Score
    format: Score
    less: dict[str, Contrast]
    """By rival: the difference of exact match on the same questions; positive where the contestant is better."""
    gap_closed: Score | None
    scales: tuple[float, ...]


@dataclass(frozen=True)
class SkillAlone:
    """One skill's own adapter on its own test, in the mean over seeds, and the base without it."""

    size: str
    skill: str
    exact: Score
    base: Score


@dataclass(frozen=True)
class SkillsRecord:
    """The whole experiment."""

    name: str
    base: str
    seeds: tuple[int, ...]
    alone: tuple[SkillAlone, ...]
    figures: tuple[SkillFigures, ...]
    cells: tuple[SkillCell, ...]
    settings: dict[str, object] = field(default_factory=dict)
