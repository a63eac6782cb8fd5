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

__all__ = ["State", "als_sweep", "term_grams"]


@dataclass(frozen=True)
class State:
    """Factors of `s` starts of `m` problems; the columns of a term have equal norms.

    For slices with `grams` the out and in factors are mixtures of columns (`p = q = P`), and `out_side` holds the inner
    products of the out factor with the columns: a sweep ends with them, and the next one begins with them.
    """

    out_factor: Float[Tensor, "m s p R"]
    in_factor: Float[Tensor, "m s q R"]
    adapter_factor: Float[Tensor, "m s n R"]
    out_side: Float[Tensor, "m s P R"] | None = None

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Out, in and adapter factor."""
        return self.out_factor, self.in_factor, self.adapter_factor

    def tensors(self) -> tuple[Tensor, ...]:
        """The factors, and `out_side` where there is one."""
        return self.factors() if self.out_side is None else (*self.factors(), self.out_side)

    def take(self, index: Tensor | tuple[Tensor, Tensor]) -> "State":
        """Some of the problems, or for each of them some of its starts."""
        return State(*(tensor[index] for tensor in self.tensors()))

    def to(self, dtype: torch.dtype) -> "State":
        """The same numbers in another precision."""
        return State(*(tensor.to(dtype) for tensor in self.tensors()))

    def choose(self, other: "State", where: Bool[Tensor, "m s"]) -> "State":
        """`other` for the starts marked in `where`, this elsewhere."""
        pick = where[:, :, None, None]
        pairs = zip(self.tensors(), other.tensors(), strict=True)
        return State(*(torch.where(pick, theirs, mine) for mine, theirs in pairs))

    def step(self, before: "State", size: Float[Tensor, "m s"]) -> "State":
        """Go on from here by `size` times the way from `before`. The in factor stays: no sweep reads it."""
        # In one pass; a weight below 0 goes beyond the first point, and at weight 0 that point comes back as it is.
        weight = -size[:, :, None, None]
        (out, _, *others), (earlier_out, _, *earlier) = self.tensors(), before.tensors()
        ahead = [torch.lerp(mine, theirs, weight) for mine, theirs in zip(others, earlier, strict=True)]
        return State(torch.lerp(out, earlier_out, weight), self.in_factor, *ahead)


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
    out_side = _touch(slices, 0, out_rows) if state.out_side is None else state.out_side.mT
    out_gram = _factor_gram(slices, out_rows, out_side)
    in_mttkrp = _gather(slices, 1, _scaled(slices, out_side, adapter_rows))
    in_rows = _solve(out_gram * _gram(adapter_rows), in_mttkrp, ridge)
    in_side = _touch(slices, 1, in_rows)
    in_gram = _factor_gram(slices, in_rows, in_side)
    adapter_rows = _solve(out_gram * in_gram, _paired(slices, out_side, in_side), ridge)
    adapter_gram = _gram(adapter_rows)
    mttkrp = _gather(slices, 0, _scaled(slices, in_side, adapter_rows))
    gram = in_gram * adapter_gram
    out_rows = _solve(gram, mttkrp, ridge)
    out_side = _touch(slices, 0, out_rows) if slices.grams else None
    out_gram = _factor_gram(slices, out_rows, out_side)
    error = 1 - 2 * (mttkrp * (out_rows if out_side is None else out_side)).sum(dim=(2, 3))
    error = error + (gram * out_gram).sum(dim=(2, 3))
    return _balanced((out_rows, in_rows, adapter_rows, out_side), (out_gram, in_gram, adapter_gram)), error


def term_grams(slices: Slices, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """The Gram matrices `(m, s, R, R)` of the out, in and adapter factors."""
    out_rows, in_rows, adapter_rows = (factor.mT for factor in state.factors())
    if slices.grams is None or state.out_side is None:
        return _gram(out_rows), _gram(in_rows), _gram(adapter_rows)
    return out_rows @ state.out_side, in_rows @ _touch(slices, 1, in_rows).mT, _gram(adapter_rows)


def _touch(slices: Slices, side: int, rows: Tensor) -> Tensor:
    """The inner products of a factor with the columns of the slices."""
    return _product(rows, slices.grams[side] if slices.grams else (slices.out_blocks, slices.in_blocks)[side])


def _gather(slices: Slices, side: int, weights: Tensor) -> Tensor:
    """The columns of the slices added up with these weights, written as factors are."""
    return weights if slices.grams else _product(weights, (slices.out_blocks, slices.in_blocks)[side].mT)


def _factor_gram(slices: Slices, rows: Tensor, side: Tensor | None) -> Tensor:
    return rows @ (side if slices.grams and side is not None else rows).mT


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
    try:
        return torch.cholesky_inverse(lower) @ mttkrp
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return _some_singular(system, lower) @ mttkrp


def _some_singular(system: Tensor, lower: Tensor) -> Tensor:
    """Inverses, and pseudo-inverses of systems whose triangle has a zero: terms of those are lost in rounding."""
    singular = (lower.diagonal(dim1=2, dim2=3) == 0).any(dim=2)
    eye = torch.eye(lower.shape[3], dtype=lower.dtype, device=lower.device)
    inverse = torch.cholesky_inverse(torch.where(singular[:, :, None, None], eye, lower))
    inverse[singular] = torch.linalg.pinv(system[singular], hermitian=True)
    return inverse


def _balanced(rows: tuple[Tensor, Tensor, Tensor, Tensor | None], grams: tuple[Tensor, Tensor, Tensor]) -> State:
    """Give the three columns of each term the same norm, read from the Gram matrices."""
    norms = torch.stack([gram.diagonal(dim1=-2, dim2=-1) for gram in grams]).sqrt()
    common = norms.prod(dim=0) ** (1 / 3)
    share = (common / torch.where(norms > 0, norms, 1))[..., None]
    out_share, in_share, adapter_share = share.unbind()
    out_rows, in_rows, adapter_rows, out_side = rows
    factors = (out_rows * out_share).mT, (in_rows * in_share).mT, (adapter_rows * adapter_share).mT
    return State(*factors, None if out_side is None else (out_side * out_share).mT)
