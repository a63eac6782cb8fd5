"""The singular triplets of every adapter of one module, from its two factors in small coordinates.

In: coordinates `(p, P)` and `(q, P)` of the two sides, `ranks[i]` columns for adapter `i`. Out: columns in the same
places: singular vectors times the roots of the singular values, at unit size for each adapter, and the adapters' sizes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra.stack import blocks_of
from tclora.shapes import Float

__all__ = ["balanced_triplets"]

# Orthonormality is lost by about the inverse square of the least pivot; columns smaller than `_TINY` vanish squared.
_LEAST_PIVOT, _TINY = 0.3, 1e-15


def balanced_triplets(
    out_columns: Float[Tensor, "p P"], in_columns: Float[Tensor, "q P"], ranks: tuple[int, ...]
) -> tuple[Float[Tensor, "p P"], Float[Tensor, "q P"], Float[Tensor, " n"]]:
    """Rewrite each adapter's product with orthogonal columns that carry the roots of its singular values, descending.

    Returns:
        The two sides, every adapter at spectral norm 1, and those spectral norms: infinite where a product overflows.
        How an adapter was factored does not show in them, but for the common sign of a pair of columns.
    """
    if len(set(ranks)) == 1 and ranks[0] > 0:
        parts = (side.unflatten(1, (len(ranks), -1)).transpose(0, 1) for side in (out_columns, in_columns))
        out_part, in_part, sizes = _balanced(*parts)
        return out_part.transpose(0, 1).flatten(1), in_part.transpose(0, 1).flatten(1), sizes
    out_turned, in_turned = torch.zeros_like(out_columns), torch.zeros_like(in_columns)
    sizes = out_columns.new_zeros(len(ranks))
    blocks = blocks_of(ranks)
    for rank in sorted(set(ranks) - {0}):
        owners = [i for i, r in enumerate(ranks) if r == rank]
        out_part, in_part = (torch.stack([side[:, blocks[i]] for i in owners]) for side in (out_columns, in_columns))
        out_part, in_part, size = _balanced(out_part, in_part)
        for k, i in enumerate(owners):
            out_turned[:, blocks[i]], in_turned[:, blocks[i]] = out_part[k], in_part[k]
        sizes[owners] = size
    return out_turned, in_turned, sizes


def _balanced(out_part: Tensor, in_part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rank = out_part.shape[2]
    out_triangle, in_triangle = _triangle(out_part), _triangle(in_part)
    product = out_triangle.small @ in_triangle.small.mT
    overflow = ~torch.isfinite(product).flatten(1).all(dim=1)
    # The SVD must not see infinity; the caller finds it in the size.
    u, s, vh = torch.linalg.svd(torch.where(overflow[:, None, None], 0, product), full_matrices=False)
    size = torch.where(overflow, torch.inf, s[:, 0])
    # What rounding leaves of a missing direction would look like one of its own once its root is taken.
    s = torch.where(s > 8 * rank * torch.finfo(s.dtype).eps * s[:, :1], s, 0)
    root = (s / torch.where(s[:, :1] > 0, s[:, :1], 1)).sqrt()[:, None]
    spare = (0, rank - s.shape[1])
    return pad(out_triangle.turned(u * root), spare), pad(in_triangle.turned(vh.mT * root), spare), size


@dataclass(frozen=True)
class _Triangle:
    """Columns as `Q @ small`, with `Q` orthonormal; without `q` it is `columns @ inv(small)`."""

    columns: Float[Tensor, "g p r"]
    small: Float[Tensor, "g k r"]
    q: Float[Tensor, "g p k"] | None = None

    def turned(self, turn: Float[Tensor, "g k j"]) -> Float[Tensor, "g p j"]:
        """`Q @ turn`."""
        if self.q is not None:
            return self.q @ turn
        return self.columns @ torch.linalg.solve_triangular(self.small, turn, upper=True)


def _triangle(part: Tensor) -> _Triangle:
    """QR of every adapter's columns: by Cholesky where they are well conditioned, which costs a third."""
    gram = part.mT @ part
    norms = gram.diagonal(dim1=1, dim2=2).sqrt()
    if bool((norms > _TINY).all() and torch.isfinite(norms).all()):
        lower, _ = torch.linalg.cholesky_ex(gram / (norms[:, :, None] * norms[:, None]))
        if bool((lower.diagonal(dim1=1, dim2=2) >= _LEAST_PIVOT).all()):
            return _Triangle(part, lower.mT * norms[:, None])
    q, small = torch.linalg.qr(part)
    return _Triangle(part, small, q)
