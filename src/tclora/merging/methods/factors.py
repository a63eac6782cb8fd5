"""Methods that merge the two LoRA factors apart: column `t` of one adapter meets column `t` of another.

In: a stack and weights. Out: a LoRA of the adapters' own rank. `(sum_i b_i) (sum_j a_j)` holds the cross terms
`b_i a_j`, which no adapter was trained for, and depends on how each adapter was factored. They are here because they
are what PEFT's `linear`, LoRAHub and RobustMerge do. Refused: unequal ranks in `linear_factors`.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tclora.algebra import LowRankDelta, ModuleStack
from tclora.errors import AdapterMismatchError, ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.linear import exact
from tclora.shapes import Float

__all__ = ["LinearFactorsParams", "RobustMergeParams", "linear_factors", "robust_merge", "sum_factors"]


@dataclass(frozen=True)
class LinearFactorsParams:
    """Sums of factors have no parameters but their weights."""

    def holding(self, rank: int) -> "LinearFactorsParams":
        """One adapter has no cross terms."""
        return self


@dataclass(frozen=True)
class RobustMergeParams:
    """`density`: share of the entries of each factor that are kept. `fuse`: what each factor is multiplied by.

    `quantile`: scales of an adapter's rows below this quantile are raised to it.
    """

    density: float = 0.2
    fuse: float = 2.0
    quantile: float = 0.8

    def __post_init__(self):
        if not 0 < self.density <= 1:
            raise ConfigError("'density' of robust_merge is no share", found=self.density, expected="0 < density <= 1")
        if not 0 <= self.quantile <= 1:
            raise ConfigError("'quantile' of robust_merge is no share", found=self.quantile, expected="0 to 1")
        if not (math.isfinite(self.fuse) and self.fuse > 0):
            raise ConfigError("'fuse' of robust_merge is not positive", found=self.fuse, expected="> 0")

    def holding(self, rank: int) -> "RobustMergeParams":
        """Nothing trimmed, nothing multiplied."""
        return replace(self, density=1.0, fuse=1.0)


@MERGE_METHODS.register(
    "linear_factors",
    source="PEFT `linear`",
    params=LinearFactorsParams,
    needs="adapters of equal rank",
    leaves="rank r",
    cost="O(d P)",
    breaks=("gauge", "equal"),
    equal_ranks=True,
)
def linear_factors(
    stack: ModuleStack, params: LinearFactorsParams, adapter_weights: Float[Tensor, "m n"]
) -> MergedStack:
    """Weighted sums of `lora_b` and of `lora_a` apart, as PEFT's `linear`; not the weighted sum of the deltas.

    `(sum_i sqrt|w_i| b_i) (sum_i sgn(w_i) sqrt|w_i| a_i)`. PEFT takes the roots of the scalings along, which are folded
    into `lora_b` here; the two agree where the adapters share one scaling. `n` equal adapters at `1 / n` give `n` times
    one of them.

    Raises:
        AdapterMismatchError: the adapters that have the module differ in rank.
    """
    root = adapter_weights.abs().sqrt()
    return exact(sum_factors(stack, root, root * adapter_weights.sign()))


def sum_factors(
    stack: ModuleStack, out_weights: Float[Tensor, "m n"], in_weights: Float[Tensor, "m n"]
) -> LowRankDelta:
    """`(sum_i u_i b_i) (sum_i v_i a_i)`: weights `u` for `lora_b` and `v` for `lora_a`. LoRAHub takes `u = v`.

    Raises:
        AdapterMismatchError: the adapters that have the module differ in rank.
    """
    if len(set(stack.ranks) - {0}) > 1:
        raise AdapterMismatchError(
            "factors of different ranks cannot be added",
            where=stack.names[0],
            found=f"ranks {', '.join(str(r) for r in stack.ranks)}",
            expected="one rank (0 where an adapter lacks the module)",
            do="take a method that adds deltas: mean, cat or svd",
        )
    out_sum, in_sum = _sum(stack.out_stack, stack, out_weights), _sum(stack.in_stack, stack, in_weights)
    return LowRankDelta(stack.names, out_sum, in_sum.mT)


def _sum(side: Tensor, stack: ModuleStack, weights: Tensor) -> Tensor:
    total = torch.zeros(*side.shape[:2], max(stack.ranks), dtype=torch.float64, device=side.device)
    for i, block in enumerate(stack.blocks()):
        total[:, :, : stack.ranks[i]] += weights[:, i, None, None].to(total) * side[:, :, block].double()
    return total


@MERGE_METHODS.register(
    "robust_merge",
    source="Zeng et al. 2025, arXiv 2502.17159, and its released code",
    params=RobustMergeParams,
    needs="adapters",
    leaves="rank r",
    cost="O(d P)",
    default_weight="one",
    breaks=("gauge", "alone"),
)
def robust_merge(stack: ModuleStack, params: RobustMergeParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Factors trimmed by size, small directions of each adapter scaled up to balance them, then added apart.

    Entries of each `lora_a` and `lora_b` below the kept share are set to zero. Row `t` of `lora_a` gives the scale
    `s_t`, its 1-norm before over its 1-norm after, raised to the quantile over the adapter's rows. The result is
    `fuse * sum_i a_i` times `fuse * sum_i s_i b_i / sum_i s_i`, column by column.

    The released code knows no weights and one rank. Here `sqrt|w_i|` goes to either factor and an adapter of weight 0
    is left out; shorter adapters are filled up with columns that take no part, and so is a row that lost all of its
    entries (its scale is infinite in the released code).
    """
    device, m, longest = stack.out_stack.device, stack.m, max(stack.ranks)
    lora_a = torch.zeros(m, stack.in_stack.shape[1], longest, dtype=torch.float64, device=device)
    lora_b = torch.zeros(m, stack.out_stack.shape[1], longest, dtype=torch.float64, device=device)
    scales = torch.zeros(m, longest, dtype=torch.float64, device=device)
    root = adapter_weights.to(lora_a).abs().sqrt()
    for i, block in enumerate(stack.blocks()):
        if stack.ranks[i] == 0:
            continue
        columns, used = slice(stack.ranks[i]), root[:, i, None, None]
        in_full = stack.in_stack[:, :, block].double()
        in_kept = _trimmed(in_full, params.density)
        out_kept = _trimmed(stack.out_stack[:, :, block].double(), params.density)
        scale = _scales(in_full, in_kept, params.quantile) * (root[:, i, None] > 0)
        lora_a[:, :, columns] += used * in_kept
        lora_b[:, :, columns] += used * adapter_weights[:, i, None, None].to(used).sign() * scale[:, None] * out_kept
        scales[:, columns] += scale
    lora_b = lora_b / torch.where(scales > 0, scales, 1)[:, None]
    return exact(LowRankDelta(stack.names, params.fuse * lora_b, params.fuse * lora_a.mT))


def _trimmed(factor: Tensor, density: float) -> Tensor:
    """The entries not below the `floor((1 - density) * size)`-th smallest, as the released code counts them."""
    sizes = factor.abs().flatten(1)
    dropped = int(sizes.shape[1] * (1 - density))
    if dropped == 0:
        return factor
    bound = sizes.kthvalue(dropped, dim=1).values[:, None, None]
    return torch.where(factor.abs() >= bound, factor, 0)


def _scales(full: Tensor, kept: Tensor, quantile: float) -> Tensor:
    """`(m, r)`: how much each row of `lora_a` lost, raised to the quantile; 0 for a row that has nothing left."""
    before, after = full.abs().sum(dim=1), kept.abs().sum(dim=1)
    alive = after > 0
    ratio = torch.where(alive, before / torch.where(alive, after, 1), 0)
    rank = ratio.shape[1]
    # Rows that lost everything rank last, as infinity would.
    ranked = torch.where(alive, ratio, ratio.amax(dim=1, keepdim=True)).sort(dim=1).values
    bound = ranked[:, min(int(rank * quantile), rank - 1), None]
    return torch.maximum(ratio, bound) * alive
