"""Where alternating least squares starts from: two starts made of singular vectors, and seeded normals.

No single start wins: adapters that share nothing are fitted best from their own singular triplets, adapters that share
directions from the singular vectors of the unfoldings or from random ones. A start is an out and an adapter factor,
since the first solve of a sweep finds the in factor.

A random direction is a random mixture of the adapters' own directions, so it turns with the bases, and the coefficients
belong to the seed, the start, the adapter's place from large to small and the direction's place in its adapter: neither
the basis, nor the order of the adapters, nor the neighbors in the batch choose the local optimum.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tclora.algebra.cp_sweep import State
from tclora.algebra.slices import Slices

__all__ = ["make_starts"]

_NOISE = 0.01
# Above this many columns the Gram matrix of the adapters costs more than it gives, and normals take its place.
_MOST_COLUMNS = 2048
# Where this many times fewer vectors are wanted than there are, a few powers of the matrix find them.
_FEW, _POWERS = 4, 3


def make_starts(slices: Slices, cp_rank: int, *, n_starts: int, seed: int) -> tuple[State, tuple[str, ...]]:
    """The task-SVD start, the HOSVD start and `n_starts` normal ones, for every problem of a batch.

    Returns:
        The factors (the in factor is zero: the first sweep does not read it), and one name per start.
    """
    names = ("task_svd", "hosvd", *(f"normal_{k}" for k in range(n_starts)))
    rank_of = _by_size(slices)
    draws = [_normals(slices, rank_of, cp_rank, seed=seed, start=k) for k in range(len(names))]
    starts = [_task_svd(slices, draws[0]), _hosvd(slices, draws[1]), *draws[2:]]
    out_factor, adapter_factor = (torch.stack(mode, dim=1) for mode in zip(*starts, strict=True))
    in_shape = (slices.m, len(names), slices.in_blocks.shape[1], cp_rank)
    return State(out_factor, out_factor.new_zeros(in_shape), adapter_factor), names


def _by_size(slices: Slices) -> Tensor:
    """The place of each adapter from large to small, `(m, n)`."""
    size = slices.add_up(slices.values.square())
    return size.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _normals(slices: Slices, place: Tensor, cp_rank: int, *, seed: int, start: int) -> tuple[Tensor, Tensor]:
    """Mixtures of the adapters' directions with normal coefficients, and a normal adapter factor."""
    n = slices.n
    within = torch.cat([torch.arange(rank) for rank in slices.ranks]).to(place.device)
    drawn = torch.from_numpy(_draw(seed, start, max(slices.ranks) + 1, n, cp_rank)).to(slices.out_blocks)
    return slices.out_blocks @ drawn[within + 1, slices.spread(place)], drawn[0][place]


@lru_cache(maxsize=64)
def _draw(seed: int, start: int, depth: int, n: int, cp_rank: int) -> np.ndarray:
    """Standard normals `(depth, n, R)`; a larger `depth` or `n` only adds numbers at the end."""
    draws = (np.random.default_rng([seed, start, k]).standard_normal((n, cp_rank)) for k in range(depth))
    return np.stack(list(draws))


def _task_svd(slices: Slices, noise: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The R largest singular triplets of all adapters, each belonging to its adapter alone.

    Such a start is stationary in the adapter factor; a little noise lets adapters join in one another's terms.
    """
    cp_rank = noise[0].shape[2]
    order = slices.values.argsort(dim=1, descending=True, stable=True)[:, :cp_rank]
    value = slices.values.gather(1, order)
    scale = value.amax(dim=1, keepdim=True)
    used = value > 1e-12 * scale
    columns = slices.out_blocks.gather(2, order[:, None].expand(-1, slices.out_blocks.shape[1], -1))
    out_factor = columns / torch.where(used, value, 1).sqrt()[:, None]
    adapter_factor = torch.nn.functional.one_hot(slices.owner[order], slices.n).mT.to(value) * value[:, None]
    missing = (0, cp_rank - order.shape[1])
    out_factor, adapter_factor = (torch.nn.functional.pad(f, missing) for f in (out_factor, adapter_factor))
    empty = ~torch.nn.functional.pad(used, missing)[:, None]
    return torch.where(empty, noise[0], out_factor), adapter_factor + _NOISE * scale[:, None] * noise[1]


def _hosvd(slices: Slices, draws: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The leading left singular vectors of the out and the adapter unfolding; normals where there are no more."""
    # Columns of a slice are orthogonal on either side, so this is the Gram matrix of the out unfolding.
    out_gram = (slices.out_blocks * slices.values[:, None]) @ slices.out_blocks.mT
    out_factor = _leading(out_gram, draws[0])
    if slices.owner.numel() > _MOST_COLUMNS:
        return out_factor, draws[1]
    products = (slices.out_blocks.mT @ slices.out_blocks) * (slices.in_blocks.mT @ slices.in_blocks)
    return out_factor, _leading(slices.add_up(slices.add_up(products).mT), draws[1])


def _leading(gram: Tensor, draw: Tensor) -> Tensor:
    # A Gram matrix is precise enough here: this is only a place to start from.
    kept = min(draw.shape[2], gram.shape[1])
    if kept * _FEW <= gram.shape[1]:
        gram, turn = _projected(gram, draw)
        values, vectors = torch.linalg.eigh(gram)
        vectors = turn @ vectors
    else:
        values, vectors = torch.linalg.eigh(gram)
    vectors, values = vectors.flip(2)[:, :, :kept], values.flip(1)[:, None, :kept]
    real = values > 1e-12 * values[:, :, :1]
    return torch.cat([torch.where(real, vectors, draw[:, :, :kept]), draw[:, :, kept:]], dim=2)


def _projected(gram: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """A Gram matrix in an orthonormal basis of nearly its leading space, and that basis: a tenth of a full `eigh`.

    Source: Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithm 4.4; the draws turn with the bases.
    """
    turn = torch.linalg.qr(gram @ draw)[0]
    for _ in range(_POWERS):
        turn = torch.linalg.qr(gram @ turn)[0]
    return turn.mT @ gram @ turn, turn
