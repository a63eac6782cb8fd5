"""A matrix that is read in tiles of rows, and its best approximation of a given rank.

In: a `TiledMatrix`, a rank and a few starting columns. Out: two factors, with the relative error that truncation costs.
Where the rank reaches the matrix or the matrix is small this is one dense SVD, the best approximation there is (Eckart
and Young). Otherwise it is subspace iteration from the starting columns (Halko, Martinsson and Tropp 2011, algorithm
4.4), which reads the matrix a few times and never holds it; the error is then measured, tile by tile, from the
residual itself. It exceeded the least possible by at most 0.9 % where it was measured, on spectra as flat as random
masks leave them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra import svd_of_product, truncate_core_sum
from tclora.shapes import Float

__all__ = ["TiledMatrix", "Truncated", "best_of_rank", "sketch_width"]

# Matrices up to this many rows or columns are factored whole: 20 ms.
_SMALL = 256
# A matrix is held, in float32, while it is read again and again, where it fits in this many bytes.
_HELD_BYTES = 256_000_000
_HELD_ROWS = 256
_ITERATIONS = 2


@dataclass(frozen=True)
class TiledMatrix:
    """A matrix given by a function that reads it, tile by tile, as often as asked."""

    shape: tuple[int, int]
    device: torch.device
    read: Callable[[], Iterator[tuple[slice, Tensor]]]

    def dense(self) -> Float[Tensor, "rows cols"]:
        """The whole matrix."""
        whole = torch.empty(self.shape, dtype=torch.float64, device=self.device)
        for rows, tile in self.read():
            whole[rows] = tile
        return whole

    def held(self, limit: int = _HELD_BYTES) -> "TiledMatrix":
        """The same matrix, read once and rounded to float32, the precision of an adapter; itself where it is large."""
        if 4 * self.shape[0] * self.shape[1] > limit:
            return self
        whole = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        for rows, tile in self.read():
            whole[rows] = tile.float()

        def read() -> Iterator[tuple[slice, Tensor]]:
            for start in range(0, self.shape[0], _HELD_ROWS):
                rows = slice(start, min(start + _HELD_ROWS, self.shape[0]))
                yield rows, whole[rows].double()

        return TiledMatrix(self.shape, self.device, read)

    def times(self, right: Float[Tensor, "cols k"]) -> Float[Tensor, "rows k"]:
        """`M @ right`."""
        product = right.new_empty(self.shape[0], right.shape[1])
        for rows, tile in self.read():
            torch.mm(tile, right, out=product[rows])
        return product

    def transposed_times(self, left: Float[Tensor, "rows k"]) -> Float[Tensor, "cols k"]:
        """`M.T @ left`."""
        product = left.new_zeros(self.shape[1], left.shape[1])
        for rows, tile in self.read():
            product.addmm_(tile.mT, left[rows])
        return product

    def gram_times(self, right: Float[Tensor, "cols k"]) -> Float[Tensor, "cols k"]:
        """`M.T @ M @ right`, in one reading."""
        product = torch.zeros_like(right)
        for _, tile in self.read():
            product.addmm_(tile.mT, tile @ right)
        return product


@dataclass(frozen=True)
class Truncated:
    """A matrix as `left @ right.mT`, with what that loses (`relative_error`), its norm and its share of zeros."""

    left: Float[Tensor, "rows R"]
    right: Float[Tensor, "cols R"]
    relative_error: float
    size: float
    zeros: float


def sketch_width(rank: int) -> int:
    """How many columns the iteration carries for a result of `rank`."""
    return rank + max(16, rank // 2)


def best_of_rank(matrix: TiledMatrix, rank: int, start: Callable[[int], Float[Tensor, "cols k"]]) -> Truncated:
    """The best approximation of `rank`, or one close to it, with factors of equal size and fixed signs.

    Of a matrix that is not finite the size is infinite and the factors are zero.

    Args:
        start: gives so many columns to start from; near the row space of the matrix is best. Used for large matrices.
    """
    if min(matrix.shape) <= max(_SMALL, sketch_width(rank)):
        return _factored_whole(matrix.dense(), rank)
    return _iterated(matrix.held(), rank, start(sketch_width(rank)))


def _factored_whole(whole: Tensor, rank: int) -> Truncated:
    size = float(torch.linalg.matrix_norm(whole))
    # A matrix that is not finite has no factors; its size tells the caller.
    finite = whole if math.isfinite(size) else torch.zeros_like(whole)
    left, right, error = truncate_core_sum(finite[None], rank)
    return Truncated(left[0], right[0], float(error[0]), size, float((whole == 0).double().mean()))


def _iterated(matrix: TiledMatrix, rank: int, columns: Tensor) -> Truncated:
    for _ in range(_ITERATIONS):
        columns = torch.linalg.qr(columns)[0]
        columns = matrix.gram_times(columns)
    if not bool(torch.isfinite(columns).all()):
        # As above: what is not finite has no factors.
        left, right = columns.new_zeros(matrix.shape[0], rank), columns.new_zeros(matrix.shape[1], rank)
        return Truncated(left, right, 0.0, math.inf, 0.0)
    basis = torch.linalg.qr(matrix.times(torch.linalg.qr(columns)[0]))[0]
    rest = matrix.transposed_times(basis)
    u, s, vh = (part[0] for part in svd_of_product(basis[None], rest.mT[None]))
    root = s[:rank].sqrt()
    left, right = u[:, :rank] * root, vh[:rank].mT * root
    lost, whole, zeros = 0.0, 0.0, 0
    for rows, tile in matrix.read():
        whole += float(tile.square().sum())
        zeros += int((tile == 0).sum())
        lost += float(tile.sub_(left[rows] @ right.mT).square_().sum())
    n_entries = matrix.shape[0] * matrix.shape[1]
    return Truncated(left, right, (lost / whole) ** 0.5 if whole else 0.0, whole**0.5, zeros / n_entries)
