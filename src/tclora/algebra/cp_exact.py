"""CP problems whose optimum is known without iterating: those that are matrix problems, or have few enough terms.

In: cores and the singular triplets of every adapter's slice. Out: for each problem its optimal factors, or None.

1. A core of rank one in some mode (one adapter, equal or proportional adapters, one shared direction) is a matrix times
   a vector; the truncated SVD of that matrix is the best CP model.
2. A core whose adapters, proportional ones taken as one, have at most `cp_rank` singular triplets in all is their sum.
3. The same with the slices of the out or the in mode, where one of those is very short.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.shapes import Float

__all__ = ["Triplets", "slice_triplets", "solve_directly"]

# Relative to a core of unit norm: far above rounding, far below what any fit can notice.
_NEGLIGIBLE = 1e-12
_SPARE_COLUMNS = 10

Terms = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Triplets:
    """The leading singular triplets of every adapter's slice, and the norm of what they leave out."""

    left: Float[Tensor, "m n p k"]
    values: Float[Tensor, "m n k"]
    right: Float[Tensor, "m n q k"]
    left_out: Float[Tensor, "m n"]

    def take(self, index: Tensor) -> "Triplets":
        """Those of some of the problems."""
        return Triplets(self.left[index], self.values[index], self.right[index], self.left_out[index])


def slice_triplets(core: Float[Tensor, "m p q n"], cp_rank: int) -> Triplets:
    """Singular triplets of each slice: all of them, or for wide cores those in a sketch wider than `cp_rank`.

    A slice holds one adapter, so its rank is small and the sketch is exact; `left_out` says where it is not.
    """
    slices = core.permute(0, 3, 1, 2)
    width, q = cp_rank + _SPARE_COLUMNS, slices.shape[3]
    if 2 * width >= min(slices.shape[2:]):
        u, s, vh = torch.linalg.svd(slices, full_matrices=False)
        return Triplets(u, s, vh.mT, torch.zeros_like(s[:, :, 0]))
    generator = torch.Generator().manual_seed(0)
    sketch = torch.randn(q, width, dtype=torch.float64, generator=generator).to(slices)
    range_basis = torch.linalg.qr(slices @ sketch)[0]
    inside = range_basis.mT @ slices
    u, s, vh = torch.linalg.svd(inside, full_matrices=False)
    left_out = torch.linalg.matrix_norm(slices - range_basis @ inside)
    return Triplets(range_basis @ u, s, vh.mT, left_out)


def solve_directly(core: Float[Tensor, "p q n"], triplets: Triplets, index: int, cp_rank: int) -> Terms | None:
    """Optimal factors `(p, R)`, `(q, R)`, `(n, R)` of one core of unit norm where a shortcut applies, else None."""
    for mode in (2, 0, 1):
        direction = _only_direction(core, mode)
        if direction is not None:
            return _matrix_terms(core, mode, direction, cp_rank)
    few = _count(triplets, index) <= cp_rank or _has_repeats(core)
    for mode in (2, 0, 1):
        if (mode == 2 and few) or (mode != 2 and _surely_few(core, mode, cp_rank)):
            terms = _slice_terms(core, mode, cp_rank)
            if terms is not None:
                return terms
    return None


def _only_direction(core: Tensor, mode: int) -> Tensor | None:
    """The unit vector of a mode along which the whole core lies, if there is one."""
    unfolding = core.movedim(mode, 0).flatten(1)
    column = unfolding[:, torch.linalg.vector_norm(unfolding, dim=0).argmax()]
    unit = column / torch.linalg.vector_norm(column)
    rest = unfolding - unit[:, None] * (unit @ unfolding)
    return unit if torch.linalg.vector_norm(rest) <= _NEGLIGIBLE else None


def _matrix_terms(core: Tensor, mode: int, direction: Tensor, cp_rank: int) -> Terms:
    matrix = core.movedim(mode, 2) @ direction
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = torch.where(s > _NEGLIGIBLE, s, 0)[:cp_rank]
    shared = direction[:, None].expand(-1, len(s))
    return _placed([u[:, : len(s)], vh[: len(s)].T], shared * s, mode, cp_rank)


def _count(triplets: Triplets, index: int) -> float:
    exact = bool((triplets.left_out[index] <= _NEGLIGIBLE).all())
    return float((triplets.values[index] > _NEGLIGIBLE).sum()) if exact else float("inf")


def _has_repeats(core: Tensor) -> bool:
    """Whether any two adapters are proportional, as near as a Gram matrix can tell."""
    flat = core.flatten(0, 1)
    gram, norms = flat.T @ flat, torch.linalg.vector_norm(flat, dim=0)
    scale = norms[:, None] * norms
    near = (scale > 0) & (gram.abs() >= (1 - 1e-9) * scale)
    return bool(near.triu(1).any())


def _surely_few(core: Tensor, mode: int, cp_rank: int) -> bool:
    others = [size for axis, size in enumerate(core.shape) if axis != mode]
    return core.shape[mode] * min(others) <= cp_rank


def _slice_terms(core: Tensor, mode: int, cp_rank: int) -> Terms | None:
    """The singular triplets of the slices of a mode, proportional slices as one; None if more than `cp_rank`."""
    groups, pieces = _proportional_groups(core.movedim(mode, 0)), []
    for owners, matrix in groups:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        kept = int((s > _NEGLIGIBLE).sum())
        pieces.append((u[:, :kept], vh[:kept].T, owners[:, None] * s[:kept]))
    if sum(piece[0].shape[1] for piece in pieces) > cp_rank:
        return None
    left, right, sizes = (torch.cat(side, dim=1) for side in zip(*pieces, strict=True))
    return _placed([left, right], sizes, mode, cp_rank)


def _proportional_groups(slices: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Unit vectors over the slices and one matrix each, whose outer products add up to the slices."""
    left, groups = [i for i in range(len(slices)) if slices[i].any()], []
    while left:
        first = max(left, key=lambda i: float(torch.linalg.matrix_norm(slices[i])))
        unit = slices[first] / torch.linalg.matrix_norm(slices[first])
        share = (slices * unit).sum(dim=(1, 2))
        rest = torch.linalg.matrix_norm(slices - share[:, None, None] * unit)
        members = [i for i in left if rest[i] <= _NEGLIGIBLE]
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
