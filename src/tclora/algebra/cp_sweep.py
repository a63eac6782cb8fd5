"""One sweep of alternating least squares for many starts of many problems at once.

In: the `Slices` of `m` tensors and the factors of `s` starts of each, `(m, s, size, R)`. Out: factors of lower error.
Starts of one problem share its blocks, so the four large products of a sweep are matrix products with `s * R` rows.

A sweep works on the transposed factors, `(m, s, R, size)`: then starts and terms lie side by side as rows of every
product, and no array is copied to change its layout. The factors that come out are views of those, and the elementwise
steps between two sweeps keep their layout, so that the next sweep finds them as it wants them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra.slices import Slices
from tclora.shapes import Bool, Float

__all__ = ["State", "als_sweep"]


@dataclass(frozen=True)
class State:
    """Factors of `s` starts of `m` problems; the columns of a term have equal norms."""

    out_factor: Float[Tensor, "m s p R"]
    in_factor: Float[Tensor, "m s q R"]
    adapter_factor: Float[Tensor, "m s n R"]

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Out, in and adapter factor."""
        return self.out_factor, self.in_factor, self.adapter_factor

    def take(self, index: Tensor) -> "State":
        """Some of the problems."""
        return State(*(f[index] for f in self.factors()))

    def to(self, dtype: torch.dtype) -> "State":
        """The same numbers in another precision."""
        return State(*(f.to(dtype) for f in self.factors()))

    def choose(self, other: "State", where: Bool[Tensor, "m s"]) -> "State":
        """`other` for the starts marked in `where`, this elsewhere."""
        pick = where[:, :, None, None]
        return State(*(torch.where(pick, b, a) for a, b in zip(self.factors(), other.factors(), strict=True)))

    def step(self, before: "State", size: Float[Tensor, "m s"]) -> "State":
        """Go on from here by `size` times the way from `before`."""
        # In one pass; a weight below 0 goes beyond the first point, and at weight 0 that point comes back as it is.
        weight = -size[:, :, None, None]
        return State(*(torch.lerp(a, b, weight) for a, b in zip(self.factors(), before.factors(), strict=True)))


def als_sweep(slices: Slices, state: State, ridge: Float[Tensor, "m s"]) -> tuple[State, Float[Tensor, "m s"]]:
    """Solve for the in, the adapter and the out factor in turn, each with the other two held.

    `ridge` times the identity is added to each system of normal equations, which bounds the norms of the terms. The in
    factor that comes in is not read.

    Returns:
        The balanced factors, and the squared relative error after the last solve. That number comes from the expanded
        norm, good to about ten roundings: it steers the iteration and is never reported.

    Source: Kolda and Bader 2009, section 3.4, with every slice kept as a product of two blocks.
    """
    out_rows, adapter_rows = state.out_factor.mT.contiguous(), state.adapter_factor.mT.contiguous()
    out_gram, out_side = _gram(out_rows), _product(out_rows, slices.out_blocks)
    mttkrp = _product(_scaled(slices, out_side, adapter_rows), slices.in_blocks.mT)
    in_rows = _solve(out_gram * _gram(adapter_rows), mttkrp, ridge)
    in_gram, in_side = _gram(in_rows), _product(in_rows, slices.in_blocks)
    adapter_rows = _solve(out_gram * in_gram, _paired(slices, out_side, in_side), ridge)
    adapter_gram = _gram(adapter_rows)
    mttkrp = _product(_scaled(slices, in_side, adapter_rows), slices.out_blocks.mT)
    gram = in_gram * adapter_gram
    out_rows = _solve(gram, mttkrp, ridge)
    out_gram = _gram(out_rows)
    error = 1 - 2 * (mttkrp * out_rows).sum(dim=(2, 3)) + (gram * out_gram).sum(dim=(2, 3))
    return _balanced((out_rows, in_rows, adapter_rows), (out_gram, in_gram, adapter_gram)), error


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """The rows of all starts, `(m, s, R, a)`, times the `(a, b)` matrix of their problem, in one product each."""
    return (rows.flatten(1, 2) @ matrix).unflatten(1, rows.shape[1:3])


def _scaled(slices: Slices, side: Tensor, adapter_rows: Tensor) -> Tensor:
    """`(m, s, R, P)` with every column times its adapter's coordinate."""
    if slices.even:
        return (side.unflatten(3, (slices.n, slices.ranks[0])) * adapter_rows[..., None]).flatten(3)
    return side * adapter_rows.index_select(3, slices.owner)


def _paired(slices: Slices, out_side: Tensor, in_side: Tensor) -> Tensor:
    """The inner products of the two sides over the columns of each adapter, `(m, s, R, n)`, in a fixed order."""
    product = out_side * in_side
    if slices.even:
        return product.unflatten(3, (slices.n, slices.ranks[0])).sum(dim=4)
    return torch.stack([part.sum(dim=3) for part in product.split(list(slices.ranks), dim=3)], dim=3)


def _gram(rows: Tensor) -> Tensor:
    return rows @ rows.mT


def _solve(gram: Tensor, mttkrp: Tensor, ridge: Tensor) -> Tensor:
    """`inv(gram + ridge I) @ mttkrp`, row for row of the transposed factor."""
    system = gram.clone()
    system.diagonal(dim1=2, dim2=3).add_(ridge[:, :, None])
    lower, _ = torch.linalg.cholesky_ex(system)
    # The systems are small and many: one inverse and one product each cost a third of solving with every row.
    return torch.cholesky_inverse(lower) @ mttkrp


def _balanced(rows: tuple[Tensor, Tensor, Tensor], grams: tuple[Tensor, Tensor, Tensor]) -> State:
    """Give the three columns of each term the same norm, read from the Gram matrices."""
    norms = torch.stack([gram.diagonal(dim1=-2, dim2=-1) for gram in grams]).sqrt()
    common = norms.prod(dim=0) ** (1 / 3)
    share = (common / torch.where(norms > 0, norms, 1))[..., None]
    return State(*((f * x).mT for f, x in zip(rows, share.unbind(), strict=True)))
