"""How many directions there really are: effective ranks of adapters and of their union, and of the terms of a CP model.

In: singular values, or a CP model. Out: numbers that count directions, so they lie between 1 and the nominal rank, and
the share of a CP model's energy in terms that adapters hold in common. Each is 0 for a zero matrix, unless said.
"""

import torch
from torch import Tensor

from tclora.algebra import CpFactors
from tclora.shapes import Float, Int

__all__ = ["entropy_rank", "participation", "shared_cp_energy", "term_participation"]


def entropy_rank(values: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Effective rank: the exponential of the entropy of the singular values taken as shares of their sum.

    Source: Roy and Vetterli 2007, "The effective rank".
    """
    total = values.sum(dim=-1, keepdim=True)
    share = values / torch.where(total > 0, total, 1)
    return torch.where(total[..., 0] > 0, torch.special.entr(share).sum(dim=-1).exp(), 0)


def participation(values: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Participation ratio `(sum s^2)^2 / sum s^4`: effective rank by energy, which large values dominate."""
    largest = values.abs().amax(dim=-1, keepdim=True)
    energy = (values / torch.where(largest > 0, largest, 1)).square()
    return energy.sum(dim=-1) ** 2 / energy.square().sum(dim=-1).clamp(min=1)


def term_participation(factors: CpFactors) -> Float[Tensor, "m R"]:
    """How many adapters take part in each term: 1 in a private term, n in one they share equally, 0 in a spare one."""
    return participation(factors.adapter_factor.mT)


def shared_cp_energy(factors: CpFactors, n_present: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Share of the sum of squared weights in terms that more than half of the adapters take part in.

    More than half: a participation ratio above `(k + 1) / 2`, halfway between private and shared by all `k` adapters
    that have the module. NaN where fewer than two do. Meaningless for a degenerate fit.
    """
    energy = factors.weights.square()
    shared = term_participation(factors) > (n_present[:, None] + 1) / 2
    total = energy.sum(dim=1)
    share = (energy * shared).sum(dim=1) / torch.where(total > 0, total, 1)
    return torch.where((n_present > 1) & (total > 0), share, torch.nan)
