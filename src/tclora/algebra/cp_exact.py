"""CP problems whose optimum is known without iterating: those that are matrix problems, or have few enough terms.

In: slices. Out: for each problem its optimal factors, or None. Cheap signs tell whether a shortcut may apply; only then
is the core built.

1. A core of rank one in some mode (one adapter, equal or proportional adapters, one shared direction) is a matrix times
   a vector; the truncated SVD of that matrix is the best CP model.
2. A core whose adapters, proportional ones taken as one, have at most `cp_rank` singular triplets in all is their sum.
3. The same with the slices of the out or the in mode, where one of those is very short.
"""

from functools import lru_cache

import torch
from torch import Tensor

from tclora.algebra.slices import Slices
from tclora.shapes import Bool, Int

__all__ = ["Terms", "solve_directly"]

# Relative to a core of unit norm: far above rounding, far below what any fit can notice.
_NEGLIGIBLE = 1e-12
# What is left of it between equal adapters whose coordinates came through float32 Gram matrices.
_ALIKE = 1e-6
_N_VIEWS = 8

Terms = tuple[Tensor, Tensor, Tensor]


def solve_directly(slices: Slices, cp_rank: int) -> list[Terms | None]:
    """For each problem, of norm 1: optimal factors `(p, R)`, `(q, R)`, `(n, R)` where a shortcut applies, else None.

    A problem that is zero has none either.
    """
    n_kinds, n_terms = _kinds(slices)
    few, short = n_terms <= cp_rank, _short_modes(slices, cp_rank)
    hopeful = (few | short | (n_kinds == 1)) & slices.values.any(dim=1)
    return [
        _solved(slices.dense(j), cp_rank, few=is_few) if hope else None
        for j, (hope, is_few) in enumerate(zip(hopeful.tolist(), few.tolist(), strict=True))
    ]


def _solved(core: Tensor, cp_rank: int, *, few: bool) -> Terms | None:
    for mode, alike in ((2, _ALIKE), (0, _NEGLIGIBLE), (1, _NEGLIGIBLE)):
        direction = _only_direction(core, mode, alike)
        if direction is not None:
            return _matrix_terms(core, mode, direction, cp_rank)
    for mode, alike in ((2, _NEGLIGIBLE), (2, _ALIKE), (0, _NEGLIGIBLE), (1, _NEGLIGIBLE)):
        if (mode == 2 and few) or (mode != 2 and _surely_few(core, mode, cp_rank)):
            terms = _slice_terms(core, mode, cp_rank, alike)
            if terms is not None:
                return terms
    return None


def _kinds(slices: Slices) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """How many adapters are not proportional to one before them, and how many singular triplets those have.

    A few random numbers of each adapter tell proportional ones; what follows from it is checked on the core.
    """
    looks = _looks(slices.out_blocks.shape[1], slices.in_blocks.shape[1])
    out_view, in_view = (
        look.to(side) @ side for look, side in zip(looks, (slices.out_blocks, slices.in_blocks), strict=True)
    )
    views = slices.add_up((out_view * in_view).mT)
    norms = torch.linalg.vector_norm(views, dim=2, keepdim=True)
    unit = views / torch.where(norms > 0, norms, 1)
    repeats = ((unit @ unit.mT).abs() >= 1 - 1e-9).triu(1).any(dim=1)
    first = (norms[:, :, 0] > 0) & ~repeats
    counts = slices.add_up((slices.values > _NEGLIGIBLE).to(torch.long))
    return first.sum(dim=1), (counts * first).sum(dim=1)


@lru_cache(maxsize=16)
def _looks(p: int, q: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    out_look, in_look = (torch.randn(_N_VIEWS, d, dtype=torch.float64, generator=generator) for d in (p, q))
    return out_look, in_look


def _short_modes(slices: Slices, cp_rank: int) -> Bool[Tensor, " m"]:
    """Whether the out or the in mode is so short that its own slices have few terms, or only one direction."""
    p, q = ((side != 0).any(dim=2).sum(dim=1) for side in (slices.out_blocks, slices.in_blocks))
    one = torch.minimum(p, q) <= 1
    return one | (p * q.clamp(max=slices.n) <= cp_rank) | (q * p.clamp(max=slices.n) <= cp_rank)


def _only_direction(core: Tensor, mode: int, alike: float) -> Tensor | None:
    """The unit vector of a mode along which the whole core lies, if there is one."""
    unfolding = core.movedim(mode, 0).flatten(1)
    column = unfolding[:, torch.linalg.vector_norm(unfolding, dim=0).argmax()]
    unit = column / torch.linalg.vector_norm(column)
    rest = unfolding - unit[:, None] * (unit @ unfolding)
    return unit if torch.linalg.vector_norm(rest) <= alike else None


def _matrix_terms(core: Tensor, mode: int, direction: Tensor, cp_rank: int) -> Terms:
    matrix = core.movedim(mode, 2) @ direction
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = torch.where(s > _NEGLIGIBLE, s, 0)[:cp_rank]
    shared = direction[:, None].expand(-1, len(s))
    return _placed([u[:, : len(s)], vh[: len(s)].T], shared * s, mode, cp_rank)


def _surely_few(core: Tensor, mode: int, cp_rank: int) -> bool:
    others = [size for axis, size in enumerate(core.shape) if axis != mode]
    return core.shape[mode] * min(others) <= cp_rank


def _slice_terms(core: Tensor, mode: int, cp_rank: int, alike: float) -> Terms | None:
    """The singular triplets of the slices of a mode, proportional slices as one; None if more than `cp_rank`."""
    groups, pieces = _proportional_groups(core.movedim(mode, 0), alike), []
    for owners, matrix in groups:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        kept = int((s > _NEGLIGIBLE).sum())
        pieces.append((u[:, :kept], vh[:kept].T, owners[:, None] * s[:kept]))
    if sum(piece[0].shape[1] for piece in pieces) > cp_rank:
        return None
    left, right, sizes = (torch.cat(side, dim=1) for side in zip(*pieces, strict=True))
    return _placed([left, right], sizes, mode, cp_rank)


def _proportional_groups(slices: Tensor, alike: float) -> list[tuple[Tensor, Tensor]]:
    """Unit vectors over the slices and one matrix each, whose outer products add up to the slices."""
    left, groups = [i for i in range(len(slices)) if slices[i].any()], []
    while left:
        first = max(left, key=lambda i: float(torch.linalg.matrix_norm(slices[i])))
        unit = slices[first] / torch.linalg.matrix_norm(slices[first])
        share = (slices * unit).sum(dim=(1, 2))
        rest = torch.linalg.matrix_norm(slices - share[:, None, None] * unit)
        members = [i for i in left if rest[i] <= alike]
        owners = torch.zeros_like(share)
        owners[members] = share[members]
        size = torch.linalg.vector_norm(owners)
        groups.append((owners / size, unit * size))
        left = [i for i in left if i not in members]
    return groups


def _placed(pair: list[Tensor], third: Tensor, mode: int, cp_rank: int) -> Terms:
    """Put the factor of `mode` in its place among the two others and fill up with zero terms."""
    factors = [*pair]
    factors.insert(mode, third)
    out_factor, in_factor, adapter_factor = (torch.nn.functional.pad(f, (0, cp_rank - f.shape[1])) for f in factors)
    return out_factor, in_factor, adapter_factor
