"""CP models of many stacks at once: shortcuts where the optimum is known, else alternating least squares.

In: a `CompressedStack`, or dense cores `(m, p, q, n)` of any floating dtype; the work is in float64. Out: a `CpFit` in
the coordinates of what came in. Refused: NaN and infinity, by problem; a `cp_rank` below 1.

A problem's result depends on its own numbers, `cp_rank` and the seed, not on the other problems of its batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from tclora.algebra.compress import CompressedStack, compress_stack
from tclora.algebra.cp_columns import columns_apart, to_basis, to_columns, with_grams
from tclora.algebra.cp_exact import Terms, solve_directly
from tclora.algebra.cp_model import CpFactors, CpFit, canonical, triple_cosine
from tclora.algebra.cp_run import LOWEST_COSINE, MOST_ENERGY, Run, run_als
from tclora.algebra.cp_starts import make_starts
from tclora.algebra.cp_sweep import State
from tclora.algebra.slices import Slices, stack_of_core
from tclora.algebra.stack import blocks_of
from tclora.errors import ConfigError, NumericalError, ShapeError
from tclora.shapes import Float

__all__ = ["cp_als"]

# All starts take the first sweeps, the best eight some more, the finalists the rest. Sweeps are cheap and starts differ
# by far more than late sweeps gain, so many starts get a few sweeps and few get many.
_FIRST_SWEEPS, _N_SECOND, _SECOND_SWEEPS = 10, 8, 20
# Problems with at least this many numbers in a block are swept in float32, which costs less than half, unless their
# error comes near what float32 can tell from zero.
_MANY, _NEAR_ZERO = 2**14, 0.03
# A squared error below this share of what it is a difference of is taken from the residual: ten digits stay good.
_CANCELS = 1e-5
# Float64 numbers that one chunk of problems may hold at a time, about 256 MB.
_CHUNK_NUMBERS = 2**25


@dataclass(frozen=True)
class Effort:
    """How hard to look: sweeps per start at most, when a start has settled, how many starts, how many to the end."""

    max_iter: int
    tol: float
    n_starts: int
    n_finalists: int
    seed: int


@dataclass(frozen=True)
class _Solved:
    """One problem's result: factors with their scales still in them, and how they were found."""

    terms: Terms
    start: str
    n_iter: int = 0
    converged: bool = True
    exact: bool = True
    start_spread: float = 0.0


def cp_als(  # noqa: PLR0913 - all but the data and the rank are settings of the solver, by name
    core: Float[Tensor, "m p q n"] | CompressedStack,
    cp_rank: int,
    *,
    max_iter: int = 300,
    tol: float = 1e-7,
    n_starts: int = 20,
    n_finalists: int = 3,
    seed: int = 0,
) -> CpFit:
    """Fit a CP model of `cp_rank` terms to each of `m` cores by alternating least squares.

    Cores whose optimum is known (few enough terms, or a matrix in disguise) are solved by singular value
    decompositions. The others start from singular vectors in two ways and from `n_starts` random points; all are swept
    a little, the better ones some more, and the best `n_finalists` to the end. Fits whose terms cancel one another are
    steered away from, and flagged if nothing else is found.

    Args:
        max_iter: sweeps per start at most.
        tol: a start has settled when its relative error changes by less than this a sweep.

    Returns:
        Factors in the joint bases (or the axes of the core) and the facts of the fit, per problem, in float64 on the
        device of what came in.

    Raises:
        ShapeError: `cp_rank` is below 1, or an axis of the core is empty.
        ConfigError: `max_iter` is below 1, or `tol` or `n_starts` is negative.
        NumericalError: a core holds NaN or infinity; names its index.

    Source: Kolda and Bader 2009, section 3.4; used as in Su et al. 2025, arXiv 2508.03999.
    """
    effort = Effort(max_iter, tol, n_starts, n_finalists, seed)
    _check_request(cp_rank, effort)
    return _fit(core, cp_rank, effort) if isinstance(core, CompressedStack) else _fit_core(core, cp_rank, effort)


def _fit(core: CompressedStack, cp_rank: int, effort: Effort) -> CpFit:
    slices, scale = _unit_slices(core)
    solved: list[_Solved] = []
    widths = (*core.out_blocks.shape[1:], core.in_blocks.shape[1], core.n)
    per_problem = sum(widths[:1] + widths[2:]) * widths[1] + 4 * sum(widths) * cp_rank * (effort.n_starts + 2)
    for index in torch.arange(core.m, device=slices.out_blocks.device).split(max(1, _CHUNK_NUMBERS // per_problem)):
        solved += _solve_chunk(slices.take(index), cp_rank, effort)
    return _assemble(slices, scale, solved)


def _fit_core(core: Tensor, cp_rank: int, effort: Effort) -> CpFit:
    """The fit of dense cores: the slices become a stack, and the factors found go back to the axes of the core."""
    _check_core(core)
    compressed = compress_stack(stack_of_core(core.detach().double()))
    fit = _fit(compressed, cp_rank, effort)
    factors = fit.factors
    out_factor, in_factor = compressed.out_side.lift(factors.out_factor), compressed.in_side.lift(factors.in_factor)
    return replace(fit, factors=canonical(out_factor, in_factor, factors.adapter_factor * factors.weights[:, None]))


def _unit_slices(compressed: CompressedStack) -> tuple[Slices, Tensor]:
    """The slices of each problem at norm 1, and the norms; a problem that is zero stays so."""
    values = compressed.singular_values()
    # Scaling by the largest value first keeps the squares of very small and very large stacks in range.
    peak = values.amax(dim=1) if values.shape[1] else values.new_zeros(compressed.m)
    root = torch.where(peak > 0, peak, 1)
    size = torch.linalg.vector_norm(values / root[:, None], dim=1)
    root = (root.sqrt() * torch.where(size > 0, size, 1).sqrt())[:, None, None]
    return Slices(compressed.out_blocks / root, compressed.in_blocks / root, compressed.ranks), size * peak


def _solve_chunk(slices: Slices, cp_rank: int, effort: Effort) -> list[_Solved]:
    zero = (~slices.values.any(dim=1)).nonzero()[:, 0].tolist()
    solved = {j: _Solved(_no_terms(slices, cp_rank), "zero") for j in zero}
    found = enumerate(solve_directly(slices, cp_rank))
    solved.update({j: _Solved(terms, "svd") for j, terms in found if terms is not None})
    left = [j for j in range(slices.m) if j not in solved]
    for part, quick in _swept_alike(slices, torch.tensor(left, dtype=torch.long, device=slices.out_blocks.device)):
        fits = _best_of_starts(slices.take(part), quick, cp_rank, effort)
        solved.update(zip(part.tolist(), fits, strict=True))
    return [solved[j] for j in range(slices.m)]


def _swept_alike(slices: Slices, left: Tensor) -> Iterator[tuple[Tensor, Slices]]:
    """The problems that are left, by the way they are swept, and their slices as such sweeps want them."""
    # By its own height: the rows beyond are there for a neighbor in the batch.
    heights = (slices.out_blocks[left] != 0).any(dim=2).sum(dim=1)
    many = heights * slices.out_blocks.shape[2] >= _MANY
    few = left[~many]
    if len(few):
        yield few, slices.take(few)
    left = left[many]
    if len(left):
        single = slices.take(left).to(torch.float32)
        # More columns than dimensions are never apart, and their Gram matrices would be larger than they are.
        apart = torch.zeros_like(left, dtype=torch.bool)
        if single.out_blocks.shape[2] <= min(single.out_blocks.shape[1], single.in_blocks.shape[1]):
            single = with_grams(single)
            apart = columns_apart(single)
        for part, quick in ((apart, single), (~apart, replace(single, grams=None))):
            if part.any():
                yield left[part], quick.take(part)


def _no_terms(slices: Slices, cp_rank: int) -> Terms:
    sizes = (slices.out_blocks.shape[1], slices.in_blocks.shape[1], slices.n)
    out_factor, in_factor, adapter_factor = (slices.out_blocks.new_zeros(size, cp_rank) for size in sizes)
    return out_factor, in_factor, adapter_factor


def _best_of_starts(slices: Slices, quick: Slices, cp_rank: int, effort: Effort) -> list[_Solved]:
    """Sweep all starts a little, the better ones some more, and the best few to the end; one result per problem."""
    start, names = make_starts(quick, cp_rank, n_starts=effort.n_starts, seed=effort.seed)
    start = to_columns(quick, start)
    rows = torch.arange(slices.m, device=start.out_factor.device)[:, None]
    order = torch.arange(len(names), device=rows.device).expand(len(rows), -1)
    run, before, swept = None, 0, 0
    for n_kept, sweeps in _rounds(len(names), effort):
        if run is not None:
            best = torch.argsort(run.error, dim=1, stable=True)[:, :n_kept]
            order, start = order[rows, best], run.choose(rows, best).state
        last = swept + sweeps == effort.max_iter
        run = run_als(quick, start, sweeps=sweeps, tol=effort.tol if last else 0.0)
        before, swept = swept, swept + sweeps
    run = cast(Run, run)
    run = replace(run, state=to_basis(quick, run.state))
    if quick.out_blocks.dtype != slices.out_blocks.dtype:
        run = _polished(slices, run, effort)
    # A degenerate fit is taken only where all of them are.
    best = (run.error + 2 * _is_degenerate(run.state)).argmin(dim=1).tolist()
    spread = (run.error.amax(dim=1) - run.error.amin(dim=1)).tolist()
    winners = (names[k] for k in order[rows[:, 0], torch.tensor(best, device=order.device)].tolist())
    return [_pick(run, j, best[j], name, before, spread[j]) for j, name in enumerate(winners)]


def _rounds(n_starts: int, effort: Effort) -> list[tuple[int, int]]:
    """How many starts go on in each round, and for how many sweeps; the last round has all that are left."""
    rounds = [(n_starts, _FIRST_SWEEPS)]
    if n_starts > _N_SECOND:
        rounds.append((_N_SECOND, _SECOND_SWEEPS))
    rounds.append((effort.n_finalists, effort.max_iter))
    plan, left = [], effort.max_iter
    for n_kept, sweeps in rounds:
        if left > 0:
            plan.append((n_kept, min(sweeps, left)))
            left -= plan[-1][1]
    return plan


def _polished(slices: Slices, run: Run, effort: Effort) -> Run:
    """The run in float64, and swept on where float32 could not tell how small the error is."""
    run = replace(run, state=run.state.to(torch.float64), error=run.error.double())
    near = (run.error.amin(dim=1) < _NEAR_ZERO).nonzero()[:, 0]
    if len(near) == 0:
        return run
    again = run_als(slices.take(near), run.state.take(near), sweeps=effort.max_iter, tol=effort.tol)
    for whole, part in zip(run.state.factors(), again.state.factors(), strict=True):
        whole[near] = part
    run.error[near], run.converged[near] = again.error, again.converged
    run.n_iter[near] += again.n_iter
    return run


def _pick(run: Run, j: int, s: int, name: str, before: int, spread: float) -> _Solved:
    out_factor, in_factor, adapter_factor = (factor[j, s] for factor in run.state.factors())
    sweeps, converged = before + int(run.n_iter[j]), bool(run.converged[j, s])
    return _Solved((out_factor, in_factor, adapter_factor), name, sweeps, converged, False, spread)


def _is_degenerate(state: State) -> Tensor:
    energy = torch.stack([(factor * factor).sum(dim=-2) for factor in state.factors()]).prod(dim=0).sum(dim=-1)
    return (triple_cosine(*state.factors()) < LOWEST_COSINE) | (energy > MOST_ENERGY)


def _assemble(slices: Slices, size: Tensor, solved: list[_Solved]) -> CpFit:
    """Put factors of the unit problems into canonical form and give back their size."""
    out_factor, in_factor, adapter_factor = (torch.stack(mode) for mode in zip(*(x.terms for x in solved), strict=True))
    small = canonical(out_factor, in_factor, adapter_factor)
    cosine = triple_cosine(small.out_factor, small.in_factor, small.adapter_factor)
    energy = (small.weights**2).sum(dim=1)
    facts = {name: [getattr(x, name) for x in solved] for name in ("n_iter", "converged", "exact", "start_spread")}
    return CpFit(
        factors=replace(small, weights=small.weights * size[:, None]),
        relative_error=_residual(slices, small),
        start=tuple(x.start for x in solved),
        n_terms=(small.weights > 0).sum(dim=1),
        triple_cosine=cosine,
        weight_energy=energy,
        degenerate=(cosine < LOWEST_COSINE) | (energy > MOST_ENERGY),
        **{name: torch.tensor(values, device=size.device).to(_FACT_TYPES[name]) for name, values in facts.items()},
    )


def _residual(slices: Slices, model: CpFactors) -> Tensor:
    """The relative error of each problem: from the expanded square, or from the residual itself where that is small."""
    coordinates = model.coordinates()
    pairs = slices.add_up((slices.out_blocks.mT @ model.out_factor) * (slices.in_blocks.mT @ model.in_factor))
    grams = torch.stack([factor.mT @ factor for factor in (model.out_factor, model.in_factor, coordinates)])
    whole, shared = slices.size().square(), (pairs * coordinates).sum(dim=(1, 2))
    held = grams.prod(dim=0).sum(dim=(1, 2))
    squared = whole - 2 * shared + held
    # The expanded square is good to some roundings of the largest of its parts; far above that nothing is lost.
    small = squared < _CANCELS * torch.stack([whole, shared.abs(), held]).amax(dim=0)
    for j in small.nonzero()[:, 0].tolist():
        squared[j] = _rest(slices, j, (model.out_factor[j], coordinates[j], model.in_factor[j]))
    return squared.sqrt()


def _rest(slices: Slices, j: int, terms: Terms) -> Tensor:
    """The squared norm of what a model leaves of problem `j`, one adapter at a time."""
    out_factor, coordinates, in_factor = terms
    squared = out_factor.new_zeros(())
    for i, block in enumerate(blocks_of(slices.ranks)):
        rest = slices.out_blocks[j, :, block] @ slices.in_blocks[j, :, block].mT
        squared += (rest - (out_factor * coordinates[i]) @ in_factor.mT).square().sum()
    return squared


_FACT_TYPES = {"n_iter": torch.int64, "converged": torch.bool, "exact": torch.bool, "start_spread": torch.float64}


def _check_request(cp_rank: int, effort: Effort) -> None:
    if cp_rank < 1:
        raise ShapeError("a CP model has at least one term", found=f"cp_rank {cp_rank}", expected="cp_rank >= 1")
    if effort.max_iter < 1 or effort.n_starts < 0 or effort.n_finalists < 1 or not effort.tol >= 0:
        raise ConfigError(
            "the solver's settings are out of range",
            found=f"max_iter {effort.max_iter}, tol {effort.tol}, n_starts {effort.n_starts}, "
            f"n_finalists {effort.n_finalists}",
            expected="max_iter >= 1, tol >= 0, n_starts >= 0, n_finalists >= 1",
        )


def _check_core(core: Tensor) -> None:
    if core.ndim != 4 or 0 in core.shape:
        raise ShapeError("this is no batch of cores", found=tuple(core.shape), expected="(m, p, q, n), no axis empty")
    bad = (~torch.isfinite(core)).flatten(1).any(dim=1).nonzero()
    if len(bad):
        raise NumericalError(
            "a core holds NaN or infinity",
            where=f"problem {int(bad[0])} of {core.shape[0]}",
            expected="finite numbers",
            do="check the adapters this core was compressed from",
        )
