"""CP models of many cores at once: shortcuts where the optimum is known, else alternating least squares.

In: cores `(m, p, q, n)`, in any floating-point dtype; the work is in float64. Out: a `CpFit`. Refused: NaN and
infinity, by problem; a `cp_rank` below 1.

A problem's result depends on its own numbers, `cp_rank` and the seed, not on the other problems of its batch.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tclora.algebra.cp_exact import Terms, Triplets, slice_triplets, solve_directly
from tclora.algebra.cp_model import CpFit, canonical, relative_residual, triple_cosine
from tclora.algebra.cp_run import LOWEST_COSINE, MOST_ENERGY, Run, run_als
from tclora.algebra.cp_starts import make_starts
from tclora.algebra.cp_sweep import State, Views, residual, views_of
from tclora.errors import ConfigError, NumericalError, ShapeError
from tclora.shapes import Float

__all__ = ["cp_als"]

# Rounds of screening: so many sweeps for all starts, then for the best few. Sweeps are cheap and starts differ by far
# more than late sweeps gain, so many starts get a few sweeps and few get many.
_ROUNDS = ((10, 8), (20, 3))
# Float64 numbers that one chunk of problems may hold at a time, about 256 MB.
_CHUNK_NUMBERS = 2**25


@dataclass(frozen=True)
class _Solved:
    """One problem's result: factors with their scales still in them, and how they were found."""

    terms: Terms
    start: str
    n_iter: int = 0
    converged: bool = True
    exact: bool = True
    start_spread: float = 0.0


def cp_als(
    core: Float[Tensor, "m p q n"],
    cp_rank: int,
    *,
    max_iter: int = 300,
    tol: float = 1e-7,
    n_starts: int = 20,
    seed: int = 0,
) -> CpFit:
    """Fit a CP model of `cp_rank` terms to each of `m` cores by alternating least squares.

    Cores whose optimum is known (few enough terms, or a matrix in disguise) are solved by singular value
    decompositions. The others start from singular vectors in two ways and from `n_starts` random points; all are swept
    a little, the better ones some more, and the best three to the end. Fits whose terms cancel one another are steered
    away from, and flagged if nothing else is found.

    Args:
        max_iter: sweeps per start at most.
        tol: a start has settled when its relative error changes by less than this a sweep.

    Returns:
        Factors and the facts of the fit, per problem, in float64 on the device of the core.

    Raises:
        ShapeError: `cp_rank` is below 1, or an axis of the core is empty.
        ConfigError: `max_iter` is below 1, or `tol` or `n_starts` is negative.
        NumericalError: a core holds NaN or infinity; names its index.

    Source: Kolda and Bader 2009, section 3.4; used as in Su et al. 2025, arXiv 2508.03999.
    """
    _check_request(core, cp_rank, max_iter=max_iter, tol=tol, n_starts=n_starts)
    core = core.detach().double()
    # Scaling by the largest entry first keeps the squares of very small and very large cores in range.
    peak = core.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = core / torch.where(peak > 0, peak, 1)
    size = torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)
    unit, order = _sorted_by_size(scaled / torch.where(size > 0, size, 1))
    solved: list[_Solved] = []
    per_problem = core[0].numel() * 4 + sum(core.shape[1:3]) * core.shape[3] * cp_rank * (n_starts + 2)
    for chunk in unit.split(max(1, _CHUNK_NUMBERS // per_problem)):
        solved += _solve_chunk(chunk, cp_rank, max_iter=max_iter, tol=tol, n_starts=n_starts, seed=seed)
    return _assemble(unit, order, (size * peak)[:, 0, 0], solved)


def _sorted_by_size(unit: Tensor) -> tuple[Tensor, Tensor]:
    """The cores with their adapters from large to small, so that no order of the caller's picks the local optimum."""
    order = torch.argsort(torch.linalg.vector_norm(unit, dim=(1, 2)), dim=1, descending=True, stable=True)
    return torch.gather(unit, 3, order[:, None, None].expand_as(unit)), order


def _solve_chunk(unit: Tensor, cp_rank: int, *, max_iter: int, tol: float, n_starts: int, seed: int) -> list[_Solved]:
    triplets = slice_triplets(unit, cp_rank)
    solved = {j: _shortcut(unit[j], triplets, j, cp_rank) for j in range(unit.shape[0])}
    left = [j for j, found in solved.items() if found is None]
    if left:
        index = torch.tensor(left, device=unit.device)
        start, names = make_starts(unit[index], triplets.take(index), cp_rank, n_starts=n_starts, seed=seed)
        fits = _best_of_starts(views_of(unit[index]), start, names, max_iter=max_iter, tol=tol)
        solved.update(zip(left, fits, strict=True))
    return [found for found in solved.values() if found is not None]


def _shortcut(unit: Tensor, triplets: Triplets, j: int, cp_rank: int) -> _Solved | None:
    if not unit.any():
        p, q, n = (unit.new_zeros(size, cp_rank) for size in unit.shape)
        return _Solved((p, q, n), "zero")
    terms = solve_directly(unit, triplets, j, cp_rank)
    return None if terms is None else _Solved(terms, "svd")


def _best_of_starts(views: Views, start: State, names: tuple[str, ...], *, max_iter: int, tol: float) -> list[_Solved]:
    """Sweep all starts a little, the better ones some more, and the best few to the end; one result per problem."""
    rows = torch.arange(start.out_factor.shape[0], device=start.out_factor.device)[:, None]
    order = torch.arange(len(names), device=rows.device).expand(len(rows), -1)
    state, swept = start, 0
    for sweeps, n_kept in _ROUNDS:
        sweeps = min(sweeps, max_iter - swept)
        state, swept = run_als(views, state, sweeps=sweeps, tol=0.0).state if sweeps else state, swept + sweeps
        best = torch.argsort(residual(views, state), dim=1, stable=True)[:, :n_kept]
        state, order = State(*(factor[rows, best] for factor in state.factors())), order[rows, best]
    run = run_als(views, state, sweeps=max_iter - swept, tol=tol)
    error, spoilt = residual(views, run.state), _is_degenerate(run.state)
    # A degenerate fit is taken only where all of them are.
    best = (error + 2 * spoilt).argmin(dim=1).tolist()
    spread = (error.amax(dim=1) - error.amin(dim=1)).tolist()
    winners = (names[k] for k in order[rows[:, 0], torch.tensor(best, device=order.device)].tolist())
    return [_pick(run, j, best[j], name, swept, spread[j]) for j, name in enumerate(winners)]


def _pick(run: Run, j: int, s: int, name: str, swept: int, spread: float) -> _Solved:
    out_factor, in_factor, adapter_factor = (factor[j, s] for factor in run.state.factors())
    sweeps, converged = swept + int(run.n_iter[j]), bool(run.converged[j, s])
    return _Solved((out_factor, in_factor, adapter_factor), name, sweeps, converged, False, spread)


def _is_degenerate(state: State) -> Tensor:
    energy = torch.stack([(factor * factor).sum(dim=-2) for factor in state.factors()]).prod(dim=0).sum(dim=-1)
    return (triple_cosine(*state.factors()) < LOWEST_COSINE) | (energy > MOST_ENERGY)


def _assemble(unit: Tensor, order: Tensor, size: Tensor, solved: list[_Solved]) -> CpFit:
    """Put factors of the unit cores into canonical form; give back the size of the cores and the order of adapters."""
    out_factor, in_factor, adapter_factor = (torch.stack(mode) for mode in zip(*(x.terms for x in solved), strict=True))
    small = canonical(out_factor, in_factor, adapter_factor)
    back = order.argsort(dim=1)[:, :, None].expand_as(small.adapter_factor)
    adapters = torch.gather(small.adapter_factor, 1, back)
    cosine = triple_cosine(small.out_factor, small.in_factor, small.adapter_factor)
    energy = (small.weights**2).sum(dim=1)
    facts = {name: [getattr(x, name) for x in solved] for name in ("n_iter", "converged", "exact", "start_spread")}
    return CpFit(
        factors=replace(small, weights=small.weights * size, adapter_factor=adapters),
        relative_error=relative_residual(unit, small),
        start=tuple(x.start for x in solved),
        n_terms=(small.weights > 0).sum(dim=1),
        triple_cosine=cosine,
        weight_energy=energy,
        degenerate=(cosine < LOWEST_COSINE) | (energy > MOST_ENERGY),
        **{name: torch.tensor(values, device=unit.device).to(_FACT_TYPES[name]) for name, values in facts.items()},
    )


_FACT_TYPES = {"n_iter": torch.int64, "converged": torch.bool, "exact": torch.bool, "start_spread": torch.float64}


def _check_request(core: Tensor, cp_rank: int, *, max_iter: int, tol: float, n_starts: int) -> None:
    if cp_rank < 1:
        raise ShapeError("a CP model has at least one term", found=f"cp_rank {cp_rank}", expected="cp_rank >= 1")
    if core.ndim != 4 or 0 in core.shape:
        raise ShapeError("this is no batch of cores", found=tuple(core.shape), expected="(m, p, q, n), no axis empty")
    if max_iter < 1 or n_starts < 0 or not tol >= 0:
        raise ConfigError(
            "the solver's settings are out of range",
            found=f"max_iter {max_iter}, tol {tol}, n_starts {n_starts}",
            expected="max_iter >= 1, tol >= 0, n_starts >= 0",
        )
    bad = (~torch.isfinite(core)).flatten(1).any(dim=1).nonzero()
    if len(bad):
        raise NumericalError(
            "a core holds NaN or infinity",
            where=f"problem {int(bad[0])} of {core.shape[0]}",
            expected="finite numbers",
            do="check the adapters this core was compressed from",
        )
