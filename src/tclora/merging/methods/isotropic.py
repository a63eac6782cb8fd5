"""Isotropic merging: the singular values of the sum replaced by their mean, so that no direction drowns another.

In: a stack and weights. Out: a LoRA of rank P at most, exact for the method's formula. The released code averages over
all `min(d_out, d_in)` singular values of a dense sum; of a sum of LoRAs all but P are zero, with arbitrary vectors.
Here the mean is over the numerical rank, on the core. No setting of either method gives one adapter back.

Source: Marczak et al. 2025, arXiv 2502.04959.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra import CompressedStack, ModuleStack, compress_stack
from tclora.algebra.orthogonal import polar_factor
from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.alignment import check_rank_tol, lift_compact
from tclora.merging.methods.linear import exact
from tclora.shapes import Float

__all__ = ["IsoCParams", "IsoCtsParams", "iso_c", "iso_cts"]


@dataclass(frozen=True)
class IsoCParams:
    """`rank_tol`: singular values of the sum below this share of the largest are noise."""

    rank_tol: float = 1e-6

    def __post_init__(self):
        check_rank_tol(self.rank_tol, "iso_c")

    def holding(self, rank: int) -> None:
        """A flattened spectrum is not that of the adapter."""
        return None


@dataclass(frozen=True)
class IsoCtsParams:
    """`common`: share of the rank of the sum that stays common; the rest is split equally among the adapters.

    `rank_tol`: as in `iso_c`, for the sum, for what is left of each adapter, and for the joint vectors.
    """

    common: float = 0.8
    rank_tol: float = 1e-6

    def __post_init__(self):
        check_rank_tol(self.rank_tol, "iso_cts")
        if not 0 <= self.common <= 1:
            raise ConfigError("'common' of iso_cts is no share", found=self.common, expected="0 to 1")

    def holding(self, rank: int) -> None:
        """A flattened spectrum is not that of the adapter."""
        return None


@MERGE_METHODS.register(
    "iso_c",
    source="Marczak et al. 2025, arXiv 2502.04959, section 4.1",
    params=IsoCParams,
    needs="adapters",
    leaves="rank P",
    cost="O(d P^2 + P^3)",
    default_weight="one",
    breaks=("equal", "alone"),
)
def iso_c(stack: ModuleStack, params: IsoCParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Sum of deltas with all of its singular values replaced by their mean.

    `sum_i w_i delta_i = U S V^T` becomes `mean(S) U V^T`, over the numerical rank of the sum.
    """
    compressed = compress_stack(stack)
    u, s, vh = torch.linalg.svd(compressed.weighted_sum(adapter_weights), full_matrices=False)
    held = (s > params.rank_tol * s[:, :1]) & (s > 0)
    count = held.sum(dim=1)
    level = torch.where(held, s, 0).sum(dim=1) / count.clamp(min=1)
    root = (held * level[:, None].sqrt())[:, None]
    figures = tuple({"flat_rank": a, "flat_value": b} for a, b in zip(count.tolist(), level.tolist(), strict=True))
    return exact(lift_compact(compressed, u * root, vh.mT * root), figures)


@MERGE_METHODS.register(
    "iso_cts",
    source="Marczak et al. 2025, arXiv 2502.04959, section 4.2",
    params=IsoCtsParams,
    needs="adapters",
    leaves="rank P",
    cost="O(d P^2 + n P^3)",
    default_weight="one",
    breaks=("equal", "alone"),
)
def iso_cts(stack: ModuleStack, params: IsoCtsParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Isotropic merging with common and task-specific directions.

    The leading directions of the sum are common. Of each adapter, what they leave out on the out side gives its own
    leading directions. All of them are made orthonormal and get the mean of their singular values. With R the numerical
    rank of the sum and `n` adapters: `k = round((R - floor(common R)) / n)` directions for each, `R - n k` in common,
    fewer where an adapter has nothing more to give. Adapters that are zero or of weight 0 are not counted.
    """
    compressed = compress_stack(stack)
    weights = adapter_weights.to(compressed.out_blocks)
    sums = compressed.weighted_sum(weights)
    modules = [_common_and_own(compressed, j, sums[j], weights[j], params) for j in range(stack.m)]
    width = max(1, *(out.shape[1] for out, _, _ in modules))
    out_small = torch.stack([pad(out, (0, width - out.shape[1])) for out, _, _ in modules])
    in_small = torch.stack([pad(into, (0, width - into.shape[1])) for _, into, _ in modules])
    return exact(lift_compact(compressed, out_small, in_small), tuple(figures for _, _, figures in modules))


_Triplets = tuple[Tensor, Tensor, Tensor]


def _common_and_own(
    compressed: CompressedStack, j: int, total: Tensor, weights: Tensor, params: IsoCtsParams
) -> tuple[Tensor, Tensor, dict[str, object]]:
    """The two small factors of one module."""
    sizes = {i: compressed.out_blocks[j, :, b].square().sum(dim=0) for i, b in enumerate(compressed.blocks())}
    live = [i for i, s in sizes.items() if weights[i] != 0 and bool((s > 0).any())]
    whole = _triplets(total, params.rank_tol * float(torch.linalg.matrix_norm(total, 2)))
    own = _own_share(whole[1].shape[0], len(live), params.common)
    common: _Triplets = tuple(side[..., : whole[1].shape[0] - own * len(live)] for side in whole)  # pyright: ignore[reportAssignmentType]
    parts = [_own(compressed, j, i, common[0], float(weights[i]), (own, params.rank_tol)) for i in live] + [common]
    u, s, v = (torch.cat([part[side] for part in parts], dim=-1) for side in range(3))
    level = s.mean() if len(s) else s.sum()
    out_small, in_small = (polar_factor(side[None], tol=params.rank_tol)[0] * level.sqrt() for side in (u, v))
    figures: dict[str, object] = {
        "n_common": common[1].shape[0],
        "n_own": s.shape[0] - common[1].shape[0],
        "flat_value": float(level),
    }
    return out_small, in_small, figures


def _own_share(rank: int, n: int, common: float) -> int:
    """Directions of its own for each of `n` adapters, as the released code counts them."""
    if n == 0:
        return 0
    return min(round((rank - int(rank * common)) / n), rank // n)


def _own(
    compressed: CompressedStack, j: int, i: int, common: Tensor, weight: float, limits: tuple[int, float]
) -> _Triplets:
    """What the common directions leave of one adapter, at most so many of its leading triplets."""
    block = compressed.blocks()[i]
    out_part, in_part = compressed.out_blocks[j, :, block], compressed.in_blocks[j, :, block]
    rest = weight * (out_part - common @ (common.mT @ out_part)) @ in_part.mT
    noise = limits[1] * abs(weight) * float(out_part.square().sum(dim=0).max())
    u, s, v = _triplets(rest, noise)
    return u[:, : limits[0]], s[: limits[0]], v[:, : limits[0]]


def _triplets(matrix: Tensor, noise: float) -> _Triplets:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    held = int(((s > noise) & (s > 0)).sum())
    return u[:, :held], s[:held], vh[:held].mT
