"""Adapters as vectors: the size of every delta, and the unit directions as points of few dimensions.

In: a `CompressedStack`. Out: Frobenius norms `(m, n)`, and `n` points in `n` dimensions whose inner products are the
cosines between the deltas. Only the blocks are used, O(m P^2 (p + q)); a delta that is zero has size 0 and the point 0.
"""

import torch
from torch import Tensor

from tclora.algebra.compress import CompressedStack
from tclora.shapes import Float

__all__ = ["adapter_sizes", "largest_values", "unit_coordinates"]


def adapter_sizes(compressed: CompressedStack) -> Float[Tensor, "m n"]:
    """The Frobenius norm of every adapter's delta."""
    values = compressed.singular_values()
    return torch.stack([torch.linalg.vector_norm(values[:, b], dim=1) for b in compressed.blocks()], dim=1)


def largest_values(compressed: CompressedStack, values: Float[Tensor, "m P"]) -> Float[Tensor, "m P"]:
    """For every column the largest singular value of its adapter; the first of the block, for they descend."""
    first = [values[:, b][:, :1].expand(-1, b.stop - b.start) for b in compressed.blocks()]
    return torch.cat(first, dim=1)


def unit_coordinates(compressed: CompressedStack) -> Float[Tensor, "m n n"]:
    """One row per adapter; the inner product of two rows is the cosine of the angle between the two deltas."""
    sizes, blocks = adapter_sizes(compressed), compressed.blocks()
    root = torch.where(sizes > 0, torch.where(sizes > 0, sizes, 1).rsqrt(), 0)
    spread = compressed.spread(root)[:, None]
    out_unit, in_unit = compressed.out_blocks * spread, compressed.in_blocks * spread
    products = (out_unit.mT @ out_unit) * (in_unit.mT @ in_unit)
    rows = torch.stack([products[:, b].sum(dim=1) for b in blocks], dim=1)
    gram = torch.stack([rows[:, :, b].sum(dim=2) for b in blocks], dim=2)
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()[:, None]
