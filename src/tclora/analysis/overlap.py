"""How alike the adapters of a module are, pair by pair: cosines of their deltas, angles between their spaces.

In: inner products of deltas (`adapter_gram`) and the singular columns of a compressed stack. Out: per pair of adapters,
the lower position first, the cosine of the deltas and the cosines of the principal angles between their column spaces
or row spaces. All are exact: the joint bases are orthonormal. NaN where an adapter of the pair lacks the module or
is zero there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.analysis.columns import SingularColumns, adapter_pairs
from tclora.shapes import Float

__all__ = ["PrincipalCosines", "pair_cosines", "principal_cosines", "shared_energy"]


@dataclass(frozen=True)
class PrincipalCosines:
    """Cosines of the principal angles of each pair, `min(rank_i, rank_j)` of them: their mean, largest and smallest."""

    mean: Float[Tensor, "m pairs"]
    largest: Float[Tensor, "m pairs"]
    smallest: Float[Tensor, "m pairs"]


def pair_cosines(gram: Float[Tensor, "m n n"]) -> Float[Tensor, "m pairs"]:
    """The cosine of each pair of deltas; NaN where one of the two is zero."""
    first, second = adapter_pairs(gram.shape[1])
    norms = gram.diagonal(dim1=1, dim2=2).sqrt()
    size = norms[:, first] * norms[:, second]
    cosine = (gram[:, first, second] / torch.where(size > 0, size, 1)).clamp(-1, 1)
    return torch.where(size > 0, cosine, torch.nan)


def shared_energy(gram: Float[Tensor, "m n n"]) -> Float[Tensor, " m"]:
    """`k |mean delta|^2 / sum |delta|^2` over the `k` adapters that are not zero: the energy of their common part.

    1 for equal adapters, `1 / k` for orthogonal ones, 0 where they cancel; NaN where fewer than two are not zero.
    """
    energy = gram.diagonal(dim1=1, dim2=2)
    k = (energy > 0).sum(dim=1)
    total = energy.sum(dim=1)
    share = gram.sum(dim=(1, 2)) / (k * torch.where(total > 0, total, 1)).clamp(min=torch.finfo(gram.dtype).tiny)
    return torch.where(k > 1, share.clamp(0, 1), torch.nan)


def principal_cosines(unit: Float[Tensor, "m d P"], columns: SingularColumns) -> PrincipalCosines:
    """Principal angles between the spaces that the adapters' unit columns span; `unit` is one side of `columns`.

    The column spaces of two adapters agree in a direction for every cosine of 1. The cosines are the singular values
    of `U_i^T U_j`.

    Source: Björck and Golub 1973.
    """
    first, second = adapter_pairs(columns.n)
    index, gram = columns.index(), pad(unit.mT @ unit, (0, 1, 0, 1))
    products = gram[:, index[first][:, :, None], index[second][:, None, :]]
    cosines = torch.linalg.svdvals(products).clamp(max=1)
    ranks = columns.numerical_ranks()
    count = torch.minimum(ranks[:, first], ranks[:, second])
    smallest = torch.gather(cosines, 2, (count - 1).clamp(min=0)[:, :, None])[:, :, 0]
    return PrincipalCosines(
        mean=_where(count, cosines.sum(dim=2) / count.clamp(min=1)),
        largest=_where(count, cosines[:, :, 0]),
        smallest=_where(count, smallest),
    )


def _where(count: Tensor, values: Tensor) -> Tensor:
    return torch.where(count > 0, values, torch.nan)
