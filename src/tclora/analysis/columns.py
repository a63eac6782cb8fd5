"""The singular triplets of every adapter as unit columns, and the same triplets grouped by adapter.

In: a `CompressedStack`. Out: unit columns on both sides with their singular values, zero where an adapter's numerical
rank is smaller than its number of columns. Every measure of this room starts here, so what counts as numerical rank is
said once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra import CompressedStack
from tclora.shapes import Float, Int

__all__ = ["NEGLIGIBLE", "SingularColumns", "adapter_pairs", "singular_columns"]

# Adapters are stored in float32 or less: a singular value below this share of its adapter's largest is rounding.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class SingularColumns:
    """Singular vectors of all adapters side by side, `ranks[i]` columns for adapter `i`; dropped ones are zero."""

    out_unit: Float[Tensor, "m p P"]
    in_unit: Float[Tensor, "m q P"]
    values: Float[Tensor, "m P"]
    ranks: tuple[int, ...]

    @property
    def n(self) -> int:
        """How many adapters."""
        return len(self.ranks)

    def numerical_ranks(self) -> Int[Tensor, "m n"]:
        """How many triplets of each adapter are kept."""
        return (self.by_adapter(self.values) > 0).sum(dim=2)

    def by_adapter(self, columns: Float[Tensor, "m P"]) -> Float[Tensor, "m n w"]:
        """One number per column as one row per adapter, filled up with zeros."""
        return pad(columns, (0, 1))[:, self.index()]

    def index(self) -> Int[Tensor, "n w"]:
        """The columns of each adapter; P, one past the last, where it has fewer than the widest."""
        width = max(1, *self.ranks)
        ends = torch.tensor(self.ranks, device=self.values.device).cumsum(0)[:, None]
        starts = ends - torch.tensor(self.ranks, device=self.values.device)[:, None]
        columns = starts + torch.arange(width, device=self.values.device)
        return torch.where(columns < ends, columns, self.values.shape[1])


def singular_columns(compressed: CompressedStack) -> SingularColumns:
    """Unit singular vectors of every adapter in the joint bases, with what is below numerical rank set to zero."""
    values = compressed.singular_values()
    raw = SingularColumns(compressed.out_blocks, compressed.in_blocks, values, compressed.ranks)
    largest = raw.by_adapter(values).amax(dim=2)
    kept = (values > NEGLIGIBLE * compressed.spread(largest)) & (values > 0)
    root = torch.where(kept, values, 1).sqrt()[:, None]
    out_unit, in_unit = (side / root * kept[:, None] for side in (compressed.out_blocks, compressed.in_blocks))
    return SingularColumns(out_unit, in_unit, values * kept, compressed.ranks)


def adapter_pairs(n: int) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Every pair of `n` adapters once, the lower position first."""
    first, second = torch.triu_indices(n, n, offset=1)
    return first, second
