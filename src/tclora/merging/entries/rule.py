"""What an entry-wise method does, as data: which entries of each adapter stay, and how those that stay become one.

Six published methods are rows of one table: a way to keep (`all`, `largest`, `band`, `random`, `ranked`) and a way to
combine (weighted sum, or the elected sign of TIES).
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Convention", "Elect", "Election", "EntryRule", "Keep", "Rescale"]

Keep = Literal["all", "largest", "band", "random", "ranked"]
Rescale = Literal["inverse", "l1", "none"]
Elect = Literal["sum", "count"]
Convention = Literal["mergekit", "peft", "authors"]


@dataclass(frozen=True)
class Election:
    """How the sign of an entry is elected, and how those that agree with it are put together.

    `elect`: by the sum of the values or by the count of their signs. `convention`: what the weights do (`combine.py`
    has the formulas). `normalize`: divide by the agreeing weights (or count), which makes a mean; else leave the sum.
    """

    elect: Elect = "sum"
    convention: Convention = "mergekit"
    normalize: bool = True


@dataclass(frozen=True)
class EntryRule:
    """One entry-wise rule; `density` is the share of entries that stay, one per adapter.

    `gamma` belongs to `band`: the share of the largest entries that go. `epsilon` belongs to `ranked`: half the width
    of the range of probabilities. `rescale` belongs to the random ones: divide what stays by its probability, or bring
    its L1 norm back to that of the delta. `bounds`, where given, are the least magnitudes that `largest` keeps, one per
    adapter, in place of the density. No `election` means a weighted sum.
    """

    keep: Keep
    density: tuple[float, ...]
    gamma: float = 0.0
    epsilon: float = 0.0
    rescale: Rescale = "none"
    election: Election | None = None
    seed: int = 0
    bounds: tuple[float, ...] | None = None
