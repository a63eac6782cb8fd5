"""Inner products of the singular vectors of all adapters of a module: all that the measures of overlap need.

In: a `CompressedStack`, or, where no CP model is wanted, `gram_path` on the stack itself. Out: one Gram matrix per side
over the unit singular vectors of all adapters, their singular values, and the spectra of the adapters set side by side.
What counts as numerical rank is said once, here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra import CompressedStack
from tclora.algebra.cp_bounds import joint_spectrum
from tclora.shapes import Float, Int

__all__ = ["NEGLIGIBLE", "SingularGrams", "adapter_gram", "adapter_pairs", "grams_of", "rank_groups"]

# Adapters are stored in float32 or less: a singular value below this share of its adapter's largest is rounding.
NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class SingularGrams:
    """`U^T U` and `V^T V` over the singular triplets of all adapters side by side, `ranks[i]` for adapter `i`.

    A triplet that is dropped, for the adapter's numerical rank is smaller, has value 0 and zero rows and columns.
    `out_spectrum` and `in_spectrum` are the singular values, descending, of `[delta_1 ... delta_n]` and of
    `[delta_1; ...; delta_n]`.
    """

    out_gram: Float[Tensor, "m P P"]
    in_gram: Float[Tensor, "m P P"]
    values: Float[Tensor, "m P"]
    out_spectrum: Float[Tensor, "m k"]
    in_spectrum: Float[Tensor, "m l"]
    ranks: tuple[int, ...]

    @property
    def n(self) -> int:
        """How many adapters."""
        return len(self.ranks)

    def by_adapter(self, columns: Float[Tensor, "m P"]) -> Float[Tensor, "m n w"]:
        """One number per triplet as one row per adapter, filled up with zeros."""
        return pad(columns, (0, 1))[:, _columns_of(self.ranks).to(columns.device)]

    def numerical_ranks(self) -> Int[Tensor, "m n"]:
        """How many triplets of each adapter are kept."""
        return (self.by_adapter(self.values) > 0).sum(dim=2)


def grams_of(compressed: CompressedStack) -> SingularGrams:
    """The inner products in the joint bases, with what is below numerical rank set to zero."""
    values = compressed.singular_values()
    largest = torch.stack([_largest(values[:, block]) for block in compressed.blocks()], dim=1)
    kept = (values > NEGLIGIBLE * compressed.spread(largest)) & (values > 0)
    root = torch.where(kept, values, 1).sqrt()[:, None]
    out_unit, in_unit = (side / root * kept[:, None] for side in (compressed.out_blocks, compressed.in_blocks))
    return SingularGrams(
        out_gram=out_unit.mT @ out_unit,
        in_gram=in_unit.mT @ in_unit,
        values=values * kept,
        out_spectrum=joint_spectrum(compressed, "out"),
        in_spectrum=joint_spectrum(compressed, "in"),
        ranks=compressed.ranks,
    )


def adapter_gram(grams: SingularGrams) -> Float[Tensor, "m n n"]:
    """Frobenius inner products of all pairs of deltas."""
    owner = torch.repeat_interleave(torch.eye(grams.n), torch.tensor(grams.ranks), dim=0).to(grams.values)
    # Row k, column i: the value of triplet k where it belongs to adapter i.
    spread = owner * grams.values[:, :, None]
    return spread.mT @ (grams.out_gram * grams.in_gram) @ spread


def adapter_pairs(n: int) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Every pair of `n` adapters once, the lower position first."""
    first, second = torch.triu_indices(n, n, offset=1)
    return first, second


def rank_groups(ranks: tuple[int, ...]) -> list[tuple[list[int], Int[Tensor, "g r"]]]:
    """The adapters of each rank above 0, and their columns."""
    ends = torch.tensor(ranks).cumsum(0)
    groups = []
    for rank in sorted(set(ranks) - {0}):
        owners = [i for i, r in enumerate(ranks) if r == rank]
        groups.append((owners, (ends[owners] - rank)[:, None] + torch.arange(rank)))
    return groups


def _columns_of(ranks: tuple[int, ...]) -> Tensor:
    """The columns of each adapter, `(n, w)`; P, one past the last, where it has fewer than the widest."""
    ends, counts = torch.tensor(ranks).cumsum(0)[:, None], torch.tensor(ranks)[:, None]
    columns = ends - counts + torch.arange(max(1, *ranks))
    return torch.where(columns < ends, columns, sum(ranks))


def _largest(values: Tensor) -> Tensor:
    return values.amax(dim=1) if values.shape[1] else values.new_zeros(len(values))
