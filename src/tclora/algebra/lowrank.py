"""What can be said of `lora_b @ lora_a` without building it: SVD, balance, distance, best truncation.

Each function takes a batch of `m` products and works on the small factors left by two thin QR factorizations, so the
cost is O(d r^2) and nothing of size `d_out * d_in` exists. Results are in the dtype given, except distances, which are
always taken in float64. Signs are fixed: the largest entry of each left vector is positive.
"""

import torch
from torch import Tensor

from tclora.algebra.stack import LowRankDelta
from tclora.errors import ShapeError
from tclora.shapes import Float, Int

__all__ = ["balance", "numerical_rank", "relative_distance", "svd_of_product", "truncate_core_sum"]


def svd_of_product(
    lora_b: Float[Tensor, "m d_out r"], lora_a: Float[Tensor, "m r d_in"]
) -> tuple[Float[Tensor, "m d_out k"], Float[Tensor, "m k"], Float[Tensor, "m k d_in"]]:
    """Singular value decomposition of `lora_b @ lora_a`, with `k = min(d_out, d_in, r)`.

    Returns:
        `U`, `S` (descending), `Vh`; `U @ diag(S) @ Vh` is the product.
    """
    left, left_small = torch.linalg.qr(lora_b)
    right, right_small = torch.linalg.qr(lora_a.mT)
    u, s, vh = torch.linalg.svd(left_small @ right_small.mT, full_matrices=False)
    signs = column_signs(left @ u)
    return (left @ u) * signs, s, (vh @ right.mT) * signs.mT


def balance(
    lora_b: Float[Tensor, "m d_out r"], lora_a: Float[Tensor, "m r d_in"]
) -> tuple[Float[Tensor, "m d_out r"], Float[Tensor, "m r d_in"]]:
    """The same product with orthogonal factors that carry the square roots of its singular values.

    The result does not depend on how the product was factored (`lora_b @ G`, `inv(G) @ lora_a`). Where `r` exceeds the
    rank of the product the spare columns are zero.
    """
    u, s, vh = svd_of_product(lora_b, lora_a)
    root, r = s.sqrt(), lora_b.shape[2]
    return _widen(u * root[:, None], r), _widen(vh.mT * root[:, None], r).mT


def truncate_core_sum(
    core_sum: Float[Tensor, "m p q"], rank: int
) -> tuple[Float[Tensor, "m p R"], Float[Tensor, "m q R"], Float[Tensor, " m"]]:
    """The best approximation of rank `rank` to each matrix, split evenly between its two factors.

    Returns:
        `out_small`, `in_small` with `out_small @ in_small.mT` the approximation, zero columns where `rank` exceeds the
        size; and the relative error, a Frobenius ratio (0 for a zero matrix).

    Raises:
        ShapeError: `rank` is below 1.

    Source: Eckart and Young 1936.
    """
    if rank < 1:
        raise ShapeError("a truncation keeps at least one term", found=f"rank {rank}", expected="rank >= 1")
    u, s, vh = torch.linalg.svd(core_sum, full_matrices=False)
    signs = column_signs(u)
    root = s[:, :rank].sqrt()[:, None]
    lost = torch.linalg.vector_norm(s[:, rank:], dim=1)
    out_small = (u * signs)[:, :, :rank] * root
    in_small = (vh.mT * signs)[:, :, :rank] * root
    return _widen(out_small, rank), _widen(in_small, rank), _ratio(lost, torch.linalg.vector_norm(s, dim=1))


def relative_distance(first: LowRankDelta, second: LowRankDelta) -> Float[Tensor, " m"]:
    """Frobenius norm of `first - second` over that of `second`, module by module, in float64.

    Taken from the factors of the difference, so it is accurate to rounding however close the two are; the expanded
    square `|a|^2 - 2<a, b> + |b|^2` would lose half of the digits.

    Returns:
        A ratio per module: 0 where both are zero, infinity where only `second` is.

    Raises:
        ShapeError: the two do not describe the same modules.
    """
    shapes = [(x.names, x.lora_b.shape[1], x.lora_a.shape[2]) for x in (first, second)]
    if shapes[0] != shapes[1]:
        raise ShapeError(
            "two updates of different modules have no distance",
            found=f"{len(shapes[0][0])} modules {shapes[0][1:]} and {len(shapes[1][0])} modules {shapes[1][1:]}",
            expected="the same module names in the same order, of one shape",
            do="compare updates of one stack",
        )
    b1, b2, a1, a2 = (x.double() for x in (first.lora_b, second.lora_b, first.lora_a, second.lora_a))
    difference = product_norm(torch.cat([b1, -b2], dim=2), torch.cat([a1, a2], dim=1))
    return _ratio(difference, product_norm(b2, a2))


def numerical_rank(singular_values: Float[Tensor, "m k"], *, tol: float) -> Int[Tensor, " m"]:
    """How many singular values exceed `tol` times the largest one of their matrix; 0 for a zero matrix."""
    largest = singular_values.amax(dim=1, keepdim=True)
    return ((singular_values > tol * largest) & (singular_values > 0)).sum(dim=1)


def product_norm(lora_b: Float[Tensor, "m d_out r"], lora_a: Float[Tensor, "m r d_in"]) -> Float[Tensor, " m"]:
    """Frobenius norm of each product, from its small factors."""
    left_small = torch.linalg.qr(lora_b, mode="r")[1]
    right_small = torch.linalg.qr(lora_a.mT, mode="r")[1]
    return torch.linalg.matrix_norm(left_small @ right_small.mT)


def column_signs(columns: Float[Tensor, "*batch d k"]) -> Float[Tensor, "*batch 1 k"]:
    """+1 or -1 per column, such that the entry of largest magnitude times it is positive.

    Entries within rounding of the largest count as equal and the first one decides, so that noise in the last bits
    cannot flip a column whose largest entries tie.
    """
    size = columns.abs()
    near_largest = size >= size.amax(dim=-2, keepdim=True) * (1 - 1e-6)
    first = near_largest.to(torch.uint8).argmax(dim=-2, keepdim=True)
    entry = torch.gather(columns, -2, first)
    return torch.where(entry < 0, -torch.ones_like(entry), torch.ones_like(entry))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(part == 0, torch.zeros_like(part), part / whole)


def _widen(columns: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(columns, (0, width - columns.shape[-1]))
