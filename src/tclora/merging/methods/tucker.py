"""Tucker merging: one joint Tucker model of all adapters, the natural rival of the CP model of `tc_lora`.

In: a stack and weights. Out: the weighted sum of the model's adapters, a LoRA of rank R. A Tucker model has orthonormal
bases and is unique up to turning them, where a CP model has one coordinate per direction and adapter. The paper names
it as the other tensor decomposition; the author's released code has it for the factors taken apart.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from tclora.algebra import ModuleStack, compress_stack, lift, truncate_core_sum, tucker_hooi
from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.shapes import Float

__all__ = ["TuckerParams", "tucker"]


@dataclass(frozen=True)
class TuckerParams:
    """`tucker_rank`: directions of the out and of the in side, the rank of the result.

    `adapter_rank`: directions over the adapters; None takes as many as there are adapters. `max_iter`: sweeps at most.
    """

    tucker_rank: int = 20
    adapter_rank: int | None = None
    max_iter: int = 100

    def __post_init__(self):
        values = {"tucker_rank": self.tucker_rank, "adapter_rank": self.adapter_rank, "max_iter": self.max_iter}
        for name, low in (("tucker_rank", 1), ("adapter_rank", 1), ("max_iter", 0)):
            value = values[name]
            if value is not None and value < low:
                raise ConfigError(f"'{name}' of tucker is too small", found=value, expected=f">= {low}")

    def holding(self, rank: int) -> "TuckerParams":
        """Room for one adapter of `rank`."""
        return replace(self, tucker_rank=max(self.tucker_rank, rank))


@MERGE_METHODS.register(
    "tucker",
    source="Tucker 1966; De Lathauwer et al. 2000 (HOOI)",
    params=TuckerParams,
    needs="adapters",
    leaves="rank tucker_rank",
    cost="O(d P^2) + sweeps R n P^2",
)
def tucker(stack: ModuleStack, params: TuckerParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Joint Tucker model of all adapters: bases that all of them share, merged as the weighted sum of the model.

    The result has rank `params.tucker_rank`, or less where the stack holds less; with it at the sum of the ranks and a
    whole adapter mode it is the weighted sum itself. `relative_error` is that of the Tucker model of the stack.
    """
    compressed = compress_stack(stack)
    fit = tucker_hooi(compressed, params.tucker_rank, adapter_rank=params.adapter_rank, max_iter=params.max_iter)
    small = fit.weighted_core(adapter_weights)
    out_turn, in_turn, _ = truncate_core_sum(small, min(small.shape[1:]))
    delta = lift(compressed, fit.out_factor @ out_turn, fit.in_factor @ in_turn)
    columns = (fit.n_iter.tolist(), fit.converged.tolist(), fit.hosvd_error.tolist())
    figures = tuple({"n_iter": a, "converged": b, "hosvd_error": c} for a, b, c in zip(*columns, strict=True))
    return MergedStack(delta, fit.relative_error, compressed.size(), figures)
