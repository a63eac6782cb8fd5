"""What singular values alone say about CP models: bounds on the error at every rank, without fitting one.

In: a `CompressedStack`. Out: for each number of terms R a relative error that no CP model of R terms can beat, and one
that some CP model reaches.

A CP model of R terms has unfoldings of rank R at most, so its squared error is at least the energy beyond the R largest
singular values of any of the three unfoldings (Eckart and Young). The R largest singular triplets of single adapters
are a CP model of R terms, whose squared error is the energy of the other triplets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tclora.algebra.compress import CompressedStack
from tclora.errors import ConfigError
from tclora.shapes import Float, Int

__all__ = ["CpBounds", "adapter_gram", "bounds_of_spectra", "cp_bounds", "joint_spectrum"]


@dataclass(frozen=True)
class CpBounds:
    """Squared relative errors at R = 0, 1, ... P terms: no model is below `least`, some model is at `reached`.

    `energy` is the squared norm of each tensor; the rows of a zero tensor are 0 throughout. `out_spectrum` and
    `in_spectrum` are the joint spectra that the bounds come from.
    """

    least: Float[Tensor, "m P1"]
    reached: Float[Tensor, "m P1"]
    energy: Float[Tensor, " m"]
    out_spectrum: Float[Tensor, "m p"]
    in_spectrum: Float[Tensor, "m q"]

    def relative_errors(self, cp_rank: int) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """The lower and the upper bound of the best relative error at `cp_rank` terms."""
        at = min(cp_rank, self.least.shape[1] - 1)
        return self.least[:, at].sqrt(), self.reached[:, at].sqrt()

    def ranks(self, energy: float) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
        """The least number of terms (1 or more) that may explain a share `energy`, and one that surely does.

        Raises:
            ConfigError: `energy` is not a share.
        """
        if not 0 < energy <= 1:
            raise ConfigError("the energy to explain is no share", found=energy, expected="above 0, at most 1")
        low, high = (_first_below(bound, 1 - energy) for bound in (self.least, self.reached))
        return low.clamp(min=1), high.clamp(min=1)


def cp_bounds(compressed: CompressedStack) -> CpBounds:
    """Bounds on the error of CP models of the modules, from the spectra of their unfoldings and of their adapters."""
    out_spectrum, in_spectrum = (joint_spectrum(compressed, side) for side in ("out", "in"))
    return bounds_of_spectra(compressed.singular_values(), out_spectrum, in_spectrum, adapter_gram(compressed))


def bounds_of_spectra(
    values: Float[Tensor, "m P"], out_spectrum: Float[Tensor, "m p"], in_spectrum: Float[Tensor, "m q"], gram: Tensor
) -> CpBounds:
    """The same from what it is made of: the adapters' singular values, the joint spectra, and the Gram matrix
    `(m, n, n)` of the deltas."""
    slices = values.square().sort(dim=1, descending=True).values
    width = slices.shape[1] + 1
    spectra = (out_spectrum.square(), in_spectrum.square(), _eigenvalues(gram))
    energy = slices.sum(dim=1)
    unit = torch.where(energy > 0, energy, 1)[:, None]
    least = torch.stack([_tails(spectrum, width) for spectrum in spectra]).amax(dim=0) / unit
    reached = _tails(slices, width) / unit
    # The spectra are equal in sum up to rounding; a lower bound must not exceed what is reached.
    return CpBounds(torch.minimum(least, reached), reached, energy, out_spectrum, in_spectrum)


def joint_spectrum(compressed: CompressedStack, side: str) -> Float[Tensor, "m k"]:
    """Singular values, descending, of the adapters set side by side along their columns (`out`) or rows (`in`).

    That is of `[delta_1 ... delta_n]` or of `[delta_1; ...; delta_n]`, from a Gram matrix in the joint bases: accurate
    to 1e-8 of the largest, below which they are 0.
    """
    blocks = compressed.out_blocks if side == "out" else compressed.in_blocks
    wide = blocks * compressed.singular_values().sqrt()[:, None]
    gram = wide @ wide.mT if wide.shape[1] <= wide.shape[2] else wide.mT @ wide
    return _eigenvalues(gram).sqrt()


def adapter_gram(compressed: CompressedStack) -> Float[Tensor, "m n n"]:
    """Frobenius inner products of all pairs of deltas; exact, for the joint bases are orthonormal."""
    products = (compressed.out_blocks.mT @ compressed.out_blocks) * (compressed.in_blocks.mT @ compressed.in_blocks)
    rows = torch.stack([products[:, block].sum(dim=1) for block in compressed.blocks()], dim=1)
    return torch.stack([rows[:, :, block].sum(dim=2) for block in compressed.blocks()], dim=2)


def _eigenvalues(gram: Tensor) -> Tensor:
    """Eigenvalues, descending, with what is rounding of the largest at 0."""
    values = torch.linalg.eigvalsh(gram).flip(-1)
    rounding = values.shape[-1] * torch.finfo(values.dtype).eps * values[..., :1]
    return torch.where(values > rounding, values, 0)


def _tails(energies: Tensor, width: int) -> Tensor:
    """What lies beyond the R largest, for R = 0 ... width - 1, summed from the small end so that no digits cancel."""
    tails = pad(energies.flip(1).cumsum(dim=1).flip(1), (0, 1))
    return pad(tails, (0, max(0, width - tails.shape[1])))[:, :width]


def _first_below(bound: Tensor, limit: float) -> Tensor:
    # Rounding in sums of energies must not ask for one term more.
    return (bound > limit + 1e-12).sum(dim=1)
