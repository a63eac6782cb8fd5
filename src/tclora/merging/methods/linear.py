"""Linear methods: weighted sums of deltas, exact as one wider LoRA.

In: a stack and weights. Out: `sum_i w_i delta_i`, by setting the adapters' factors side by side. Cost O(d P), no
factorization; above the module's own size the sum is rewritten at full rank, exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra import LowRankDelta, ModuleStack, compress_stack, lift, truncate_core_sum
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.shapes import Float

__all__ = ["MeanParams", "concatenate", "mean"]


@dataclass(frozen=True)
class MeanParams:
    """The mean has no parameters."""

    def holding(self, rank: int) -> "MeanParams":
        """Concatenation holds any rank."""
        return self


@MERGE_METHODS.register(
    "mean",
    source="Wortsman et al. 2022, arXiv 2203.05482",
    params=MeanParams,
    needs="adapters",
    leaves="rank P, exact",
    cost="O(d P)",
)
def mean(stack: ModuleStack, params: MeanParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Weighted sum of deltas (by default their mean), exact by concatenation; the R = P control.

    The result has rank `P`, the sum of the adapters' ranks, or `min(d_out, d_in)` where that is smaller.
    """
    delta = concatenate(stack, adapter_weights)
    zeros = torch.zeros(stack.m, dtype=torch.float64)
    return MergedStack(delta, zeros, zeros, tuple({} for _ in stack.names))


def concatenate(stack: ModuleStack, adapter_weights: Float[Tensor, "m n"]) -> LowRankDelta:
    """`sum_i w_i delta_i` with nothing dropped."""
    limit = min(stack.out_stack.shape[1], stack.in_stack.shape[1])
    if stack.total_rank > limit:
        compressed = compress_stack(stack)
        core_sum = compressed.weighted_sum(adapter_weights)
        out_small, in_small, _ = truncate_core_sum(core_sum, min(core_sum.shape[1:]))
        return lift(compressed, out_small, in_small)
    lengths = torch.tensor(stack.ranks, device=adapter_weights.device)
    spread = torch.repeat_interleave(adapter_weights, lengths, dim=1)[:, None].to(stack.out_stack.device, torch.float64)
    # The square root of the weight on both sides keeps the factors of like size, which half precision needs.
    root = spread.abs().sqrt()
    lora_b = stack.out_stack.double() * (root * spread.sign())
    return LowRankDelta(stack.names, lora_b, (stack.in_stack.double() * root).mT)
