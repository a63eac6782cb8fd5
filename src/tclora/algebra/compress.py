"""Exact compression: a stack of `n` low-rank updates in joint orthonormal bases, each as its singular triplets.

In: a `ModuleStack`. Out: a `CompressedStack`: `delta_i = out_basis @ out_blocks_i @ in_blocks_i.T @ in_basis.T` in
every module, so norms, inner products and CP errors taken in the bases are those of the full `(d_out, d_in, n)` tensor,
which is never built; nor is, unless asked for, the dense core. Refused: NaN and infinity, by module and adapter.

Each side goes one of three ways, whichever is the cheapest that keeps the digits: a float64 Gram matrix where its
columns are well conditioned (the error grows with the square of the condition number, so the bound is strict); the
coordinates as they are where the columns fill the whole space; else QR and an SVD. Adapters of one base are often
nearly equal, and squaring alone would lose what sets them apart.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra.joint_basis import Basis, Side, gram_coordinates, qr_coordinates, shared_basis
from tclora.algebra.stack import LowRankDelta, ModuleStack, at_least_single, blocks_of
from tclora.algebra.triplets import balanced_triplets
from tclora.errors import NumericalError, ShapeError
from tclora.shapes import Float, Int

__all__ = ["CompressedStack", "compress_stack", "lift"]

# Rows that fix the sign of a column, and the least share of a column's size that they must see, far above rounding.
_SIGN_ROWS, _SEEN = 512, 1e-5


@dataclass(frozen=True)
class CompressedStack:
    """`n` adapters of `m` modules in the joint bases of their column and row spaces.

    Adapter `i` owns `ranks[i]` columns of `out_blocks` and of `in_blocks` (`blocks()` says which): its singular vectors
    in the bases, each times the root of its singular value, in descending order, zero where its numerical rank is
    smaller. So the squared norm of a column is a singular value, and products of the two sides are the delta.

    `p` and `q` are the largest ranks of the bases in the batch. Module `j` uses the first `out_rank[j]` and
    `in_rank[j]` rows of the blocks; the rows beyond are zero.
    """

    names: tuple[str, ...]
    ranks: tuple[int, ...]
    out_side: Side
    in_side: Side
    out_blocks: Float[Tensor, "m p P"]
    in_blocks: Float[Tensor, "m q P"]

    @property
    def m(self) -> int:
        """How many modules."""
        return self.out_blocks.shape[0]

    @property
    def n(self) -> int:
        """How many adapters."""
        return len(self.ranks)

    @property
    def out_rank(self) -> Int[Tensor, " m"]:
        """Width of each module's out basis."""
        return self.out_side.rank

    @property
    def in_rank(self) -> Int[Tensor, " m"]:
        """Width of each module's in basis."""
        return self.in_side.rank

    @property
    def out_basis(self) -> Float[Tensor, "m d_out p"]:
        """The orthonormal out basis, built when asked for; zero columns beyond `out_rank`."""
        return self.out_side.basis()

    @property
    def in_basis(self) -> Float[Tensor, "m d_in q"]:
        """The orthonormal in basis, built when asked for; zero columns beyond `in_rank`."""
        return self.in_side.basis()

    @cached_property
    def core(self) -> Float[Tensor, "m p q n"]:
        """The dense core, `m * p * q * n` numbers, built when first asked for. Prefer the blocks where they serve."""
        slices = [self.out_blocks[:, :, b] @ self.in_blocks[:, :, b].mT for b in self.blocks()]
        return torch.stack(slices, dim=3)

    def blocks(self) -> list[slice]:
        """The columns of each adapter, in order."""
        return blocks_of(self.ranks)

    def singular_values(self) -> Float[Tensor, "m P"]:
        """The singular values of every adapter, side by side as the columns are."""
        return self._values

    @cached_property
    def _values(self) -> Float[Tensor, "m P"]:
        return self.out_blocks.square().sum(dim=1)

    def spread(self, adapter_weights: Float[Tensor, "m n"]) -> Float[Tensor, "m P"]:
        """One number per adapter as one number per column."""
        lengths = torch.tensor(self.ranks, device=self.out_blocks.device)
        return torch.repeat_interleave(adapter_weights.to(self.out_blocks), lengths, dim=1)

    def weighted_sum(self, adapter_weights: Float[Tensor, "m n"]) -> Float[Tensor, "m p q"]:
        """`sum_i w_i delta_i` in the bases."""
        return (self.out_blocks * self.spread(adapter_weights)[:, None]) @ self.in_blocks.mT

    def size(self) -> Float[Tensor, " m"]:
        """Frobenius norm of the whole `(d_out, d_in, n)` tensor of each module."""
        return torch.linalg.vector_norm(self.singular_values(), dim=1)


def compress_stack(
    stack: ModuleStack, *, dtype: torch.dtype = torch.float64, rank_tol: float | None = None
) -> CompressedStack:
    """Express the adapters of each module in orthonormal bases of their joint column and row spaces.

    Exact to rounding for every adapter by its own norm, however small it is beside the others and however its scale is
    split between its two factors. Cost: one Gram matrix or QR factorization of `(d, P)` per module and side, or of
    `(d, d)` where P exceeds d.

    Args:
        rank_tol: directions below this share of the largest are dropped; None takes `8 * P` units of rounding in
            `dtype`, the noise that QR leaves in columns that depend on one another.

    Raises:
        NumericalError: a factor holds NaN or infinity, or a product overflows; names module and adapter.

    Source: Carroll, Pruzansky and Kruskal 1980 (CANDELINC); Kolda and Bader 2009, section 3.
    """
    tol = 8 * max(1, stack.total_rank) * torch.finfo(dtype).eps if rank_tol is None else rank_tol
    modules = [_compress_module(stack, j, dtype, tol) for j in range(stack.m)]
    out_bases, out_blocks, in_bases, in_blocks = zip(*modules, strict=True)
    return CompressedStack(
        names=stack.names,
        ranks=stack.ranks,
        out_side=Side(out_bases),
        in_side=Side(in_bases),
        out_blocks=_side_by_side(out_blocks),
        in_blocks=_side_by_side(in_blocks),
    )


def lift(
    compressed: CompressedStack, out_small: Float[Tensor, "m p R"], in_small: Float[Tensor, "m q R"]
) -> LowRankDelta:
    """Carry `out_small @ in_small.mT`, a matrix in the compressed bases, back to full size as a LoRA of rank R.

    Raises:
        ShapeError: the small factors are not of the core's sizes.
    """
    m, p, q = compressed.m, compressed.out_blocks.shape[1], compressed.in_blocks.shape[1]
    if out_small.shape[:2] != (m, p) or in_small.shape[:2] != (m, q) or out_small.shape[2] != in_small.shape[2]:
        raise ShapeError(
            "the small factors do not fit the compressed stack",
            found=f"{tuple(out_small.shape)} and {tuple(in_small.shape)}",
            expected=f"({m}, {p}, R) and ({m}, {q}, R)",
            do="lift only what was computed from this stack's core",
        )
    lora_b, lora_a = compressed.out_side.lift(out_small), compressed.in_side.lift(in_small)
    if lora_b.dtype != lora_a.dtype:
        lora_b, lora_a = lora_b.float(), lora_a.float()
    return LowRankDelta(compressed.names, lora_b, lora_a.mT)


_Module = tuple[Basis, Tensor, Basis, Tensor]


def _side_by_side(blocks: tuple[Tensor, ...]) -> Tensor:
    # One row at least, so that later stages need no case for empty axes.
    height = max(1, *(block.shape[0] for block in blocks))
    return torch.stack([pad(block, (0, 0, 0, height - block.shape[0])) for block in blocks])


def _compress_module(stack: ModuleStack, j: int, dtype: torch.dtype, tol: float) -> _Module:
    """Bases and blocks of one module; the work goes module by module, so its bytes are the same in any batch."""
    out_found = gram_coordinates(stack.out_stack[j], dtype)
    in_found = gram_coordinates(stack.in_stack[j], dtype) if out_found is not None else None
    if out_found is None or in_found is None:
        return _compress_with_care(stack, j, dtype, tol)
    (out_columns, out_basis), (in_columns, in_basis) = out_found, in_found
    out_unit, in_unit, size = _triplets(stack, j, out_columns, in_columns)
    return _sized((out_basis, out_unit, in_basis, in_unit), size, stack)


def _compress_with_care(stack: ModuleStack, j: int, dtype: torch.dtype, tol: float) -> _Module:
    """The same by QR and SVD, for columns that nearly depend on one another or are not finite."""
    # Where no adapter has the module a zero column stands in, so that every matrix below has a column.
    spare = (0, 1 if stack.total_rank == 0 else 0)
    out_wide, in_wide = (pad(side[j].to(dtype), spare) for side in (stack.out_stack, stack.in_stack))
    _refuse_non_finite(stack, j, out_wide, in_wide)
    (out_columns, out_basis), (in_columns, in_basis) = qr_coordinates(out_wide, dtype), qr_coordinates(in_wide, dtype)
    if stack.total_rank == 0:
        return _nothing(out_basis), out_columns[:0, :0], _nothing(in_basis), in_columns[:0, :0]
    out_unit, in_unit, size = _triplets(stack, j, out_columns, in_columns)
    out_unit, out_basis = shared_basis(out_basis, out_unit, tol)
    in_unit, in_basis = shared_basis(in_basis, in_unit, tol)
    return _sized((out_basis, out_unit, in_basis, in_unit), size, stack)


def _triplets(stack: ModuleStack, j: int, out_columns: Tensor, in_columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out_unit, in_unit, size = balanced_triplets(out_columns, in_columns, stack.ranks)
    if not torch.isfinite(size).all():
        _refuse_adapter(stack, j, int((~torch.isfinite(size)).nonzero()[0]), "the product lora_b @ lora_a overflows")
    return out_unit, in_unit, size


def _sized(module: _Module, size: Tensor, stack: ModuleStack) -> _Module:
    """The module with every adapter at its own size, split evenly between the sides, and the signs of columns fixed."""
    out_basis, out_unit, in_basis, in_unit = module
    root = torch.repeat_interleave(size.sqrt(), torch.tensor(stack.ranks, device=size.device))
    factor = root * _signs(out_basis, out_unit)
    return out_basis, out_unit * factor, in_basis, in_unit * factor


def _signs(basis: Basis, columns: Tensor) -> Tensor:
    """One sign per pair of columns, fixed by a direction of the full space, so that no choice of basis shows."""
    sizes = torch.linalg.vector_norm(columns, dim=0)
    # A part of the rows tells nearly always; all of them are asked where a column is hardly seen in that part.
    for every in (max(1, basis.source.shape[0] // _SIGN_ROWS), 1):
        rows = at_least_single(basis.source[::every])
        fixed = torch.arange(1, len(rows) + 1, dtype=columns.dtype, device=columns.device)
        fixed = fixed.mul(0.6180339887498949).frac() - 0.5
        along = basis.along((fixed.to(rows.dtype) @ rows).to(columns.dtype)) @ columns
        if bool((along.abs() >= _SEEN * sizes).all()):
            break
    return torch.where(along < 0, -1.0, 1.0).to(columns.dtype)


def _nothing(basis: Basis) -> Basis:
    return Basis(basis.source, basis.turn[:, :0])  # comes from QR, so nothing is to be solved


def _refuse_non_finite(stack: ModuleStack, j: int, out_columns: Tensor, in_columns: Tensor) -> None:
    finite = torch.isfinite(out_columns).all(dim=0) & torch.isfinite(in_columns).all(dim=0)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        adapter = next(i for i, block in enumerate(stack.blocks()) if block.start <= bad < block.stop)
        _refuse_adapter(stack, j, adapter, "a LoRA factor holds NaN or infinity")


def _refuse_adapter(stack: ModuleStack, j: int, adapter: int, what: str) -> None:
    raise NumericalError(
        what,
        where=f"module {stack.names[j]}, adapter {adapter}",
        found="a value that is not finite",
        expected="finite numbers",
        do="leave this adapter out, or train it again",
    )
