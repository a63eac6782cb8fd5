"""Linear methods: weighted sums of deltas, exact as one wider LoRA.

In: a stack and weights. Out: `sum_i w_i delta_i`, by setting the adapters' factors side by side. Cost O(d P), no
factorization; above the module's own size `mean` and `task_arithmetic` rewrite the sum at full rank, exactly, and
`cat` does not.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tclora.algebra import LowRankDelta, ModuleStack, compress_stack, lift, truncate_core_sum
from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.shapes import Float

__all__ = [
    "MeanParams",
    "TaskArithmeticParams",
    "cat",
    "concatenate",
    "exact",
    "mean",
    "side_by_side",
    "task_arithmetic",
]


@dataclass(frozen=True)
class MeanParams:
    """A weighted sum has no parameters but its weights."""

    def holding(self, rank: int) -> "MeanParams":
        """Concatenation holds any rank."""
        return self


@dataclass(frozen=True)
class TaskArithmeticParams:
    """`coefficient`: what the sum of the deltas is multiplied by."""

    coefficient: float = 1.0

    def __post_init__(self):
        if not math.isfinite(self.coefficient):
            raise ConfigError("the coefficient of task_arithmetic is not a finite number", found=self.coefficient)

    def holding(self, rank: int) -> "TaskArithmeticParams":
        """One adapter comes back at coefficient 1."""
        return replace(self, coefficient=1.0)


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
    return exact(concatenate(stack, adapter_weights))


@MERGE_METHODS.register(
    "task_arithmetic",
    source="Ilharco et al. 2023, arXiv 2212.04089",
    params=TaskArithmeticParams,
    needs="adapters",
    leaves="rank P, exact",
    cost="O(d P)",
    default_weight="one",
)
def task_arithmetic(
    stack: ModuleStack, params: TaskArithmeticParams, adapter_weights: Float[Tensor, "m n"]
) -> MergedStack:
    """Sum of deltas times one coefficient, exact by concatenation.

    `coefficient * sum_i w_i delta_i` with weights of 1: `mean` is the same at the coefficient `1 / n`.
    """
    return exact(concatenate(stack, params.coefficient * adapter_weights))


@MERGE_METHODS.register(
    "cat",
    source="PEFT `cat`; LoRA Soups, arXiv 2410.13025, with fixed weights",
    params=MeanParams,
    needs="adapters",
    leaves="rank P, exact",
    cost="O(d P)",
)
def cat(stack: ModuleStack, params: MeanParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Weighted concatenation of the adapters' factors, always of rank P: the delta of `mean`, left as it stands.

    PEFT puts each weight on `lora_a`; here it is split evenly between the two factors. The product is the same.
    """
    return exact(side_by_side(stack, adapter_weights))


def exact(delta: LowRankDelta, diagnostics: tuple[dict[str, object], ...] | None = None) -> MergedStack:
    """The result of a method that is its own model, with no error."""
    zeros = torch.zeros(len(delta.names), dtype=torch.float64)
    return MergedStack(delta, zeros, zeros, diagnostics or tuple({} for _ in delta.names))


def concatenate(stack: ModuleStack, adapter_weights: Float[Tensor, "m n"]) -> LowRankDelta:
    """`sum_i w_i delta_i` with nothing dropped, at the module's own size at most."""
    limit = min(stack.out_stack.shape[1], stack.in_stack.shape[1])
    if stack.total_rank <= limit:
        return side_by_side(stack, adapter_weights)
    compressed = compress_stack(stack)
    core_sum = compressed.weighted_sum(adapter_weights)
    out_small, in_small, _ = truncate_core_sum(core_sum, min(core_sum.shape[1:]))
    return lift(compressed, out_small, in_small)


def side_by_side(stack: ModuleStack, adapter_weights: Float[Tensor, "m n"]) -> LowRankDelta:
    """`sum_i w_i delta_i` as one LoRA of rank P."""
    lengths = torch.tensor(stack.ranks, device=adapter_weights.device)
    spread = torch.repeat_interleave(adapter_weights, lengths, dim=1)[:, None].to(stack.out_stack.device, torch.float64)
    # The square root of the weight on both sides keeps the factors of like size, which half precision needs.
    root = spread.abs().sqrt()
    lora_b = stack.out_stack.double() * (root * spread.sign())
    return LowRankDelta(stack.names, lora_b, (stack.in_stack.double() * root).mT)
