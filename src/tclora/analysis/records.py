"""What an analysis states: frozen records of plain numbers, JSON in and out through `tclora.records`.

Shares and cosines have no unit. A figure is None where it is not defined: of a pair with an adapter that lacks the
module, of something shared by fewer than two adapters, of a CP model that was not asked for. `definitions` says what
each means.
"""

from dataclasses import dataclass

__all__ = ["AdapterFigures", "Analysis", "CpFigures", "FitPoint", "ModuleFigures", "PairFigures", "Summary"]


@dataclass(frozen=True)
class AdapterFigures:
    """One adapter in one module."""

    adapter: str
    rank: int
    norm: float
    effective_rank: float
    participation: float


@dataclass(frozen=True)
class PairFigures:
    """Two adapters in one module, or over all modules (`cosine` alone)."""

    first: str
    second: str
    cosine: float | None
    out_cosine_mean: float | None = None
    out_cosine_largest: float | None = None
    out_cosine_smallest: float | None = None
    in_cosine_mean: float | None = None
    in_cosine_largest: float | None = None
    in_cosine_smallest: float | None = None
    sign_conflict: float | None = None
    sign_conflict_weighted: float | None = None


@dataclass(frozen=True)
class CpFigures:
    """The CP model of one module and how far it may be trusted."""

    cp_rank: int
    n_terms: int
    fit: float
    sti: float
    sti_ratio: float
    shared_energy: float | None
    participation: tuple[float, ...]
    """Of each term, terms by descending weight."""
    weights: tuple[float, ...]
    start: str
    n_iter: int
    converged: bool
    exact: bool
    start_spread: float
    triple_cosine: float
    weight_energy: float
    degenerate: bool


@dataclass(frozen=True)
class FitPoint:
    """How well a CP model of `cp_rank` terms can fit: bounds from singular values, and a fit where one was made."""

    cp_rank: int
    fit_at_least: float
    fit_at_most: float
    fit: float | None = None


@dataclass(frozen=True)
class ModuleFigures:
    """All figures of one module."""

    module: str
    layer: int | None
    kind: str
    d_out: int
    d_in: int
    n_present: int
    norm: float
    sti: float
    sti_ratio: float
    cosine: float | None
    out_cosine: float | None
    in_cosine: float | None
    shared_energy: float | None
    sign_conflict: float | None
    sign_conflict_weighted: float | None
    pair_sign_conflict: float | None
    cancelled: float | None
    out_effective_rank: float
    out_participation: float
    in_effective_rank: float
    in_participation: float
    adapters: tuple[AdapterFigures, ...]
    pairs: tuple[PairFigures, ...]
    curve: tuple[FitPoint, ...]
    cp: CpFigures | None = None


@dataclass(frozen=True)
class Summary:
    """Plain means over the modules of a layer, a kind, both, or all; `all` stands for any layer or kind."""

    layer: str
    kind: str
    n_modules: int
    norm: float
    sti_ratio: float
    cosine: float | None
    shared_energy: float | None
    pair_sign_conflict: float | None
    cancelled: float | None
    cp_sti_ratio: float | None = None
    cp_fit: float | None = None
    cp_shared_energy: float | None = None


@dataclass(frozen=True)
class Analysis:
    """Where the adapters of a library collide."""

    adapters: tuple[str, ...]
    n_modules: int
    cp_rank: int | None
    seed: int
    total: Summary
    cells: tuple[Summary, ...]
    """Per layer and kind, then per layer, then per kind."""
    pairs: tuple[PairFigures, ...]
    """Cosines of whole adapters, all modules together."""
    modules: tuple[ModuleFigures, ...]
    notes: tuple[str, ...] = ()
