"""One budget of CP terms for many modules, spent where each term explains the most energy.

In: one curve per module, of energy explained against number of terms. Out: a number of terms for each module. Energies
are absolute, so a module with large deltas gets more terms than a small one of the same shape of curve. Refused: a
budget with fewer terms than modules.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tclora.errors import ConfigError

__all__ = ["RankCurve", "share_budget"]


@dataclass(frozen=True)
class RankCurve:
    """What the terms of one module explain: at `cp_ranks`, ascending, the energy `explained`.

    The last rank is one at which the model is exact, so the last energy is that of the module's whole tensor.
    """

    cp_ranks: tuple[int, ...]
    explained: tuple[float, ...]


def share_budget(curves: Sequence[RankCurve], total: int) -> tuple[int, ...]:
    """Share `total` terms among modules: one each, then one by one where the next term explains most energy.

    Curves are taken at their least concave majorant, so terms gain less and less and the greedy choice is the best
    one. Equal gains go to the module with fewer terms, so equal modules share evenly. A module takes no more terms
    than make it exact, so less than `total` is spent only if every module is exact.

    Raises:
        ConfigError: there are more modules than terms.
    """
    if total < len(curves):
        raise ConfigError(
            "the budget does not leave every module a term",
            found=f"{total} terms for {len(curves)} modules",
            expected="at least one term per module",
        )
    gains = [_concave_gains(curve) for curve in curves]
    ranks = [1] * len(curves)
    waiting = [(-gain[1], 1, j) for j, gain in enumerate(gains) if len(gain) > 1]
    heapq.heapify(waiting)
    for _ in range(total - len(curves)):
        if not waiting:
            break
        _, rank, j = heapq.heappop(waiting)
        ranks[j] = rank + 1
        if rank + 1 < len(gains[j]):
            heapq.heappush(waiting, (-gains[j][rank + 1], rank + 1, j))
    return tuple(ranks)


def _concave_gains(curve: RankCurve) -> list[float]:
    """The energy that term 1, 2, ... adds on the least concave majorant of the curve."""
    hull: list[tuple[int, float]] = [(0, 0.0)]
    for point in zip(curve.cp_ranks, curve.explained, strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [slope for a, b in pairwise(hull) for slope in [max(0.0, _slope(a, b))] * (b[0] - a[0])]


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
