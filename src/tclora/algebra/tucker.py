"""Tucker models of many compressed stacks at once: joint bases of all adapters and one small core tensor per module.

In: a `CompressedStack` of `n` adapters. Out: a `TuckerFit`: `delta_i` is modelled by
`out_factor @ (sum_a adapter_factor[i, a] * core[:, :, a]) @ in_factor.T` with orthonormal factors. It starts from the
singular vectors of the three unfoldings (HOSVD) and improves one factor at a time (HOOI). Everything is computed from
the blocks, so the dense tensor is never built; the error is summed from residuals, never from an expanded norm.
Refused: ranks below 1, fewer than 0 iterations.

Source: De Lathauwer, De Moor and Vandewalle 2000 (HOSVD, HOOI); Kolda and Bader 2009, section 4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra.compress import CompressedStack
from tclora.errors import ConfigError, ShapeError
from tclora.shapes import Bool, Float, Int

__all__ = ["TuckerFit", "tucker_hooi"]

# Relative error of a model that is exact to rounding.
_NOTHING_LEFT = 1e-14


@dataclass(frozen=True)
class TuckerFit:
    """A Tucker model of each of `m` stacks, in the bases of the compressed stack, and how it was found.

    `relative_error` is the Frobenius norm of the residual over that of the tensor, `hosvd_error` that of the start.
    """

    out_factor: Float[Tensor, "m p R_out"]
    in_factor: Float[Tensor, "m q R_in"]
    adapter_factor: Float[Tensor, "m n R_n"]
    core: Float[Tensor, "m R_out R_in R_n"]
    relative_error: Float[Tensor, " m"]
    hosvd_error: Float[Tensor, " m"]
    n_iter: Int[Tensor, " m"]
    converged: Bool[Tensor, " m"]

    def weighted_core(self, adapter_weights: Float[Tensor, "m n"]) -> Float[Tensor, "m R_out R_in"]:
        """`sum_i w_i delta_i` of the model, in its own two bases."""
        along = (adapter_weights.to(self.core)[:, None] @ self.adapter_factor)[:, 0]
        return (self.core * along[:, None, None]).sum(dim=3)


@dataclass(frozen=True)
class _State:
    """The three factors of an iteration."""

    out_factor: Tensor
    in_factor: Tensor
    adapter_factor: Tensor

    def where(self, chosen: Tensor, other: "_State") -> "_State":
        """This state in the chosen modules, the other one elsewhere."""
        pick = chosen[:, None, None]
        pairs = zip(self.factors(), other.factors(), strict=True)
        return _State(*(torch.where(pick, mine, theirs) for mine, theirs in pairs))

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.out_factor, self.in_factor, self.adapter_factor


@dataclass(frozen=True)
class _Unit:
    """The stack at norm 1: blocks of both sides, and the singular values that their columns carry."""

    out_blocks: Tensor
    in_blocks: Tensor
    values: Tensor
    blocks: tuple[slice, ...]

    def spread(self, adapter_factor: Tensor) -> Tensor:
        """One row per adapter as one row per column."""
        owner = torch.cat([torch.full((b.stop - b.start,), i) for i, b in enumerate(self.blocks)]).long()
        return adapter_factor[:, owner.to(adapter_factor.device)]


def tucker_hooi(
    compressed: CompressedStack,
    rank: int,
    *,
    adapter_rank: int | None = None,
    max_iter: int = 100,
    tol: float = 1e-7,
) -> TuckerFit:
    """Fit a Tucker model with `rank` out and in directions and `adapter_rank` adapter directions to each module.

    Ranks beyond the size of a mode are cut to it; None leaves the adapter mode whole. The result is never worse than
    the HOSVD it starts from.

    Args:
        max_iter: HOOI sweeps at most; 0 returns the HOSVD.
        tol: a module has settled when its relative error falls by less than this in a sweep.

    Raises:
        ShapeError: a rank is below 1.
        ConfigError: `max_iter` or `tol` is negative.
    """
    _check_request(rank, adapter_rank, max_iter, tol)
    m, n = compressed.m, compressed.n
    size = compressed.size()
    unit = _unit(compressed, size)
    ranks = min(rank, unit.out_blocks.shape[1]), min(rank, unit.in_blocks.shape[1]), min(adapter_rank or n, n)
    state = _hosvd(unit, ranks)
    error = hosvd_error = _error(unit, state)
    n_iter = torch.zeros(m, dtype=torch.int64, device=size.device)
    # A model that holds everything has nothing to gain.
    settled = error <= _NOTHING_LEFT
    for _ in range(max_iter):
        if settled.all():
            break
        swept = _sweep(unit, state, ranks)
        reached = _error(unit, swept)
        # Rounding can raise the error of a model that has come to rest; such a sweep is not taken.
        better = ~settled & (reached < error)
        state, n_iter = swept.where(better, state), n_iter + (~settled).long()
        settled = settled | (error - reached < tol)
        error = torch.where(better, reached, error)
    core = _core(unit, state) * size[:, None, None, None]
    return TuckerFit(*state.factors(), core, error, hosvd_error, n_iter, settled)


def _unit(compressed: CompressedStack, size: Tensor) -> _Unit:
    scale = torch.where(size > 0, size, 1)
    root = scale.sqrt()[:, None, None]
    out_blocks, in_blocks = compressed.out_blocks / root, compressed.in_blocks / root
    return _Unit(out_blocks, in_blocks, compressed.singular_values() / scale[:, None], tuple(compressed.blocks()))


def _hosvd(unit: _Unit, ranks: tuple[int, int, int]) -> _State:
    """Singular vectors of the unfoldings. Within an adapter the columns of the other side are orthogonal, so the
    columns of one side, each times the length of its partner, have those of the unfolding."""
    length = unit.values.sqrt()[:, None]
    out_factor = _leading(unit.out_blocks * length, ranks[0])
    in_factor = _leading(unit.in_blocks * length, ranks[1])
    slices = _slices(unit, out_factor, in_factor)
    return _State(out_factor, in_factor, _leading(slices.flatten(1, 2).mT, ranks[2]))


def _sweep(unit: _Unit, state: _State, ranks: tuple[int, int, int]) -> _State:
    """Each factor in turn as the leading singular vectors of the tensor contracted with the other two."""
    owned = unit.spread(state.adapter_factor)[:, :, None]
    out_factor = _leading(unit.out_blocks @ _partner(unit.in_blocks, state.in_factor, owned), ranks[0])
    in_factor = _leading(unit.in_blocks @ _partner(unit.out_blocks, out_factor, owned), ranks[1])
    slices = _slices(unit, out_factor, in_factor)
    return _State(out_factor, in_factor, _leading(slices.flatten(1, 2).mT, ranks[2]))


def _partner(blocks: Tensor, factor: Tensor, owned: Tensor) -> Tensor:
    return ((factor.mT @ blocks).mT[:, :, :, None] * owned).flatten(2)


def _leading(matrix: Tensor, k: int) -> Tensor:
    """The first `k` left singular vectors, filled up to an orthonormal set where the matrix has fewer columns."""
    m, rows, columns = matrix.shape
    if k == rows:
        return torch.eye(rows, dtype=matrix.dtype, device=matrix.device).expand(m, -1, -1)
    return torch.linalg.svd(matrix, full_matrices=columns < k)[0][:, :, :k]


def _slices(unit: _Unit, out_factor: Tensor, in_factor: Tensor) -> Tensor:
    """Every adapter in the two bases, `(m, R_out, R_in, n)`."""
    out_small, in_small = out_factor.mT @ unit.out_blocks, in_factor.mT @ unit.in_blocks
    return torch.stack([out_small[:, :, b] @ in_small[:, :, b].mT for b in unit.blocks], dim=3)


def _core(unit: _Unit, state: _State) -> Tensor:
    slices = _slices(unit, state.out_factor, state.in_factor)
    return (slices.flatten(1, 2) @ state.adapter_factor).unflatten(1, slices.shape[1:3])


def _error(unit: _Unit, state: _State) -> Tensor:
    """Norm of the residual, as the three orthogonal parts that the three projections remove one after the other."""
    out_small = state.out_factor.mT @ unit.out_blocks
    out_rest = unit.out_blocks - state.out_factor @ out_small
    in_rest = unit.in_blocks - state.in_factor @ (state.in_factor.mT @ unit.in_blocks)
    lost = (out_rest.square().sum(dim=1) * unit.values).sum(dim=1)
    for b in unit.blocks:
        grams = [side[:, :, b].mT @ side[:, :, b] for side in (out_small, in_rest)]
        lost = lost + (grams[0] * grams[1]).sum(dim=(1, 2)).clamp(min=0)
    slices = _slices(unit, state.out_factor, state.in_factor).flatten(1, 2)
    lost = lost + (slices - slices @ state.adapter_factor @ state.adapter_factor.mT).square().sum(dim=(1, 2))
    return lost.sqrt()


def _check_request(rank: int, adapter_rank: int | None, max_iter: int, tol: float) -> None:
    if rank < 1 or (adapter_rank is not None and adapter_rank < 1):
        raise ShapeError(
            "a Tucker model has at least one direction in each mode",
            found=f"rank {rank}, adapter_rank {adapter_rank}",
            expected="ranks >= 1",
        )
    if max_iter < 0 or not tol >= 0:
        raise ConfigError(
            "the Tucker solver's settings are out of range",
            found=f"max_iter {max_iter}, tol {tol}",
            expected="max_iter >= 0, tol >= 0",
        )
