"""Second-order polishing for the solver study: damped Gauss-Newton on all factors at once, after some sweeps of ALS.

In: slices at norm 1 and the state to go on from. Out: errors and CPU time after some steps. Each step solves
`(J'J + (ridge + damping) I) v = -gradient` by conjugate gradients, with the blocks of one factor as preconditioner;
products with J'J need Gram matrices of the factors only, never the tensor. The damping falls where the model of the
objective held and grows where it did not; a step that raises the objective is not taken. In float64.

Source: Sorber, Van Barel and De Lathauwer 2013 (matrix-free nonlinear least squares, block-Jacobi preconditioner).
"""

import time

import torch
from torch import Tensor

from tclora.algebra.cp_sweep import State
from tclora.algebra.slices import Slices

__all__ = ["gauss_newton"]

_INNER, _LOOSE = 15, 0.05
_Rows = list[Tensor]


def gauss_newton(
    slices: Slices, state: State, ridge: Tensor, checkpoints: tuple[int, ...]
) -> tuple[list[float], list[State]]:
    """Where every start is after each of `checkpoints` steps, and the CPU seconds of the batch by then."""
    point = [factor.mT.contiguous() for factor in state.factors()]
    damping, began, times, states = torch.full_like(ridge, 1e-3), time.process_time(), [], []
    objective, gradient = _objective(slices, point, ridge)
    for step in range(1, checkpoints[-1] + 1):
        grams = [rows @ rows.mT for rows in point]
        move, gain = _solve(point, grams, gradient, ridge + damping)
        trial = [a + b for a, b in zip(point, move, strict=True)]
        there, gradient_there = _objective(slices, trial, ridge)
        better = there < objective
        held = (objective - there) / gain.clamp(min=1e-300)
        damping = torch.where(better, damping * torch.where(held > 0.5, 0.3, 1.0), damping * 4)
        pick = better[..., None, None]
        point = [torch.where(pick, b, a) for a, b in zip(point, trial, strict=True)]
        gradient = [torch.where(pick, b, a) for a, b in zip(gradient, gradient_there, strict=True)]
        objective = torch.where(better, there, objective)
        if step in checkpoints:
            times.append(time.process_time() - began)
            states.append(State(*(rows.mT for rows in point)))
    return times, states


def _objective(slices: Slices, point: _Rows, ridge: Tensor) -> tuple[Tensor, _Rows]:
    """Squared error plus ridge penalty, and half its gradient; factors as rows, `(m, s, R, size)`."""
    out, into, adapter = point
    out_side, in_side = _times(out, slices.out_blocks), _times(into, slices.in_blocks)
    spread = adapter.index_select(3, slices.owner)
    both = out_side * in_side
    mttkrps = [
        _times(in_side * spread, slices.out_blocks.mT),
        _times(out_side * spread, slices.in_blocks.mT),
        torch.zeros_like(adapter).index_add_(3, slices.owner, both),
    ]
    grams = [rows @ rows.mT for rows in point]
    match, whole = (both * spread).sum(dim=(2, 3)), (grams[0] * grams[1] * grams[2]).sum(dim=(2, 3))
    penalty = sum((rows * rows).sum(dim=(2, 3)) for rows in point)
    pulls = zip(_others(grams), point, mttkrps, strict=True)
    gradient = [gram @ rows - mttkrp + ridge[..., None, None] * rows for gram, rows, mttkrp in pulls]
    return 1 - 2 * match + whole + ridge * penalty, gradient


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    return (rows.flatten(1, 2) @ matrix).unflatten(1, rows.shape[1:3])


def _others(grams: list[Tensor]) -> list[Tensor]:
    return [grams[1] * grams[2], grams[0] * grams[2], grams[0] * grams[1]]


def _solve(point: _Rows, grams: list[Tensor], gradient: _Rows, shift: Tensor) -> tuple[_Rows, Tensor]:
    """A step by preconditioned conjugate gradients, and the fall of the objective that the quadratic model expects."""
    eye = shift[..., None, None] * torch.eye(grams[0].shape[-1], dtype=shift.dtype)
    inverses = [torch.cholesky_inverse(torch.linalg.cholesky_ex(gram + eye)[0]) for gram in _others(grams)]
    x = [torch.zeros_like(rows) for rows in point]
    rest = [-rows for rows in gradient]
    z = [inverse @ rows for inverse, rows in zip(inverses, rest, strict=True)]
    way, energy = z, _dot(rest, z)
    aim = _LOOSE**2 * energy
    for _ in range(_INNER):
        image = _normal_product(point, grams, way, shift)
        # A start that is solved stands still while the others go on.
        length = torch.where(energy > aim, energy / _dot(way, image).clamp(min=1e-300), 0)[..., None, None]
        x = [a + length * b for a, b in zip(x, way, strict=True)]
        rest = [a - length * b for a, b in zip(rest, image, strict=True)]
        z = [inverse @ rows for inverse, rows in zip(inverses, rest, strict=True)]
        energy, before = _dot(rest, z), energy
        if not (energy > aim).any():
            break
        turn = (energy / before.clamp(min=1e-300))[..., None, None]
        way = [a + turn * b for a, b in zip(z, way, strict=True)]
    # phi(x) - phi(0) = 2 g.x + x.H x, with H x = -g - rest.
    return x, -_dot(gradient, x) + _dot(rest, x)


def _normal_product(point: _Rows, grams: list[Tensor], way: _Rows, shift: Tensor) -> _Rows:
    """`(J'J + shift) way`, from R x R products."""
    crossed = [v @ rows.mT for v, rows in zip(way, point, strict=True)]
    images = []
    for mode in range(3):
        j, k = (other for other in range(3) if other != mode)
        mixed = (crossed[j] * grams[k] + grams[j] * crossed[k]).mT
        images.append(_others(grams)[mode] @ way[mode] + mixed @ point[mode] + shift[..., None, None] * way[mode])
    return images


def _dot(left: _Rows, right: _Rows) -> Tensor:
    return sum(((a * b).sum(dim=(2, 3)) for a, b in zip(left, right, strict=True)), torch.zeros(()))
