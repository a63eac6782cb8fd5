"""Do the same clusters come back from other samples of the same data? The answer for one k.

In: centroids fitted on several resamples, and rows that none of them has seen. Out: how far the clusterings agree on
those rows, with its standard error. Two clusterings of different rows can be compared because each says for any row
which cluster it is in.

Sources: Ben-Hur, Elisseeff and Guyon 2002; Lange, Roth, Braun and Buhmann 2004; von Luxburg 2010, arXiv 1007.1075.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tclora.clustering.quality import adjusted_rand
from tclora.shapes import Int

__all__ = ["Stability", "stability_of"]


@dataclass(frozen=True)
class Stability:
    """Mean adjusted Rand index over pairs of resamples, and its standard error."""

    value: float
    se: float


def stability_of(labelings: Sequence[Int[np.ndarray, " n"]]) -> Stability:
    """The agreement of two or more clusterings of the same rows.

    The mean runs over all pairs, which share clusterings and so are not independent: the standard error is the
    jackknife's, by leaving out one clustering at a time. With two clusterings there is none, and it is 0.

    Source of the error: Efron and Stein 1981, for means over pairs.
    """
    n = len(labelings)
    agree = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            agree[i, j] = agree[j, i] = adjusted_rand(labelings[i], labelings[j])
    pairs = n * (n - 1) / 2
    total = agree.sum() / 2
    if n < 3:
        return Stability(float(total / pairs), 0.0)
    without = (total - agree.sum(axis=1)) / (pairs - (n - 1))
    spread = ((without - without.mean()) ** 2).sum()
    return Stability(float(total / pairs), math.sqrt((n - 1) / n * spread))
