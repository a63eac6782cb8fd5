"""What singular values alone say about the fit of CP models: bounds at any number of terms, without fitting one.

In: the spectra of the three unfoldings and of the single adapters. Out: bounds on the relative error.

A model of R terms has unfoldings of rank R at most, so its squared error is at least the energy beyond the R largest
singular values of any of the three unfoldings (Eckart and Young). The R largest singular triplets of single adapters
are a model of R terms, whose squared error is the energy of the other triplets. `tclora.algebra.cp_bounds` says the
same of a compressed stack.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tclora.analysis.grams import SingularGrams
from tclora.shapes import Float

__all__ = ["fit_bounds"]


def fit_bounds(
    grams: SingularGrams, gram: Float[Tensor, "m n n"], cp_ranks: Sequence[int]
) -> tuple[Float[Tensor, "m c"], Float[Tensor, "m c"]]:
    """The fit that some model reaches with so many terms, and the one that no model exceeds, for each of `cp_ranks`.

    `gram` holds the inner products of the deltas. The fits of a zero module are 1.
    """
    energies = grams.values.square()
    total = energies.sum(dim=1)
    unit = torch.where(total > 0, total, 1)[:, None]
    across = torch.linalg.eigvalsh(gram).flip(1)
    rounding = across.shape[1] * torch.finfo(across.dtype).eps * across[:, :1]
    unfoldings = (grams.out_spectrum.square(), grams.in_spectrum.square(), across * (across > rounding))
    least = torch.stack([_tails(spectrum, cp_ranks) for spectrum in unfoldings]).amax(dim=0) / unit
    reached = _tails(energies.sort(dim=1, descending=True).values, cp_ranks) / unit
    # The spectra are equal in sum up to rounding; a lower bound must not exceed what is reached.
    return 1 - reached.sqrt(), 1 - torch.minimum(least, reached).sqrt()


def _tails(energies: Tensor, cp_ranks: Sequence[int]) -> Tensor:
    """What lies beyond the R largest, summed from the small end so that no digits cancel."""
    tails = torch.nn.functional.pad(energies.flip(1).cumsum(dim=1).flip(1), (0, 1))
    return tails[:, [min(rank, energies.shape[1]) for rank in cp_ranks]]
