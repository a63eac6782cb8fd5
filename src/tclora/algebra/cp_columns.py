"""Sweeps whose out and in factors are mixtures of the adapters' own columns: two large products in place of four.

In: slices, and starts in the joint bases. Out: the same in columns, and back. Where `factor = blocks @ mixture`, the
sum over columns that a sweep forms is itself a mixture, and the inner products with the columns are `gram @ mixture`:
no sum is carried into the basis, and no factor out of it.

A mixture of columns that nearly depend on one another cancels, and a Gram matrix squares what is left of it. So this is
for columns that are well apart, which leaves float32 its digits.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tclora.algebra.cp_sweep import State
from tclora.algebra.slices import Slices
from tclora.shapes import Bool

__all__ = ["columns_apart", "to_basis", "to_columns", "with_grams"]

# The least pivot of the Gram matrix of unit columns: no mixture is much shorter than this share of its columns.
_LEAST_PIVOT = 0.3


def with_grams(slices: Slices) -> Slices:
    """The slices with the Gram matrices of their columns."""
    return replace(slices, grams=(slices.out_blocks.mT @ slices.out_blocks, slices.in_blocks.mT @ slices.in_blocks))


def columns_apart(slices: Slices) -> Bool[Tensor, " m"]:
    """For which problems the columns of either side are well apart; the slices carry their Gram matrices."""
    apart = torch.ones(slices.m, dtype=torch.bool, device=slices.out_blocks.device)
    for gram in slices.grams or ():
        norms = gram.diagonal(dim1=1, dim2=2).sqrt()
        unit = torch.where(norms > 0, norms, 1)
        lower, info = torch.linalg.cholesky_ex(gram / (unit[:, :, None] * unit[:, None]))
        apart &= (info == 0) & (lower.diagonal(dim1=1, dim2=2).amin(dim=1) >= _LEAST_PIVOT)
    return apart


def to_columns(slices: Slices, start: State) -> State:
    """Starts in the bases as mixtures of columns; their in factor, which no sweep reads, becomes zero."""
    if slices.grams is None:
        return start
    side = slices.out_blocks.mT[:, None] @ start.out_factor
    lower, _ = torch.linalg.cholesky_ex(slices.grams[0])
    mixture = torch.cholesky_solve(side, lower[:, None])
    return State(mixture, torch.zeros_like(mixture), start.adapter_factor, side)


def to_basis(slices: Slices, state: State) -> State:
    """Factors that are mixtures of columns as vectors in the bases."""
    if slices.grams is None:
        return state
    out_factor, in_factor = slices.out_blocks[:, None] @ state.out_factor, slices.in_blocks[:, None] @ state.in_factor
    return State(out_factor, in_factor, state.adapter_factor)
