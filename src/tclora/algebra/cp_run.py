"""Alternating least squares to convergence, for many starts of many problems, with extrapolation and a guard.

In: `Slices` of `m` tensors and a `State` of `s` starts each. Out: a `Run`, the states reached and how.

Three things are added to the plain sweep. Each start goes on from a point extrapolated along its last step, and falls
back to the plain step when that would raise the objective (squared error plus ridge penalty), so the objective never
rises while the ridge stays put. The ridge is a share of the squared error, so it vanishes from a fit that becomes
exact. And where terms begin to cancel one another the ridge is raised until they no longer do. A problem whose starts
have all settled leaves the batch.

Source: extrapolation with restarts as in Ang, Cohen, Gillis and Hien 2021 (arXiv 2001.04321); the degeneracy bounds as
in Bro 1997 (triple cosine) and Phan et al. 2019 (arXiv 1709.08349, energy of the terms).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tclora.algebra.cp_model import lowest_cosine
from tclora.algebra.cp_sweep import State, als_sweep, term_grams
from tclora.algebra.slices import Slices
from tclora.shapes import Bool, Float, Int

__all__ = ["LOWEST_COSINE", "MOST_ENERGY", "Run", "run_als"]

# Beyond these a fit counts as degenerate; the guard acts somewhat before.
LOWEST_COSINE, MOST_ENERGY = -0.85, 10.0
_WATCHED_COSINE, _WATCHED_ENERGY = -0.75, 6.0

# The ridge as a share of the squared error: at 1e-4 its bias in the relative error stays below 1e-6 for well-posed
# problems. The guard raises it from there by this factor at a time, at most to the last number (the core has norm 1).
_SHARE, _LEAST_RIDGE, _RAISE, _LARGEST_RIDGE = 1e-4, 1e-12, 2.0, 1e-2
_CHECK_EVERY = 10
_STRIDE, _GROW, _SHRINK, _LONGEST_STRIDE = 0.5, 1.1, 0.5, 5.0
# Rounding of the expanded norm, in units of rounding: a rise below this is none.
_ROUNDINGS = 50


@dataclass(frozen=True)
class Run:
    """Where each start ended; its relative error, good to half the digits; `n_iter` sweeps per problem; whether each
    start had settled."""

    state: State
    error: Float[Tensor, "m s"]
    n_iter: Int[Tensor, " m"]
    converged: Bool[Tensor, "m s"]

    def choose(self, rows: Tensor, best: Tensor) -> "Run":
        """Some of the starts, `best` `(m, k)` of them by index."""
        return Run(self.state.take((rows, best)), self.error[rows, best], self.n_iter, self.converged[rows, best])


@dataclass(frozen=True)
class _Walk:
    """The iteration between two sweeps: `here` is the best point, `ahead` where the next sweep begins."""

    here: State
    ahead: State
    error: Float[Tensor, "m s"]
    objective: Float[Tensor, "m s"]
    stride: Float[Tensor, "m s"]
    ridge: Float[Tensor, "m s"]
    floor: Float[Tensor, "m s"]
    seen: Float[Tensor, "m s"]

    def take(self, index: Tensor) -> "_Walk":
        numbers = (self.error, self.objective, self.stride, self.ridge, self.floor, self.seen)
        return _Walk(self.here.take(index), self.ahead.take(index), *(x[index] for x in numbers))


def run_als(slices: Slices, state: State, *, sweeps: int, tol: float) -> Run:
    """Sweep until the relative error changes by less than `tol` a sweep, or `sweeps` times."""
    m, s, device = *state.out_factor.shape[:2], state.out_factor.device
    reached = State(*(tensor.clone() for tensor in state.tensors()))
    n_iter = torch.zeros(m, dtype=torch.long, device=device)
    converged = torch.zeros(m, s, dtype=torch.bool, device=device)
    error = state.out_factor.new_zeros(m, s)
    active, walk = torch.arange(m, device=device), _begin(state)
    for sweep in range(1, sweeps + 1):
        walk = _step(slices, walk)
        last = sweep == sweeps
        if sweep % _CHECK_EVERY and not last:
            continue
        walk, settled = _inspect(slices, walk, tol)
        leaving = settled.all(dim=1) | last
        if not leaving.any():
            continue
        for whole, part in zip(reached.tensors(), walk.here.tensors(), strict=True):
            whole[active[leaving]] = part[leaving]
        n_iter[active[leaving]], converged[active[leaving]] = sweep, settled[leaving]
        error[active[leaving]] = walk.error[leaving].clamp(min=0).sqrt()
        if leaving.all():
            break
        active, slices, walk = active[~leaving], slices.take(~leaving), walk.take(~leaving)
    return Run(reached, error, n_iter, converged)


def _begin(state: State) -> _Walk:
    start = state.out_factor.new_ones(state.out_factor.shape[:2])
    infinite = start * float("inf")
    return _Walk(state, state, start, infinite, start * 0, start * _SHARE, start * _LEAST_RIDGE, infinite)


def _step(slices: Slices, walk: _Walk) -> _Walk:
    state, error = als_sweep(slices, walk.ahead, walk.ridge)
    objective = error + walk.ridge * _penalty(state)
    first = walk.objective.isinf()
    # A rejected start stays where it was and takes its next sweep from there, without extrapolation.
    better = objective <= walk.objective + _ROUNDINGS * torch.finfo(objective.dtype).eps
    # Nearly always all of them are better, and nothing need be copied.
    here = state if bool(better.all()) else walk.here.choose(state, better)
    grown = (walk.stride * _GROW).clamp(min=0.0, max=_LONGEST_STRIDE)
    stride = torch.where(first, _STRIDE, torch.where(better, grown, walk.stride * _SHRINK))
    reach = torch.where(better & ~first, stride, 0)
    return replace(
        walk,
        here=here,
        ahead=here.step(walk.here, reach),
        error=torch.where(better, error, walk.error),
        objective=torch.where(better, objective, walk.objective),
        stride=stride,
    )


def _inspect(slices: Slices, walk: _Walk, tol: float) -> tuple[_Walk, Tensor]:
    """Set the ridge anew and tell which starts have settled."""
    squared = walk.error.clamp(min=0)
    raised = (_RAISE * walk.ridge).clamp(max=_LARGEST_RIDGE)
    floor = torch.where(_cancelling(term_grams(slices, walk.here)), torch.maximum(raised, walk.floor), walk.floor)
    ridge = torch.maximum(_SHARE * squared, floor)
    objective = walk.error + ridge * _penalty(walk.here)
    settled = ((squared.sqrt() - walk.seen).abs() < _CHECK_EVERY * tol) & (floor == walk.floor)
    return replace(walk, objective=objective, ridge=ridge, floor=floor, seen=squared.sqrt()), settled


def _cancelling(grams: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    energy = torch.stack([gram.diagonal(dim1=-2, dim2=-1) for gram in grams]).prod(dim=0).sum(dim=-1)
    return (lowest_cosine(grams) < _WATCHED_COSINE) | (energy > _WATCHED_ENERGY)


def _penalty(swept: State) -> Tensor:
    """The squares of all entries, added up; a sweep leaves the three factors at equal norms, and this is the least."""
    return 3 * swept.adapter_factor.square().sum(dim=(-2, -1))
