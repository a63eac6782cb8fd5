"""The identity check of every merge: one adapter at weight 1 goes through the same code and must come back.

It catches what silently spoils merges elsewhere: a scaling applied twice or not at all, swapped sides, a sign, a wrong
block of columns. Each batch of modules sends one adapter through, in turn, so a merge of many batches checks many.
"""

import torch

from tclora.algebra import LowRankDelta, ModuleStack, relative_distance
from tclora.errors import NumericalError
from tclora.merging.method import MergeFunction, Params, default_params
from tclora.merging.methods.linear import MeanParams, mean

__all__ = ["IDENTITY_TOLERANCE", "identity_error", "identity_through"]

# Factors are stored in float32: half a unit of rounding in each of lora_a and lora_b, with room for their product.
IDENTITY_TOLERANCE = 1e-6


def identity_through(method: str) -> str | None:
    """What the identity check goes through in place of the method, where no setting of that gives one adapter back."""
    return "mean" if default_params(method).holding(1) is None else None


def identity_error(stack: ModuleStack, method: MergeFunction, params: Params, turn: int) -> float:
    """Relative distance of one adapter to what the method makes of it alone, in one module of the stack by turns.

    Raises:
        NumericalError: it exceeds 1e-6: the merge must not be trusted.
    """
    present = [i for i, rank in enumerate(stack.ranks) if rank > 0]
    i = present[turn % len(present)]
    block, j = stack.blocks()[i], slice(turn % stack.m, turn % stack.m + 1)
    alone = ModuleStack(stack.names[j], stack.out_stack[j, :, block], stack.in_stack[j, :, block], (stack.ranks[i],))
    weight = torch.ones(1, 1, dtype=torch.float64, device=stack.out_stack.device)
    holding = params.holding(stack.ranks[i])
    if holding is None:
        # No setting of this method gives one adapter back; reading, stacking and the two sides are proven all the same.
        method, holding = mean, MeanParams()
    merged = method(alone, holding, weight).delta
    back = LowRankDelta(alone.names, merged.lora_b.float(), merged.lora_a.float())
    error = float(relative_distance(back, LowRankDelta(alone.names, alone.out_stack, alone.in_stack.mT)).max())
    if not error <= IDENTITY_TOLERANCE:
        raise NumericalError(
            "the identity check failed: one adapter at weight 1 did not come back",
            where=alone.names[0],
            found=f"relative distance {error:.2e}",
            expected=f"at most {IDENTITY_TOLERANCE:.0e}",
            do="report this with the adapters: the method is wrong for them",
        )
    return error
