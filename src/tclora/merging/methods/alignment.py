"""Alignment methods: adapters made to interfere less before they are added, in the joint bases.

In: a stack and weights. Out: a LoRA of rank P at most, exact for the method's formula. `tsv` makes the singular vectors
of all adapters orthonormal; `wudi` finds the update that acts like each adapter on that adapter's own inputs. Both work
on the singular triplets of the adapters, so only directions that an adapter really has take part: on dense deltas of
low rank the same formulas pick arbitrary vectors of the null space. Refused: negative weights in `wudi`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tclora.algebra import CompressedStack, LowRankDelta, ModuleStack, compress_stack, lift, truncate_core_sum
from tclora.algebra.directions import adapter_sizes, largest_values
from tclora.algebra.orthogonal import polar_factor, whitened
from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.linear import exact
from tclora.shapes import Bool, Float

__all__ = ["TsvParams", "WudiParams", "lift_compact", "tsv", "wudi"]


@dataclass(frozen=True)
class TsvParams:
    """`orthogonalize`: by the SVD polar factor, or by the inverse root of the Gram matrix (cheaper, less accurate).

    `rank_tol`: singular values below this share of an adapter's largest are noise, and so are directions of the joint
    singular vectors below this share of their strongest.
    """

    orthogonalize: Literal["polar", "whiten"] = "polar"
    rank_tol: float = 1e-6

    def __post_init__(self):
        check_rank_tol(self.rank_tol, "tsv")

    def holding(self, rank: int) -> "TsvParams":
        """The singular vectors of one adapter are orthonormal already."""
        return self


@dataclass(frozen=True)
class WudiParams:
    """`omega`: ridge, as a share of each adapter's squared norm; large values lead to the mean.

    `side`: `in` asks the merged delta to act like each adapter on the inputs that adapter reads (the published form);
    `out` asks the same of the transposed deltas (what the released code of mttl does, which stores deltas transposed).
    """

    omega: float = 1e-6
    side: Literal["in", "out"] = "in"

    def __post_init__(self):
        if not 0 <= self.omega < float("inf"):
            raise ConfigError("'omega' of wudi is no ridge", found=self.omega, expected="a finite number >= 0")

    def holding(self, rank: int) -> "WudiParams":
        """One adapter solves its own equation."""
        return self


def check_rank_tol(rank_tol: float, method: str) -> None:
    """Refuse a tolerance that would call everything noise."""
    if not 0 <= rank_tol < 1:
        raise ConfigError(f"'rank_tol' of {method} is no share", found=rank_tol, expected="0 <= rank_tol < 1")


@MERGE_METHODS.register(
    "tsv",
    source="Gargiulo et al. 2024, arXiv 2412.00081",
    params=TsvParams,
    needs="adapters",
    leaves="rank P",
    cost="O(d P^2 + P^3)",
    default_weight="one",
    breaks=("equal",),
)
def tsv(stack: ModuleStack, params: TsvParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Task singular vectors: the singular vectors of all adapters made orthonormal, then added with their own values.

    With `U`, `S`, `V` the singular triplets of all adapters side by side: `orth(U) diag(w S) orth(V)^T`, where
    `orth(U) = U (U^T U)^(-1/2)`. Each adapter keeps all of its singular vectors where they fit into the module
    together; else, as published, `floor(min(d_out, d_in) / n)` of them, and `relative_error` is the share that this
    leaves out. `n` equal adapters give one of them at weight 1. An adapter of weight 0 is left out.
    """
    compressed = compress_stack(stack)
    values = compressed.singular_values()
    spread = compressed.spread(adapter_weights)
    present = (values > params.rank_tol * largest_values(compressed, values)) & (values > 0) & (spread != 0)
    kept = _that_fit(compressed, present, min(stack.out_stack.shape[1], stack.in_stack.shape[1]))
    unit = torch.where(kept, torch.where(kept, values, 1).rsqrt(), 0)[:, None]
    orthonormal = polar_factor if params.orthogonalize == "polar" else whitened
    out_small, in_small = (
        orthonormal(side * unit, tol=params.rank_tol) for side in (compressed.out_blocks, compressed.in_blocks)
    )
    root = (values * spread).abs().sqrt()[:, None]
    delta = lift_compact(compressed, out_small * root * spread.sign()[:, None], in_small * root)
    size = torch.linalg.vector_norm(torch.where(spread != 0, values, 0), dim=1)
    lost = torch.linalg.vector_norm(torch.where(present & ~kept, values, 0), dim=1)
    figures = tuple({"n_vectors": count} for count in kept.sum(dim=1).tolist())
    return MergedStack(delta, lost / torch.where(size > 0, size, 1), size, figures)


@MERGE_METHODS.register(
    "wudi",
    source="Cheng et al. 2025, arXiv 2503.08099, in closed form",
    params=WudiParams,
    needs="adapters",
    leaves="rank P, exact",
    cost="O(d P^2 + P^3)",
)
def wudi(stack: ModuleStack, params: WudiParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """The update that differs least from each adapter on that adapter's own inputs, in closed form with a ridge.

    Minimizes `sum_i w_i |(delta - delta_i) delta_i^T|^2 / |delta_i|^2` plus a ridge, which is
    `[sum_i w_i delta_i (H_i + omega I)] [sum_i w_i (H_i + omega I)]^-1`, `H_i = delta_i^T delta_i / |delta_i|^2`. The
    paper steps towards it by Adam. Only the proportions of the weights matter; a zero delta takes no part.

    Raises:
        ConfigError: a weight is negative.
    """
    if bool((adapter_weights < 0).any()):
        raise ConfigError("wudi takes no negative weights", found=float(adapter_weights.min()), expected=">= 0")
    compressed = compress_stack(stack)
    values = compressed.singular_values()
    sizes = adapter_sizes(compressed)
    live = sizes > 0
    weights = adapter_weights.to(values) * live
    energy = (values / compressed.spread(torch.where(live, sizes, 1))).square()
    spread = compressed.spread(weights)
    solved, other = compressed.in_blocks, compressed.out_blocks
    if params.side == "out":
        solved, other = other, solved
    # Columns carry the roots of the singular values; a Gram matrix of unit vectors keeps its digits at any scale.
    unit = solved * torch.where(values > 0, torch.where(values > 0, values, 1).rsqrt(), 0)[:, None]
    gram = (unit * (spread * energy)[:, None]) @ unit.mT
    ridge = params.omega * weights.sum(dim=1)[:, None, None] * torch.eye(gram.shape[1]).to(gram)
    # Without a ridge, directions that are rounding only are left out.
    noise = 10 * max(1, stack.total_rank) * torch.finfo(torch.float64).eps
    inverse = torch.linalg.pinv(gram + ridge, hermitian=True, rtol=noise)
    solved = inverse @ (solved * (spread * (energy + params.omega))[:, None])
    out_small, in_small = (other, solved) if params.side == "in" else (solved, other)
    return exact(lift_compact(compressed, out_small, in_small))


def lift_compact(
    compressed: CompressedStack, out_small: Float[Tensor, "m p R"], in_small: Float[Tensor, "m q R"]
) -> LowRankDelta:
    """`lift`, rewritten exactly where R exceeds the joint bases."""
    limit = min(out_small.shape[1], in_small.shape[1])
    if out_small.shape[2] > limit:
        out_small, in_small, _ = truncate_core_sum(out_small @ in_small.mT, limit)
    return lift(compressed, out_small, in_small)


def _that_fit(compressed: CompressedStack, present: Bool[Tensor, "m P"], limit: int) -> Bool[Tensor, "m P"]:
    """All that are present where they are no more than `limit`, else equally many of each adapter."""
    places = torch.cat([torch.arange(rank) for rank in compressed.ranks]).to(present.device)
    live = torch.stack([present[:, b].any(dim=1) for b in compressed.blocks()], dim=1).sum(dim=1)
    share = (limit // live.clamp(min=1)).clamp(min=1)
    crowded = present.sum(dim=1) > limit
    return present & (~crowded[:, None] | (places < share[:, None]))
