"""A compressed stack made of inner products alone: the same adapters, turned into P axes of their own.

In: `SingularGrams`. Out: a `CompressedStack` whose singular vectors have those inner products. A CP model is the same
in any orthonormal axes, up to that turn, so its weights, coordinates, fit and interference are those of the adapters;
its out and in columns are not theirs, and no figure shows them.
"""

import torch
from torch import Tensor

from tclora.algebra import CompressedStack
from tclora.algebra.joint_basis import Basis, Side
from tclora.analysis.grams import SingularGrams
from tclora.shapes import Float

__all__ = ["in_own_axes"]


def in_own_axes(names: tuple[str, ...], grams: SingularGrams) -> CompressedStack:
    """The adapters of the modules `names` in as many axes as they have singular triplets in all."""
    root = grams.values.sqrt()[:, None]
    m, total_rank = grams.values.shape
    axes = torch.eye(total_rank, dtype=root.dtype, device=root.device)
    side = Side((Basis(axes, axes),) * m)
    return CompressedStack(
        names=names,
        ranks=grams.ranks,
        out_side=side,
        in_side=side,
        out_blocks=_columns(grams.out_gram, grams.values > 0) * root,
        in_blocks=_columns(grams.in_gram, grams.values > 0) * root,
    )


def _columns(gram: Float[Tensor, "m P P"], kept: Tensor) -> Float[Tensor, "m P P"]:
    """Columns with the given inner products; the dropped ones are zero."""
    # A 1 for each dropped column, which the mask takes out again, so that there is a Cholesky factor.
    lower, info = torch.linalg.cholesky_ex(gram + torch.diag_embed((~kept).to(gram)))
    columns = lower.mT
    for j in (info != 0).nonzero()[:, 0].tolist():
        values, vectors = torch.linalg.eigh(gram[j])
        columns[j] = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return columns * kept[:, None]
