"""How alike the adapters of a module are, pair by pair: cosines of their deltas, angles between their spaces.

In: inner products of deltas (`adapter_gram`) and of singular vectors (`SingularGrams`). Out: per pair of adapters, the
lower position first, the cosine of the deltas and the cosines of the principal angles between their column spaces or
row spaces. NaN where an adapter of the pair lacks the module or is zero there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.analysis.grams import SingularGrams, adapter_pairs
from tclora.shapes import Float

__all__ = ["PrincipalCosines", "pair_cosines", "principal_cosines", "shared_energy"]

# Numbers in the products of one chunk of pairs, about 64 MB.
_CHUNK_NUMBERS = 2**23


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


def principal_cosines(gram: Float[Tensor, "m P P"], grams: SingularGrams) -> PrincipalCosines:
    """Principal angles between the spaces of the adapters' singular vectors on one side, `gram`, of `grams`.

    The spaces of two adapters agree in a direction for every cosine of 1. The cosines are the singular values of
    `U_i^T U_j`, taken as roots of the eigenvalues of its Gram matrix, which costs half as much: a cosine of 0 is good
    to 1e-8, one above 0.01 to rounding.

    Source: Björck and Golub 1973.
    """
    first, second = (place.to(gram.device) for place in adapter_pairs(grams.n))
    ranks = grams.numerical_ranks()
    count = torch.minimum(ranks[:, first], ranks[:, second])
    mean, largest, smallest = (gram.new_full(count.shape, torch.nan) for _ in range(3))
    for pairs, products in _pair_products(gram, grams.ranks):
        cosines = _singular_values(products)
        held = count[:, pairs]
        last = torch.gather(cosines, 2, (held - 1).clamp(min=0)[:, :, None])[:, :, 0]
        found = (cosines.sum(dim=2) / held.clamp(min=1), cosines[:, :, 0], last)
        for whole, part in zip((mean, largest, smallest), found, strict=True):
            whole[:, pairs] = torch.where(held > 0, part, torch.nan)
    return PrincipalCosines(mean, largest, smallest)


def _pair_products(gram: Tensor, ranks: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """`U_i^T U_j` of the pairs of adapters, those of equal ranks together, few at a time, and which pairs they are."""
    first, second = (place.tolist() for place in adapter_pairs(len(ranks)))
    alike: dict[tuple[int, int], list[int]] = {}
    for pair, (i, k) in enumerate(zip(first, second, strict=True)):
        if ranks[i] and ranks[k]:
            alike.setdefault((ranks[i], ranks[k]), []).append(pair)
    starts = torch.tensor((0, *ranks[:-1])).cumsum(0)
    for (left, right), pairs in alike.items():
        for part in torch.tensor(pairs).split(max(1, _CHUNK_NUMBERS // (len(gram) * left * right))):
            rows = starts[[first[pair] for pair in part.tolist()]][:, None] + torch.arange(left)
            columns = starts[[second[pair] for pair in part.tolist()]][:, None] + torch.arange(right)
            yield part.to(gram.device), gram[:, rows[:, :, None].to(gram.device), columns[:, None].to(gram.device)]


def _singular_values(products: Tensor) -> Tensor:
    """Descending, at most 1."""
    wide = products if products.shape[2] <= products.shape[3] else products.mT
    return torch.linalg.eigvalsh(wide @ wide.mT).flip(-1).clamp(0, 1).sqrt()
