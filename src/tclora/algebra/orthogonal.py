"""The nearest orthonormal columns to given ones, in two ways that agree where the columns are well conditioned.

In: columns `(m, p, P)`, zero columns allowed. Out: columns of the same shape with the same span, orthonormal on it:
`C (C^T C)^(-1/2)`. Directions that the columns do not hold (to `tol`) stay out: an SVD would fill them with arbitrary
vectors, and a merge would add those to its result.
"""

import torch
from torch import Tensor

from tclora.shapes import Float

__all__ = ["polar_factor", "whitened"]


def polar_factor(columns: Float[Tensor, "m p P"], *, tol: float) -> Float[Tensor, "m p P"]:
    """The orthogonal polar factor `U V^T` of `U S V^T`, over the singular values above `tol` times the largest.

    Source: Higham 1986; used as in TSV-Merge, arXiv 2412.00081.
    """
    u, s, vh = torch.linalg.svd(columns, full_matrices=False)
    held = (s > tol * s[:, :1]) & (s > 0)
    return (u * held[:, None]) @ vh


def whitened(columns: Float[Tensor, "m p P"], *, tol: float) -> Float[Tensor, "m p P"]:
    """The same by an eigendecomposition of the Gram matrix, which squares the condition number but is cheaper.

    Source: the `eigen` variant of TSV-Merge's released code.
    """
    values, vectors = torch.linalg.eigh(columns.mT @ columns)
    held = (values > tol**2 * values[:, -1:]) & (values > 0)
    root = torch.where(held, torch.where(held, values, 1).rsqrt(), 0)
    return columns @ (vectors * root[:, None]) @ vectors.mT
