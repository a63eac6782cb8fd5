"""The tensor of a stack as the solver sees it: one slice per adapter, each slice a product of two thin blocks.

`tensor[:, :, i] = out_blocks_i @ in_blocks_i.T`. A contraction of the tensor with two factors costs O(P (p + q) R) this
way and O(n p q R) from the dense core, `n / 2` times as much where P = p = q; the dense core is never built.

A factor of either side may be held in the joint basis, or as a mixture of the columns of all adapters. In the basis a
sweep takes four large products; of mixtures, with the Gram matrices of the columns at hand, it takes two.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tclora.algebra.stack import ModuleStack, blocks_of
from tclora.shapes import Float, Int

__all__ = ["Slices", "stack_of_core"]


@dataclass(frozen=True)
class Slices:
    """`n` slices of `m` tensors; slice `i` owns `ranks[i]` columns of both sides.

    The columns of a slice are its singular vectors times the roots of its singular values. With `grams`, the Gram
    matrices of the columns of the out and of the in side, the out and in factors of a sweep are mixtures of columns.
    """

    out_blocks: Float[Tensor, "m p P"]
    in_blocks: Float[Tensor, "m q P"]
    ranks: tuple[int, ...]
    grams: tuple[Float[Tensor, "m P P"], Float[Tensor, "m P P"]] | None = None

    @property
    def m(self) -> int:
        """How many tensors."""
        return self.out_blocks.shape[0]

    @property
    def n(self) -> int:
        """How many slices."""
        return len(self.ranks)

    @cached_property
    def even(self) -> bool:
        """Whether all slices have as many columns."""
        return len(set(self.ranks)) == 1

    @cached_property
    def owner(self) -> Int[Tensor, " P"]:
        """The slice that each column belongs to."""
        device = self.out_blocks.device
        return torch.repeat_interleave(
            torch.arange(self.n, device=device), torch.tensor(self.ranks, device=device), output_size=sum(self.ranks)
        )

    @cached_property
    def values(self) -> Float[Tensor, "m P"]:
        """The singular values of all slices."""
        return self.out_blocks.square().sum(dim=1)

    def take(self, index: Tensor) -> "Slices":
        """Some of the tensors, in their order: by a mask, or by their places."""
        if len(index) == self.m and (index.dtype != torch.bool or bool(index.all())):
            return self
        grams = self.grams and (self.grams[0][index], self.grams[1][index])
        return Slices(self.out_blocks[index], self.in_blocks[index], self.ranks, grams)

    def to(self, dtype: torch.dtype) -> "Slices":
        """The same numbers in another precision."""
        grams = self.grams and (self.grams[0].to(dtype), self.grams[1].to(dtype))
        return Slices(self.out_blocks.to(dtype), self.in_blocks.to(dtype), self.ranks, grams)

    def spread(self, per_slice: Tensor) -> Tensor:
        """`(m, n, ...)` to `(m, P, ...)`: what belongs to a slice, for each of its columns."""
        if self.even:
            return per_slice.repeat_interleave(self.ranks[0], dim=1)
        return per_slice.index_select(1, self.owner)

    def add_up(self, per_column: Tensor) -> Tensor:
        """`(m, P, ...)` to `(m, n, ...)`: the sum over the columns of each slice, added in a fixed order."""
        if self.even:
            return per_column.unflatten(1, (self.n, self.ranks[0])).sum(dim=2)
        parts = [part.sum(dim=1) for part in per_column.split(list(self.ranks), dim=1)]
        return torch.stack(parts, dim=1)

    def size(self) -> Float[Tensor, " m"]:
        """The Frobenius norm of each tensor."""
        return torch.linalg.vector_norm(self.values, dim=1)

    def dense(self, j: int) -> Float[Tensor, "p q n"]:
        """One tensor, built; for small ones."""
        return torch.stack([self.out_blocks[j, :, b] @ self.in_blocks[j, :, b].mT for b in blocks_of(self.ranks)], 2)


def stack_of_core(core: Float[Tensor, "m p q n"]) -> ModuleStack:
    """A batch of dense cores as a stack whose adapters are the slices, by their singular value decompositions."""
    m, p, q, n = core.shape
    u, s, vh = torch.linalg.svd(core.permute(0, 3, 1, 2), full_matrices=False)
    rank = s.shape[2]
    # Values that rounding makes of nothing would look like directions once their roots are taken.
    s = torch.where(s > 8 * max(p, q) * torch.finfo(s.dtype).eps * s.amax(dim=(1, 2), keepdim=True), s, 0)
    out_stack = (u * s.sqrt()[:, :, None]).permute(0, 2, 1, 3).reshape(m, p, n * rank)
    in_stack = (vh.mT * s.sqrt()[:, :, None]).permute(0, 2, 1, 3).reshape(m, q, n * rank)
    return ModuleStack(tuple(f"problem {j}" for j in range(m)), out_stack, in_stack, (rank,) * n)
