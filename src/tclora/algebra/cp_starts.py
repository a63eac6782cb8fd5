"""Where alternating least squares starts from: two starts made of the core's singular vectors, and seeded normals.

No single start wins: adapters that share nothing are fitted best from their own singular triplets, adapters that share
directions from the singular vectors of the unfoldings or from random ones. Random numbers belong to (seed, start, mode)
and fill rows in order, so a problem's starts depend neither on its neighbors in the batch nor on how far its axes are
padded with zeros.
"""

import numpy as np
import torch
from torch import Tensor

from tclora.algebra.cp_exact import Triplets
from tclora.algebra.cp_sweep import State
from tclora.shapes import Float

__all__ = ["make_starts"]

_NOISE = 0.01


def make_starts(
    core: Float[Tensor, "m p q n"], triplets: Triplets, cp_rank: int, *, n_starts: int, seed: int
) -> tuple[State, tuple[str, ...]]:
    """The task-SVD start, the HOSVD start and `n_starts` normal ones, for every problem of a batch.

    Returns:
        The factors, and one name per start.
    """
    names = ("task_svd", "hosvd", *(f"normal_{k}" for k in range(n_starts)))
    draws = [_normals(core, cp_rank, seed=seed, start=k) for k in range(len(names))]
    starts = [_task_svd(triplets, draws[0]), _hosvd(core, draws[1]), *draws[2:]]
    factors = (torch.stack(mode, dim=1) for mode in zip(*starts, strict=True))
    return State(*(_masked(core, factor, axis) for axis, factor in enumerate(factors, start=1))), names


def _normals(core: Tensor, cp_rank: int, *, seed: int, start: int) -> tuple[Tensor, ...]:
    """Standard normal factors `(m, size, R)`, the same for every problem."""
    drawn = [
        np.random.default_rng([seed, start, mode]).standard_normal((size, cp_rank))
        for mode, size in enumerate(core.shape[1:])
    ]
    return tuple(torch.from_numpy(x).to(core).expand(core.shape[0], *x.shape) for x in drawn)


def _task_svd(triplets: Triplets, noise: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The R largest singular triplets of all adapters, each belonging to its adapter alone.

    Such a start is stationary in the adapter factor; a little noise lets adapters join in one another's terms.
    """
    m, n, k = triplets.values.shape
    cp_rank = noise[0].shape[2]
    order = torch.argsort(triplets.values.flatten(1), dim=1, descending=True, stable=True)[:, :cp_rank]
    owner, rows = order // k, torch.arange(m, device=order.device)[:, None]
    out_factor, in_factor = (side[rows, owner, :, order % k].mT for side in (triplets.left, triplets.right))
    size = triplets.values.flatten(1).gather(1, order)
    scale = size.amax(dim=1)[:, None, None]
    adapter_factor = torch.nn.functional.one_hot(owner, n).mT.to(size) * size[:, None]
    missing = cp_rank - order.shape[1]
    out_factor, in_factor, adapter_factor = (
        torch.nn.functional.pad(f, (0, missing)) for f in (out_factor, in_factor, adapter_factor)
    )
    empty = (torch.linalg.vector_norm(adapter_factor, dim=1, keepdim=True) <= 1e-12 * scale).to(size)
    return out_factor + empty * noise[0], in_factor + empty * noise[1], adapter_factor + _NOISE * scale * noise[2]


def _hosvd(core: Tensor, draws: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The leading left singular vectors of each unfolding; normals where the unfolding has no more."""
    return tuple(_leading(core, axis, draw) for axis, draw in enumerate(draws, start=1))


def _leading(core: Tensor, axis: int, draw: Tensor) -> Tensor:
    unfolding = core.movedim(axis, 1).flatten(2)
    # A Gram matrix is precise enough here: this is only a place to start from.
    values, vectors = torch.linalg.eigh(unfolding @ unfolding.mT)
    kept = min(draw.shape[2], values.shape[1])
    vectors, values = vectors.flip(2)[:, :, :kept], values.flip(1)[:, None, :kept]
    real = values > 1e-12 * values[:, :, :1]
    return torch.cat([torch.where(real, vectors, draw[:, :, :kept]), draw[:, :, kept:]], dim=2)


def _masked(core: Tensor, factor: Tensor, axis: int) -> Tensor:
    """Zero the rows that no entry of the core can inform."""
    used = core.movedim(axis, 1).flatten(2).abs().amax(dim=2) > 0
    return factor * used[:, None, :, None]
