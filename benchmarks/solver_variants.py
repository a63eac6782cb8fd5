"""Ways to speed up alternating least squares, all on the same sweep, ridge and guard, for the solver study.

In: slices at norm 1 and the state the starts begin from. Out: a `Trace`, exact errors and CPU time at some sweeps. Each
variant is a step from one `_Walk` to the next, so they differ in nothing but where the next sweep begins. They use the
private parts of `cp_run` on purpose: what is measured is the code that ships.

Sources: extrapolation with restarts, Ang, Cohen, Gillis and Hien 2021 (arXiv 2001.04321); line search, Bro 1998 (the
N-way toolbox) and TensorLy's `parafac`; Anderson acceleration, Walker and Ni 2011, with a safeguard on the objective.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tclora.algebra import cp_run
from tclora.algebra.cp_sweep import State, als_sweep
from tclora.algebra.slices import Slices

__all__ = ["Trace", "Variant", "constants", "relative_error", "run_trace", "variants"]

Step = Callable[[Slices, Any, Any, int], tuple[Any, Any]]


@dataclass(frozen=True)
class Variant:
    """A step, what is kept of the solver's own constants, and the precision of the sweeps (None: the solver's rule)."""

    name: str
    step: Step
    changed: Mapping[str, float] = field(default_factory=dict)
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Trace:
    """Errors `(k, m, s)` after `sweeps[k]` sweeps, and the CPU seconds the whole batch had taken by then."""

    variant: str
    sweeps: tuple[int, ...]
    cpu_s: tuple[float, ...]
    errors: Tensor
    state: State


def variants() -> dict[str, Variant]:
    """All variants by name."""
    guard_off = {"_WATCHED_COSINE": -2.0, "_WATCHED_ENERGY": float("inf")}
    every = [
        Variant("plain", _plain),
        Variant("extrapolated", _extrapolated),
        Variant("line search", _line_search),
        Variant("anderson 3", _anderson(3)),
        Variant("anderson 5", _anderson(5)),
        Variant("stride to 2", _extrapolated, {"_LONGEST_STRIDE": 2.0}),
        Variant("stride to 10", _extrapolated, {"_LONGEST_STRIDE": 10.0}),
        Variant("stride grows by 1.2", _extrapolated, {"_GROW": 1.2}),
        Variant("stride to 20, grows by 1.2", _extrapolated, {"_GROW": 1.2, "_LONGEST_STRIDE": 20.0}),
        Variant("float64", _extrapolated, dtype=torch.float64),
        Variant("float32", _extrapolated, dtype=torch.float32),
        Variant("guard off", _extrapolated, guard_off),
        # Without a ridge the normal equations of float32 sweeps become singular.
        Variant("guard and ridge off", _extrapolated, {**guard_off, "_SHARE": 0.0}, torch.float64),
    ]
    return {variant.name: variant for variant in every}


def run_trace(variant: Variant, slices: Slices, start: State, checkpoints: tuple[int, ...], single: bool) -> Trace:
    """Sweep all starts to the last checkpoint; the errors are taken in float64 and not timed."""
    dtype = variant.dtype or (torch.float32 if single else torch.float64)
    work, cpu_s, times, errors = slices.to(dtype), 0.0, [], []
    with constants(cp_run, variant.changed):
        walk, memory = cp_run._begin(start.to(dtype)), None
        for sweep in range(1, checkpoints[-1] + 1):
            began = time.process_time()
            walk, memory = variant.step(work, walk, memory, sweep)
            if sweep % cp_run._CHECK_EVERY == 0:
                walk, _ = cp_run._inspect(work, walk, 0.0)
            cpu_s += time.process_time() - began
            if sweep in checkpoints:
                times.append(cpu_s)
                errors.append(relative_error(slices, walk.here))
    return Trace(variant.name, checkpoints, tuple(times), torch.stack(errors), walk.here.to(torch.float64))


@contextmanager
def constants(module: Any, changed: Mapping[str, Any]) -> Iterator[None]:
    """Give a module's constants other values for a while."""
    before = {name: getattr(module, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def relative_error(slices: Slices, state: State) -> Tensor:
    """The relative error of every start `(m, s)`, in float64, by the expanded norm: good to 1e-13 where it is above
    1e-3, as all errors of the study are; the study checks some against the dense residual."""
    return squared_error(slices, state.to(torch.float64)).clamp(min=0).sqrt()


def squared_error(slices: Slices, state: State) -> Tensor:
    """The squared relative error, in the precision of what comes in."""
    out, into, adapter = (factor.mT.contiguous() for factor in state.factors())
    sides = [
        (f.flatten(1, 2) @ b).unflatten(1, f.shape[1:3]) for f, b in zip((out, into), _blocks(slices), strict=True)
    ]
    spread = adapter.index_select(3, slices.owner)
    gram = (out @ out.mT) * (into @ into.mT) * (adapter @ adapter.mT)
    return 1 - 2 * (sides[0] * sides[1] * spread).sum(dim=(2, 3)) + gram.sum(dim=(2, 3))


def _blocks(slices: Slices) -> tuple[Tensor, Tensor]:
    return slices.out_blocks, slices.in_blocks


def _extrapolated(slices: Slices, walk: Any, memory: Any, sweep: int) -> tuple[Any, Any]:
    return cp_run._step(slices, walk), memory


def _plain(slices: Slices, walk: Any, memory: Any, sweep: int) -> tuple[Any, Any]:
    state, error = als_sweep(slices, walk.here, walk.ridge)
    return replace(walk, here=state, ahead=state, error=error), memory


def _line_search(slices: Slices, walk: Any, memory: Any, sweep: int) -> tuple[Any, Any]:
    """Every second sweep after the fifth: try a step of `sweep ** (1 / power)` along the last change, keep it if lower.

    A start whose tries fail four times in a row takes shorter ones from then on.
    """
    state, error = als_sweep(slices, walk.here, walk.ridge)
    if memory is None:
        memory = (torch.full_like(error, 3.0), torch.zeros_like(error))
    if sweep > 5 and sweep % 2 == 0:
        power, fails = memory
        size = sweep ** (1 / power) - 1
        far = replace(state.step(walk.here, size), in_factor=_further(state.in_factor, walk.here.in_factor, size))
        there = squared_error(slices, far)
        better = there + walk.ridge * cp_run._penalty(far) < error + walk.ridge * cp_run._penalty(state)
        state, error = state.choose(far, better), torch.where(better, there, error)
        fails = torch.where(better, 0, fails + 1)
        memory = (power + (fails == 4), torch.where(fails == 4, 0, fails))
    return replace(walk, here=state, ahead=state, error=error), memory


def _further(here: Tensor, before: Tensor, size: Tensor) -> Tensor:
    return torch.lerp(here, before, -size[:, :, None, None])


@dataclass
class _History:
    """The last differences of the points and of the residuals of the fixed-point map, a ring of `depth`."""

    residual: Tensor
    image: Tensor
    residual_steps: Tensor
    image_steps: Tensor


def _anderson(depth: int) -> Step:
    """Begin the next sweep from the mixture of the last points whose residuals cancel best.

    A start whose objective would rise goes back to where it was, and its history begins anew.
    """

    def step(slices: Slices, walk: Any, memory: Any, sweep: int) -> tuple[Any, Any]:
        state, error = als_sweep(slices, walk.ahead, walk.ridge)
        objective = error + walk.ridge * cp_run._penalty(state)
        better = objective <= walk.objective + cp_run._ROUNDINGS * torch.finfo(objective.dtype).eps
        here = walk.here.choose(state, better)
        image = _flat(state)
        residual = image - _flat(walk.ahead)
        ahead, memory = _mixed(here, image, residual, better, memory, sweep % depth, depth)
        error, objective = torch.where(better, error, walk.error), torch.where(better, objective, walk.objective)
        return replace(walk, here=here, ahead=ahead, error=error, objective=objective), memory

    return step


def _mixed(  # noqa: PLR0913 - the whole of one step
    here: State, image: Tensor, residual: Tensor, better: Tensor, memory: Any, place: int, depth: int
) -> tuple[State, _History]:
    if memory is None:
        empty = image.new_zeros(*image.shape[:2], depth, image.shape[2])
        return here, _History(residual, image, empty, empty.clone())
    memory.residual_steps[:, :, place] = residual - memory.residual
    memory.image_steps[:, :, place] = image - memory.image
    memory.residual_steps *= better[:, :, None, None]
    gram = memory.residual_steps @ memory.residual_steps.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    eye = torch.eye(depth, dtype=gram.dtype)
    # A little damping: the steps soon point the same way. 1e-6 is far above rounding in either precision.
    gram = gram + (1e-6 * size + torch.finfo(gram.dtype).tiny) * eye
    mix, _ = torch.linalg.solve_ex(gram, memory.residual_steps @ residual[..., None])
    ahead = image - (memory.image_steps.mT @ mix)[..., 0]
    memory.residual, memory.image = residual, image
    return here.choose(_unflat(ahead, here), better), memory


def _flat(state: State) -> Tensor:
    """What a sweep reads, `(m, s, (p + n) R)`."""
    return torch.cat([state.out_factor.mT.flatten(2), state.adapter_factor.mT.flatten(2)], dim=2)


def _unflat(flat: Tensor, like: State) -> State:
    (p, rank), n = like.out_factor.shape[2:], like.adapter_factor.shape[2]
    out, adapter = flat.split([p * rank, n * rank], dim=2)
    return State(out.unflatten(2, (rank, p)).mT, like.in_factor, adapter.unflatten(2, (rank, n)).mT)
