"""Singular task interference: how far directions of several adapters are from being orthogonal, on both sides at once.

In: the compressed stack, or a CP model of it. Out: one number per module, in the units of a singular value (`raw`) and
as a share of the sum of the weights (`ratio`), which does not change when all adapters are scaled. Both measures are
`||(U^T U - I) diag(s) (V^T V - I)||_1`, entrywise, with unit columns. They are 0 if the directions are orthogonal on
either side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tclora.algebra import CompressedStack, CpFactors
from tclora.analysis.grams import SingularGrams, grams_of
from tclora.shapes import Float

__all__ = ["Interference", "cp_singular_task_interference", "interference_of", "singular_task_interference"]


@dataclass(frozen=True)
class Interference:
    """An interference per module: `raw`, and `ratio`, which is `raw` over the sum of the weights (0 if that is 0)."""

    raw: Float[Tensor, " m"]
    ratio: Float[Tensor, " m"]


def singular_task_interference(compressed: CompressedStack) -> Interference:
    """STI of the adapters of each module: U, s and V are their singular triplets side by side, at numerical rank.

    The ratio is `(n - 1)^2` for `n` equal adapters and 0 for adapters with orthogonal column or row spaces.

    Source: Gargiulo et al. 2024, arXiv 2412.00081. Taken at numerical rank: a dense SVD would add arbitrary vectors of
        the null space.
    """
    return interference_of(grams_of(compressed))


def interference_of(grams: SingularGrams) -> Interference:
    """`singular_task_interference` where the inner products are at hand."""
    return _interference(grams.out_gram, grams.in_gram, grams.values)


def cp_singular_task_interference(factors: CpFactors) -> Interference:
    """CP-STI of each module: U, s and V are the unit out columns, the weights and the unit in columns of a CP model.

    A term's sign lies in its columns, such that the adapters' coordinates in it sum to 0 or more; left open, it would
    change the sum. The number depends on the rank of the model and on the fit, so compare modules at one rank. Terms
    that all adapters share do not interfere: equal adapters have 0. Meaningless for a degenerate fit.

    Source: Su et al. 2025, arXiv 2508.03999, section 6.3, whose definition is not public: this is the analogue of STI.
    """
    against = factors.adapter_factor.sum(dim=1) < 0
    signed = torch.where(against[:, None], -factors.out_factor, factors.out_factor)
    return _interference(signed.mT @ signed, factors.in_factor.mT @ factors.in_factor, factors.weights)


def _interference(out_gram: Tensor, in_gram: Tensor, weights: Tensor) -> Interference:
    # A spare column is zero and has weight 0, so it adds nothing with its diagonal entry at 0 instead of -1.
    out_rest, in_rest = (_without_diagonal(gram) for gram in (out_gram, in_gram))
    raw = ((out_rest * weights[:, None]) @ in_rest).abs().sum(dim=(1, 2))
    total = weights.sum(dim=1)
    return Interference(raw, torch.where(total > 0, raw / torch.where(total > 0, total, 1), 0))


def _without_diagonal(gram: Tensor) -> Tensor:
    return gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
