"""What singular values alone say about the fit of CP models: bounds at any number of terms, without fitting one.

In: the spectra of the three unfoldings and of the single adapters, as analysis finds them. Out: bounds on the fit, by
the formula of `tclora.algebra.cp_bounds`.
"""

from collections.abc import Sequence

from torch import Tensor

from tclora.algebra import bounds_of_spectra
from tclora.analysis.grams import SingularGrams
from tclora.shapes import Float

__all__ = ["fit_bounds"]


def fit_bounds(
    grams: SingularGrams, gram: Float[Tensor, "m n n"], cp_ranks: Sequence[int]
) -> tuple[Float[Tensor, "m c"], Float[Tensor, "m c"]]:
    """The fit that some model reaches with so many terms, and the one that no model exceeds, for each of `cp_ranks`.

    `gram` holds the inner products of the deltas. The fits of a zero module are 1.
    """
    bounds = bounds_of_spectra(grams.values, grams.out_spectrum, grams.in_spectrum, gram)
    places = [min(rank, bounds.least.shape[1] - 1) for rank in cp_ranks]
    return 1 - bounds.reached[:, places].sqrt(), 1 - bounds.least[:, places].sqrt()
