"""Joint polar factorization: the directions of all adapters made orthonormal together, then cut to rank R.

In: a stack and weights. Out: a LoRA of rank R. With `U`, `S`, `V` the singular triplets of all adapters side by side,
`w` their weights and `T = (w S)^priority`:

    orth(U T) diag(w S) orth(V T)^T,    orth(C) = C (C^T C)^(-1/2),

and of that the best approximation of rank R. Adapters that start from one initialization share most of their in side;
in their mean that shared part drowns what sets them apart. `orth` brings both to one size. `T` says which directions
may be moved least: at 0 all count alike (TSV-Merge), at 1 each counts by what it adds to the merge. The cut drops what
is left of weak directions. Refused: negative weights, for a size has no sign.

Source: the formula at `priority` 0, `size_power` 0 and full rank is TSV-Merge (Gargiulo et al. 2024, arXiv 2412.00081);
weighted orthonormalization as in Carlson and Keller 1957 (Phys. Rev. 105, 102). What each part gains is measured in the
documentation's page of attempts.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tclora.algebra import CompressedStack, ModuleStack, compress_stack, lift, truncate_core_sum
from tclora.algebra.directions import adapter_sizes, largest_values
from tclora.algebra.orthogonal import polar_factor
from tclora.errors import ConfigError
from tclora.merging.method import MERGE_METHODS, MergedStack
from tclora.merging.methods.alignment import check_rank_tol
from tclora.shapes import Float

__all__ = ["TcLoraPolarParams", "tc_lora_polar"]


@dataclass(frozen=True)
class TcLoraPolarParams:
    """`rank`: of the result. `size_power`: each weight is multiplied by the adapter's norm in the module, divided by
    the mean norm, to this power: 0 takes the weights as they are; with 1 an adapter counts by how far it was trained.

    `priority`: how much more a strong direction is kept in place than a weak one, 0 to 1. `rank_tol`: singular values
    below this share of an adapter's largest are noise, and so are joint directions below this share of the strongest.
    """

    rank: int = 32
    size_power: float = 0.0
    priority: float = 0.5
    rank_tol: float = 1e-6

    def __post_init__(self):
        if self.rank < 1:
            raise ConfigError("the rank of a tc_lora_polar merge is not positive", found=self.rank, expected=">= 1")
        if not -4 <= self.size_power <= 4:
            raise ConfigError("'size_power' of tc_lora_polar is no power", found=self.size_power, expected="-4 to 4")
        if not 0 <= self.priority <= 1:
            raise ConfigError("'priority' of tc_lora_polar is no share", found=self.priority, expected="0 to 1")
        check_rank_tol(self.rank_tol, "tc_lora_polar")

    def holding(self, rank: int) -> "TcLoraPolarParams":
        """The singular vectors of one adapter are orthonormal already, and it is of the mean size: room is enough."""
        return replace(self, rank=max(self.rank, rank))


@MERGE_METHODS.register(
    "tc_lora_polar",
    source="this project, after arXiv 2412.00081 and 2508.03999",
    params=TcLoraPolarParams,
    needs="adapters",
    leaves="rank R",
    cost="O(d P^2 + P^3)",
    default_weight="one",
    breaks=("equal",),
)
def tc_lora_polar(stack: ModuleStack, params: TcLoraPolarParams, adapter_weights: Float[Tensor, "m n"]) -> MergedStack:
    """Joint polar factorization: the directions of all adapters made orthonormal together, weighted by size, at rank R.

    `relative_error` is the part of the orthonormalized sum that rank R cannot hold. `n` equal adapters give one of them
    at weight 1. An adapter of weight 0, or that is zero, is left out.

    Raises:
        ConfigError: a weight is negative.
    """
    if bool((adapter_weights < 0).any()):
        raise ConfigError(
            "tc_lora_polar takes no negative weights", found=float(adapter_weights.min()), expected=">= 0"
        )
    compressed = compress_stack(stack)
    values = compressed.singular_values()
    spread = compressed.spread(_by_size(compressed, adapter_weights, params.size_power))
    live = (values > params.rank_tol * largest_values(compressed, values)) & (values > 0) & (spread > 0)
    carried = torch.where(live, values * spread, 0)
    unit = torch.where(live, torch.where(live, values, 1).rsqrt(), 0) * _pull(carried, params.priority)
    out_columns, in_columns = (
        polar_factor(side * unit[:, None], tol=params.rank_tol)
        for side in (compressed.out_blocks, compressed.in_blocks)
    )
    core = (out_columns * carried[:, None]) @ in_columns.mT
    rank = min(params.rank, *core.shape[1:])
    out_small, in_small, relative_error = truncate_core_sum(core, rank)
    figures = tuple({"n_vectors": count} for count in live.sum(dim=1).tolist())
    size = torch.linalg.matrix_norm(core)
    return MergedStack(lift(compressed, out_small, in_small), relative_error, size, figures)


def _by_size(compressed: CompressedStack, weights: Float[Tensor, "m n"], power: float) -> Float[Tensor, "m n"]:
    """The weights times the adapters' sizes, relative to the mean of those that take part, to a power."""
    sizes = adapter_sizes(compressed)
    weights = weights.to(sizes)
    takes_part = (sizes > 0) & (weights > 0)
    mean = torch.where(takes_part, sizes, 0).sum(dim=1) / takes_part.sum(dim=1).clamp(min=1)
    relative = sizes / torch.where(mean > 0, mean, 1)[:, None]
    return torch.where(takes_part, weights * torch.where(takes_part, relative, 1) ** power, 0)


def _pull(carried: Float[Tensor, "m P"], priority: float) -> Float[Tensor, "m P"]:
    """What each direction carries, as a share of the most, to the power of the priority; 0 where it carries nothing."""
    most = carried.amax(dim=1, keepdim=True)
    share = carried / torch.where(most > 0, most, 1)
    return torch.where(carried > 0, torch.where(carried > 0, share, 1) ** priority, 0)
