"""CP models with a number of terms for each module: the fewest that explain a share of its energy, or as given.

In: a `CompressedStack` and a rule. Out: CP models padded with zero terms to one rank, so that they load as one adapter;
or, for the rule that shares one budget among all modules (`cp_budget`), what a few numbers of terms explain in each.
Refused: shares outside 0 to 1, rules that cannot be read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra.compress import CompressedStack
from tclora.algebra.cp import cp_als
from tclora.algebra.cp_bounds import cp_bounds
from tclora.algebra.cp_budget import RankCurve
from tclora.algebra.cp_model import CpFactors, CpFit
from tclora.algebra.joint_basis import Side
from tclora.errors import ConfigError

__all__ = ["CpSolver", "RankRule", "fit_at_ranks", "fit_to_energy", "parse_rank_rule", "rank_curves"]

CpSolver = Callable[[CompressedStack, int], CpFit]
"""Fits so many terms to every module of a stack."""


def _plain_solver(compressed: CompressedStack, cp_rank: int) -> CpFit:
    return cp_als(compressed, cp_rank)


@dataclass(frozen=True)
class RankRule:
    """How to choose ranks: a share of the `energy` to explain, or a `budget` of terms per module on average.

    Raises:
        ConfigError: not exactly one of the two is given, or it is out of range.
    """

    energy: float | None = None
    budget: float | None = None

    def __post_init__(self):
        if (self.energy is None) == (self.budget is None):
            raise ConfigError("a rule for ranks takes an energy or a budget", found=self, expected="one of the two")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError("the energy to explain is no share", found=self.energy, expected="above 0, at most 1")
        if self.budget is not None and not 1 <= self.budget < float("inf"):
            raise ConfigError("the budget of terms is too small", found=self.budget, expected=">= 1 per module")


def parse_rank_rule(text: str) -> RankRule:
    """Read `auto`, `auto:energy=0.9` or `auto:budget=20`; plain `auto` explains 0.9 of the energy.

    Raises:
        ConfigError: it is none of these.
    """
    head, colon, rest = text.strip().partition(":")
    name, _, value = rest.partition("=")
    try:
        if head == "auto" and name in ("energy", "budget"):
            return RankRule(**{name: float(value)})
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
    if head == "auto" and not colon:
        return RankRule(energy=0.9)
    raise ConfigError(
        "this is no rule for CP ranks", found=text, expected="a number, auto, auto:energy=0.9 or auto:budget=20"
    )


def fit_to_energy(compressed: CompressedStack, energy: float, *, solve: CpSolver = _plain_solver) -> CpFit:
    """CP models with the fewest terms, module by module, that explain a share `energy` of the tensor's energy.

    That is the smallest R with a squared relative error of at most `1 - energy`, found by trying ranks: upwards by
    doubling from the least that singular values allow, then by bisection. The result is padded with zero terms to the
    largest R of the batch; `n_terms` says how many each module uses.

    Raises:
        ConfigError: `energy` is not a share.
    """
    low, high = cp_bounds(compressed).ranks(energy)
    exact = max(1, compressed.out_blocks.shape[2])
    searches = [_Search(int(a), int(a) - 1, int(b), exact) for a, b in zip(low, high, strict=True)]
    while waiting := [j for j, search in enumerate(searches) if search.probe() is not None]:
        for rank, members in _grouped({j: searches[j].probe() or 1 for j in waiting}).items():
            fit = solve(_part(compressed, members), rank)
            # Rounding in a sum of squares must not ask for one term more.
            reached = fit.relative_error.square() <= 1 - energy + 1e-12
            for k, j in enumerate(members):
                searches[j] = searches[j].after(rank, _fit_of(fit, [k]), bool(reached[k]))
    return _side_by_side([search.fit for search in searches if search.fit is not None])


def fit_at_ranks(compressed: CompressedStack, cp_ranks: Sequence[int], *, solve: CpSolver = _plain_solver) -> CpFit:
    """CP models with a number of terms for each module, padded with zero terms to the largest."""
    found: dict[int, CpFit] = {}
    for rank, members in _grouped(dict(enumerate(cp_ranks))).items():
        fit = solve(_part(compressed, members), rank)
        found |= {j: _fit_of(fit, [k]) for k, j in enumerate(members)}
    return _side_by_side([found[j] for j in range(compressed.m)])


def rank_curves(
    compressed: CompressedStack, cp_ranks: Sequence[int], *, solve: CpSolver = _plain_solver
) -> tuple[RankCurve, ...]:
    """The energy explained by fits at the given ranks, and at the rank where it is all, for every module."""
    bounds = cp_bounds(compressed)
    ends = bounds.ranks(1.0)[1].tolist()
    points: list[dict[int, float]] = [{} for _ in ends]
    for rank in sorted(set(cp_ranks)):
        members = [j for j, end in enumerate(ends) if rank < end]
        if not members:
            continue
        error = solve(_part(compressed, members), rank).relative_error
        for k, j in enumerate(members):
            points[j][rank] = float(bounds.energy[j] * (1 - error[k].square()))
    for j, end in enumerate(ends):
        points[j][end] = float(bounds.energy[j])
    return tuple(RankCurve(tuple(p), tuple(p.values())) for p in points)


@dataclass(frozen=True)
class _Search:
    """One module's search: `low` terms do not reach the energy, `high` do, or should; `fit` is the model at `high`."""

    least: int
    low: int
    high: int
    exact: int
    fit: CpFit | None = None

    def probe(self) -> int | None:
        """The rank to try next; None when the search is over."""
        if self.high - self.low > 1:
            ahead = max(self.least, 2 * self.low)
            return min(ahead, max(self.low + 1, (self.low + self.high) // 2))
        return None if self.fit is not None else self.high

    def after(self, rank: int, fit: CpFit, reached: bool) -> "_Search":
        """What is known once `rank` has been tried."""
        if reached or rank >= self.exact:
            return replace(self, high=rank, fit=fit)
        # Singular values promised a model at `high`; where the solver misses it, only the exact rank is sure.
        return replace(self, low=rank, high=self.exact if rank >= self.high else self.high)


def _grouped(ranks: dict[int, int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for j, rank in ranks.items():
        groups.setdefault(rank, []).append(j)
    return groups


def _part(compressed: CompressedStack, members: Sequence[int]) -> CompressedStack:
    """The same stack with some of its modules."""
    if len(members) == compressed.m:
        return compressed
    return CompressedStack(
        names=tuple(compressed.names[j] for j in members),
        ranks=compressed.ranks,
        out_side=Side(tuple(compressed.out_side.bases[j] for j in members)),
        in_side=Side(tuple(compressed.in_side.bases[j] for j in members)),
        out_blocks=compressed.out_blocks[list(members)],
        in_blocks=compressed.in_blocks[list(members)],
    )


def _fit_of(fit: CpFit, members: list[int]) -> CpFit:
    """The fits of some of the problems."""
    return _rebuilt(fit, lambda values: [values[0][j] for j in members], [fit])


def _side_by_side(fits: list[CpFit]) -> CpFit:
    """Fits of single problems as one batch, their terms filled up with zero terms to one number."""
    width = max(fit.factors.weights.shape[1] for fit in fits)
    wide = [replace(fit, factors=_widened(fit.factors, width)) for fit in fits]
    return _rebuilt(fits[0], lambda values: [value[0] for value in values], wide)


def _widened(factors: CpFactors, width: int) -> CpFactors:
    spare = (0, width - factors.weights.shape[1])
    return CpFactors(**{field.name: pad(getattr(factors, field.name), spare) for field in fields(factors)})


def _rebuilt(like: Any, pick: Callable[[list], list], sources: list) -> Any:
    """A fit, or its factors, with the problems that `pick` takes from those of the sources, field by field."""
    made = {}
    for field in fields(like):
        values = [getattr(source, field.name) for source in sources]
        if isinstance(values[0], Tensor):
            made[field.name] = torch.stack(pick(values))
        elif isinstance(values[0], tuple):
            made[field.name] = tuple(pick(values))
        else:
            made[field.name] = _rebuilt(values[0], pick, values)
    return type(like)(**made)
