"""One side of a stack as an orthonormal basis and coordinates in it, by the cheapest way that keeps the digits.

In: the columns `(d, P)` of all adapters of one module on one side. Out: coordinates `(p, P)` and a `Basis` that carries
small factors back to `(d, R)`. A well-conditioned side needs one Gram matrix: `columns = basis @ coordinates` holds to
rounding whatever the Gram matrix lost, and the basis is orthonormal to the bound below. Any other side goes through QR.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra.column_gram import column_gram
from tclora.algebra.stack import at_least_single
from tclora.shapes import Float, Int

__all__ = ["Basis", "Side", "gram_coordinates", "qr_coordinates", "shared_basis"]

# The least pivot of the Cholesky factor of a Gram matrix of unit columns: orthonormality is lost by about
# `sqrt(P) / pivot^2` roundings, so at most about 1,000 of them.
_LEAST_PIVOT = 0.1
# Columns smaller than this lose digits when squared.
_TINY = 1e-15

# Float32 columns with at least this many numbers get their Gram matrix in float32: each entry is a sum of thousands of
# products, whose roundings average out; orthonormality is good to about 1e-6 then. The bound on pivots is stricter.
_MANY = 2**18
_LEAST_SINGLE_PIVOT = 0.4


@dataclass(frozen=True)
class Basis:
    """The orthonormal basis `source @ turn` of one module's side, kept as this product.

    `solved`: `turn` is an upper triangle and its inverse is meant, which is never built for a few columns.
    """

    source: Float[Tensor, "d k"]
    turn: Float[Tensor, "k p"]
    solved: bool = False

    def mix(self, small: Float[Tensor, "p R"]) -> Float[Tensor, "k R"]:
        """`turn @ small`: coordinates in the basis as coordinates in the columns of `source`."""
        return torch.linalg.solve_triangular(self.turn, small, upper=True) if self.solved else self.turn @ small

    def along(self, row: Float[Tensor, " k"]) -> Float[Tensor, " p"]:
        """`row @ turn`."""
        if self.solved:
            return torch.linalg.solve_triangular(self.turn.mT, row[:, None], upper=False)[:, 0]
        return row @ self.turn

    def lift(self, small: Float[Tensor, "p_wide R"]) -> Float[Tensor, "R d"]:
        """`(basis @ small).T`, in float32 from large float32 columns; rows of `small` beyond the basis are dropped."""
        mixed = self.mix(small[: self.turn.shape[1]].to(self.turn.dtype))
        source = at_least_single(self.source)
        dtype = source.dtype if _is_large(source) else self.turn.dtype
        return mixed.to(dtype).mT @ source.to(dtype).mT


@dataclass(frozen=True)
class Side:
    """The bases of one side of `m` modules."""

    bases: tuple[Basis, ...]

    @property
    def rank(self) -> Int[Tensor, " m"]:
        """The width of each module's basis."""
        widths = [basis.turn.shape[1] for basis in self.bases]
        return torch.tensor(widths, device=self.bases[0].turn.device)

    def lift(self, small: Float[Tensor, "m p R"]) -> Float[Tensor, "m d R"]:
        """Every module's small factor at full size, as a view of its rows: wide products are the faster ones."""
        return torch.stack([basis.lift(part) for basis, part in zip(self.bases, small, strict=True)]).mT

    def basis(self) -> Float[Tensor, "m d p"]:
        """The bases as matrices, filled up with zero columns to one width."""
        width = max(1, *(basis.turn.shape[1] for basis in self.bases))
        eyes = [torch.eye(b.turn.shape[1], dtype=b.turn.dtype, device=b.turn.device) for b in self.bases]
        columns = [b.source.to(b.turn.dtype) @ b.mix(eye) for b, eye in zip(self.bases, eyes, strict=True)]
        return torch.stack([pad(c, (0, width - c.shape[1])) for c in columns])


def gram_coordinates(columns: Float[Tensor, "d P"], dtype: torch.dtype) -> tuple[Tensor, Basis] | None:
    """Coordinates and basis by one Gram matrix, or None where the columns are not well conditioned (or not finite)."""
    d, total_rank = columns.shape
    if total_rank == 0:
        return None
    if total_rank > d:
        return _whole_space(columns.to(dtype))
    single = at_least_single(columns)
    if _is_large(single):
        found = _cholesky(columns, single, dtype, _LEAST_SINGLE_PIVOT)
        if found is not None:
            return found
    return _cholesky(columns, columns.to(dtype), dtype, _LEAST_PIVOT)


def _is_large(columns: Tensor) -> bool:
    return columns.dtype == torch.float32 and columns.numel() >= _MANY


def _cholesky(source: Tensor, columns: Tensor, dtype: torch.dtype, least_pivot: float) -> tuple[Tensor, Basis] | None:
    gram = column_gram(columns).to(dtype)
    norms = gram.diagonal().sqrt()
    # An overflow or a NaN shows in the norms; squares that vanish would not, and those columns need QR.
    if not bool((norms > _TINY).all() and torch.isfinite(norms).all()):
        return None
    lower, info = torch.linalg.cholesky_ex(gram / (norms[:, None] * norms))
    if int(info) or not float(lower.diagonal().min()) >= least_pivot:
        return None
    coordinates = lower.mT * norms
    return coordinates, Basis(source, coordinates, solved=True)


def _whole_space(wide: Tensor) -> tuple[Tensor, Basis] | None:
    """Columns that fill the whole space evenly: its own axes are the basis and nothing need be computed."""
    d, norms = wide.shape[0], torch.linalg.vector_norm(wide, dim=0)
    if not bool((norms > _TINY).all() and torch.isfinite(norms).all()):
        return None
    unit = wide / norms
    gram = unit @ unit.mT
    lower, info = torch.linalg.cholesky_ex(gram / gram.diagonal().mean())
    if int(info) or not float(lower.diagonal().min()) >= _LEAST_PIVOT:
        return None
    eye = torch.eye(d, dtype=wide.dtype, device=wide.device)
    return wide, Basis(eye, eye)


def qr_coordinates(columns: Float[Tensor, "d P"], dtype: torch.dtype) -> tuple[Tensor, Basis]:
    """Coordinates and basis by Householder QR, which is stable column by column; the basis may be wider than needed."""
    orthonormal, coordinates = torch.linalg.qr(columns.to(dtype))
    return coordinates, Basis(orthonormal, torch.eye(orthonormal.shape[1], dtype=dtype, device=columns.device))


def shared_basis(wide: Basis, unit_blocks: Float[Tensor, "k P"], tol: float) -> tuple[Tensor, Basis]:
    """The part of a basis that the blocks use: coordinates of the blocks, and the basis cut to their numerical rank.

    The blocks come at unit size for every adapter, so the directions of a small one count like those of a large one.
    """
    u, s, vh = torch.linalg.svd(unit_blocks, full_matrices=False)
    rank = int(((s > tol * s[:1]) & (s > 0)).sum())
    return s[:rank, None] * vh[:rank], Basis(wide.source, wide.mix(u[:, :rank]))
