"""Spectral methods, on the core: singular values of sums, never a dense delta."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tclora.algebra import ModuleStack, compress_stack, lift, truncate_core_sum
from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.shapes import Float

__all__ = ["SvdParams", "svd"]


@dataclass(frozen=True)
class SvdParams:
    """`rank`: terms kept; None takes the largest rank among the adapters."""

    rank: int | None = None

    def __post_init__(self):
        if self.rank is not None and self.rank < 1:
            raise ConfigError("the rank of an svd merge is not positive", found=self.rank, expected=">= 1")

    def holding(self, rank: int) -> "SvdParams":
        """Room for one adapter of `rank`."""
        return self if self.rank is None else replace(self, rank=max(self.rank, rank))


@MERGE_METHODS.register(
    "svd",
    source="Eckart and Young 1936; PEFT `svd`",
    params=SvdParams,
    needs="adapters",
    leaves="rank R",
    cost="O(d P^2 + P^3)",
)
def svd(stack: ModuleStack, params: SvdParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Best approximation of rank R to the weighted sum of deltas, by an SVD of its core.

    `relative_error` is the part of the weighted sum that rank R cannot hold. Exact in the sense of Eckart and Young;
    PEFT's merge of the same name builds the dense sum.
    """
    compressed = compress_stack(stack)
    core_sum = compressed.weighted_sum(adapter_weights)
    rank = min(params.rank or max(1, *stack.ranks), *core_sum.shape[1:])
    out_small, in_small, relative_error = truncate_core_sum(core_sum, rank)
    size = torch.linalg.matrix_norm(core_sum)
    return MergedStack(lift(compressed, out_small, in_small), relative_error, size, tuple({} for _ in stack.names))
