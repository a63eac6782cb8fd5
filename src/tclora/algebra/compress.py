"""Exact compression: a stack of `n` low-rank updates as two orthonormal bases and one small core.

In: a `ModuleStack`. Out: a `CompressedStack`, with `delta_i = out_basis @ core[..., i] @ in_basis.T` in every module,
so norms, inner products and CP errors of the core are those of the full `(d_out, d_in, n)` tensor, which is never
built. Refused: NaN and infinity, by module and adapter.

The bases come from QR, not from a Gram matrix: adapters of one base are often nearly equal, and squaring would lose
what sets them apart. The work goes module by module, so a module's result has the same bytes in any batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra.lowrank import column_signs
from tclora.algebra.stack import LowRankDelta, ModuleStack
from tclora.errors import NumericalError, ShapeError
from tclora.shapes import Float, Int

__all__ = ["CompressedStack", "compress_stack", "lift"]


@dataclass(frozen=True)
class CompressedStack:
    """`n` adapters of `m` modules in the joint bases of their column and row spaces.

    `p` and `q` are the largest numerical ranks in the batch. Module `j` uses its first `out_rank[j]` and `in_rank[j]`
    basis columns, which are orthonormal; the columns beyond, and the core there, are zero.
    """

    names: tuple[str, ...]
    out_basis: Float[Tensor, "m d_out p"]
    in_basis: Float[Tensor, "m d_in q"]
    core: Float[Tensor, "m p q n"]
    out_rank: Int[Tensor, " m"]
    in_rank: Int[Tensor, " m"]


def compress_stack(
    stack: ModuleStack, *, dtype: torch.dtype = torch.float64, rank_tol: float | None = None
) -> CompressedStack:
    """Express the adapters of each module in orthonormal bases of their joint column and row spaces.

    Exact to rounding for every adapter by its own norm, however small it is beside the others and however its scale is
    split between its two factors. Cost: two QR factorizations of `(d, P)` per module.

    Args:
        rank_tol: directions below this share of the largest are dropped; None takes `8 * P` units of rounding in
            `dtype`, the noise that QR leaves in columns that depend on one another.

    Raises:
        NumericalError: a factor holds NaN or infinity, or a product overflows; names module and adapter.

    Source: Carroll, Pruzansky and Kruskal 1980 (CANDELINC); Kolda and Bader 2009, section 3.
    """
    tol = 8 * max(1, stack.total_rank) * torch.finfo(dtype).eps if rank_tol is None else rank_tol
    modules = [_compress_module(stack, j, dtype, tol) for j in range(stack.m)]
    out_rank, in_rank = (_ranks(modules, side) for side in (0, 1))
    # One column at least, so that later stages need no case for empty axes.
    p, q = max(1, int(out_rank.max())), max(1, int(in_rank.max()))
    return CompressedStack(
        names=stack.names,
        out_basis=torch.stack([pad(out, (0, p - out.shape[1])) for out, _, _ in modules]),
        in_basis=torch.stack([pad(into, (0, q - into.shape[1])) for _, into, _ in modules]),
        core=torch.stack([pad(c, (0, 0, 0, q - c.shape[1], 0, p - c.shape[0])) for _, _, c in modules]),
        out_rank=out_rank,
        in_rank=in_rank,
    )


def lift(
    compressed: CompressedStack, out_small: Float[Tensor, "m p R"], in_small: Float[Tensor, "m q R"]
) -> LowRankDelta:
    """Carry `out_small @ in_small.mT`, a matrix in the compressed bases, back to full size as a LoRA of rank R.

    Raises:
        ShapeError: the small factors are not of the core's sizes.
    """
    m, p, q, _ = compressed.core.shape
    if out_small.shape[:2] != (m, p) or in_small.shape[:2] != (m, q) or out_small.shape[2] != in_small.shape[2]:
        raise ShapeError(
            "the small factors do not fit the compressed stack",
            found=f"{tuple(out_small.shape)} and {tuple(in_small.shape)}",
            expected=f"({m}, {p}, R) and ({m}, {q}, R)",
            do="lift only what was computed from this stack's core",
        )
    dtype = compressed.core.dtype
    lora_b = compressed.out_basis @ out_small.to(dtype)
    return LowRankDelta(compressed.names, lora_b, (compressed.in_basis @ in_small.to(dtype)).mT)


def _ranks(modules: list[tuple[Tensor, Tensor, Tensor]], side: int) -> Tensor:
    return torch.tensor([module[side].shape[1] for module in modules], device=modules[0][side].device)


def _compress_module(stack: ModuleStack, j: int, dtype: torch.dtype, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Bases `(d_out, p_j)`, `(d_in, q_j)` and core `(p_j, q_j, n)` of one module."""
    # Where no adapter has the module a zero column stands in, so that every matrix below has a column.
    spare = (0, 1 if stack.total_rank == 0 else 0)
    out_columns, in_columns = (pad(side[j].to(dtype), spare) for side in (stack.out_stack, stack.in_stack))
    _refuse_non_finite(stack, j, out_columns, in_columns)
    # Householder QR is stable column by column, so the split of scale between the two sides loses nothing here.
    out_wide, out_coordinates = torch.linalg.qr(out_columns)
    in_wide, in_coordinates = torch.linalg.qr(in_columns)
    out_blocks, in_blocks, size = _balanced_blocks(
        _by_adapter(out_coordinates, stack), _by_adapter(in_coordinates, stack)
    )
    if not torch.isfinite(size).all():
        _refuse_adapter(stack, j, int((~torch.isfinite(size)).nonzero()[0]), "the product lora_b @ lora_a overflows")
    out_basis, out_blocks = _joint_basis(out_wide, out_blocks, tol)
    in_basis, in_blocks = _joint_basis(in_wide, in_blocks, tol)
    core = (out_blocks * size[:, None, None]) @ in_blocks.mT
    return out_basis, in_basis, core.permute(1, 2, 0).contiguous()


def _by_adapter(coordinates: Tensor, stack: ModuleStack) -> Tensor:
    """Cut `(k, P)` into `(n, k, r_max)`; zero columns fill up the narrower adapters and change no product."""
    width = max(1, *stack.ranks)
    return torch.stack(
        [pad(coordinates[:, block], (0, width - (block.stop - block.start))) for block in stack.blocks()]
    )


def _balanced_blocks(out_blocks: Tensor, in_blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rewrite each adapter's product with orthogonal columns carrying the roots of its singular values.

    Returned at unit size, with the size of each adapter beside them: the joint bases then see the directions of a small
    adapter as clearly as those of a large one.
    """
    out_turn, out_small = torch.linalg.qr(out_blocks)
    in_turn, in_small = torch.linalg.qr(in_blocks)
    product = out_small @ in_small.mT
    overflow = ~torch.isfinite(product).flatten(1).all(dim=1)
    # The SVD must not see infinity; the caller finds it in the size.
    u, s, vh = torch.linalg.svd(torch.where(overflow[:, None, None], 0, product), full_matrices=False)
    size = torch.where(overflow, torch.inf, s[:, 0])
    root = (s / torch.where(s[:, :1] > 0, s[:, :1], 1)).sqrt()[:, None]
    return out_turn @ u * root, in_turn @ vh.mT * root, size


def _joint_basis(wide: Tensor, blocks: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """Orthonormal `(d, rank)` basis of the columns `wide @ block` of all blocks, and the blocks `(n, rank, r)` in it.

    Singular directions with fixed signs: they depend neither on the order of the adapters nor on how each was factored.
    """
    side_by_side = blocks.permute(1, 0, 2).flatten(1)
    u, s, vh = torch.linalg.svd(side_by_side, full_matrices=False)
    rank = int(((s > tol * s[:1]) & (s > 0)).sum())
    basis = wide @ u[:, :rank]
    signs = column_signs(basis)
    coordinates = signs.T * s[:rank, None] * vh[:rank]
    return basis * signs, coordinates.unflatten(1, (blocks.shape[0], blocks.shape[2])).permute(1, 0, 2)


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
