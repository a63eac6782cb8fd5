"""What an experiment of kind `merges` found: figures of each seed, figures over the seeds, and what was left out."""

from dataclasses import dataclass, field

from tclora.records.records import Score

__all__ = [
    "Contrast",
    "ExperimentCell",
    "ExperimentRecord",
    "GroupFigures",
    "LeftOut",
    "PooledFigures",
    "QualityRow",
    "SpectrumRow",
    "VersusRow",
]


@dataclass(frozen=True)
class Contrast:
    """A difference on the same rows with its 95 % interval, and p of no difference, plain and by Holm's correction."""

    value: float
    """Nats per response token; negative where the first is better."""
    low: float
    high: float
    p: float
    p_holm: float | None
    n_rows: int
    n_seeds: int


@dataclass(frozen=True)
class ExperimentCell:
    """One contestant of one library and seed."""

    library: str
    seed: int
    contestant: str
    rank: int | None
    """The largest over modules; None for the base, and for adapters chosen row by row."""
    scale: float
    scale_at_end: bool
    """Whether the best scale was the smallest or the largest that was tried."""
    losses_by_scale: dict[str, float]
    """On the rows of `choose`, nats per response token."""
    loss: dict[str, Score]
    """By fold, `report` and `held_out`, with an interval over rows."""
    less: dict[str, dict[str, Score]]
    """By rival and fold: the difference on the same rows."""
    exact_match: Score | None
    norm_to_mean: float | None
    """Frobenius norm at the chosen scale over that of the plain mean of the adapters."""
    cosine_to_mean: float | None
    relative_error: float | None
    """Of the method's own model of the adapters."""
    cut_error: float | None
    """The largest share of a module that was lost by the cut to the output rank; None where nothing was cut."""
    source: str | None = None
    """The adapter that was the best single one."""


@dataclass(frozen=True)
class PooledFigures:
    """One contestant of one library over all seeds: seeds are resampled first, then rows."""

    library: str
    contestant: str
    kind: str
    rank: int | None
    loss: dict[str, Score]
    less: dict[str, dict[str, Contrast]]
    gap_closed: dict[str, Score]
    """By fold; empty where the gap cannot be told from nothing."""
    exact_match: Score | None
    scales: tuple[float, ...]
    """One for each seed."""
    scale_at_end: bool
    norm_to_mean: float | None
    cosine_to_mean: float | None
    series: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class VersusRow:
    """A contestant that the experiment is about, against another one; Holm's correction is over all others."""

    library: str
    contestant: str
    other: str
    other_kind: str
    less: dict[str, Contrast]
    """By fold."""


@dataclass(frozen=True)
class GroupFigures:
    """One contestant on the rows of one group, `report` rows of all seeds together."""

    library: str
    group: str
    contestant: str
    n_rows: int
    loss: Score
    less: dict[str, Contrast]
    gap_closed: Score | None


@dataclass(frozen=True)
class SpectrumRow:
    """One adapter of a library: how many directions it has, and the losses of the rows of its cluster."""

    library: str
    seed: int
    adapter: str
    family: str
    """The commonest task family of its training rows."""
    family_share: float
    n_train: int
    norm: float
    effective_rank: float
    """The exponential of the entropy of the singular values, in the mean over modules."""
    participation: float
    cosine_to_mean: float
    """Cosine of the adapter with the mean of all, all modules as one vector."""
    n_rows: int
    losses: dict[str, float]
    """By contestant, on the `report` rows of its cluster; nats per response token."""


@dataclass(frozen=True)
class QualityRow:
    """The clustering of one library, and what contestants lose on its `report` rows."""

    library: str
    seed: int
    n_clusters: int
    balance: float
    """Entropy of the sizes over its largest value; 1 where all are equal."""
    silhouette: float
    purity: float | None
    """Share of training rows whose task is the commonest of their cluster."""
    task_nmi: float | None
    losses: dict[str, float]


@dataclass(frozen=True)
class LeftOut:
    """A contestant that could not be had, and why."""

    library: str
    seed: int
    contestant: str
    why: str


@dataclass(frozen=True)
class ExperimentRecord:
    """The whole experiment."""

    name: str
    base: str
    n_parameters: int
    seeds: tuple[int, ...]
    rows: dict[str, dict[str, int]]
    """By library and fold, over all seeds."""
    n_adapters: dict[str, tuple[int, ...]]
    """By library, of each seed."""
    cells: tuple[ExperimentCell, ...]
    pooled: tuple[PooledFigures, ...]
    versus: tuple[VersusRow, ...] = ()
    groups: tuple[GroupFigures, ...] = ()
    spectra: tuple[SpectrumRow, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
