"""From the curve to a number of clusters, and to the sentence that says why.

In: the points of the curve, ascending, the first for one cluster. Out: what each rule says, whether there is structure
at all, and the reasons. Every rule looks only at numbers whose smallest cluster is large enough.

The default, `stability`: the largest k whose stability is within one standard error of the best. The largest and not
the best, because few clusters are stable in almost any data (a long cloud splits in two the same way each time), and
because more clusters that come back are more that an adapter each can learn. For the same reason a later peak of
stability wins that is nearly as high, where the clusters are also clearly better separated: past the true number of
groups separation falls, so a curve with one peak is left alone. Stability does not see that there is one cluster only,
so that is a test of its own: the silhouette must exceed that of one normal distribution.

Sources: Lange et al. 2004; von Luxburg 2010, arXiv 1007.1075; the one-standard-error rule is Breiman et al. 1984;
Tibshirani, Walther and Hastie 2001 (gap); Liu et al. 2008 (one normal distribution as the null).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from tclora.records import NClustersPoint

__all__ = ["has_structure", "reasons", "suggestions"]

# A difference of stability below this is nothing, even where resamples agree so well that the error is smaller.
_TOLERANCE = 0.01
# By how much, and by how many standard errors, the silhouette must exceed that of one normal distribution.
_EXCESS, _ERRORS = 0.05, 3.0
# How far below the best a later peak of stability may lie.
_NEARLY = 0.1
_NAMES = {
    "stability": "stability",
    "silhouette": "silhouette",
    "calinski_harabasz": "Calinski-Harabasz",
    "davies_bouldin": "Davies-Bouldin",
    "gap": "gap",
}


def has_structure(points: Sequence[NClustersPoint]) -> bool:
    """Whether some split separates the rows clearly better than the same split of one normal distribution."""
    return any(_excess(point) > max(_EXCESS, _ERRORS * (point.silhouette_se or 0.0)) for point in _eligible(points))


def suggestions(points: Sequence[NClustersPoint]) -> dict[str, int]:
    """What each rule says; one cluster where no split is large enough, and of `stability` where there is no structure.

    The rule of the gap statistic asks for the smallest k that the next number tried does not beat by a standard error.
    """
    eligible = _eligible(points)
    if not eligible:
        return dict.fromkeys(_NAMES, 1)
    return {
        "stability": _most_stable(eligible).n_clusters if has_structure(points) else 1,
        "silhouette": _highest(eligible, lambda point: point.silhouette or 0.0),
        "calinski_harabasz": _highest(eligible, lambda point: _or_infinite(point.calinski_harabasz)),
        "davies_bouldin": _highest(eligible, lambda point: -(point.davies_bouldin or 0.0)),
        "gap": _first_not_beaten([points[0], *eligible]),
    }


def reasons(points: Sequence[NClustersPoint], rule: str, *, n_rows: int, too_few: str) -> str:
    """Why this number, with the figures it rests on, and what the other rules would say.

    Args:
        too_few: why nothing could be tried; said where there is no point but that of one cluster.
    """
    said = suggestions(points)
    chosen = next(point for point in points if point.n_clusters == said[rule])
    eligible = _eligible(points)
    parts = [f"K={chosen.n_clusters}: {_ground(points, chosen, rule, too_few)}"]
    if chosen.n_clusters > 1:
        parts.append(f"smallest cluster about {chosen.smallest_rows:,} of {n_rows:,} rows")
    if eligible:
        others = ", ".join(f"{_NAMES[name]} {k}" for name, k in said.items() if name != rule)
        parts.append(f"other rules would say: {others}")
    text = "; ".join(parts) + "."
    if rule != "stability" and eligible and not has_structure(points):
        text += f" No structure was found: {_no_structure(eligible)}."
    if chosen.n_clusters > 1 and chosen.n_clusters == points[-1].n_clusters:
        text += " It is the largest number tried: still more clusters may do as well."
    return text


def _ground(points: Sequence[NClustersPoint], chosen: NClustersPoint, rule: str, too_few: str) -> str:
    eligible = _eligible(points)
    if len(points) == 1:
        return too_few
    if not eligible:
        return "every split leaves a cluster with too few rows or tokens"
    if rule == "stability":
        if chosen.n_clusters == 1:
            return f"no structure was found: {_no_structure(eligible)}, so that any split would be arbitrary"
        best = max(eligible, key=lambda point: point.stability or 0.0)
        found = f"stability {_plus_minus(chosen)}, "
        if best.n_clusters == chosen.n_clusters:
            return found + "the best of all"
        there = f"({best.stability:.2f} at K={best.n_clusters})"
        if _upper(chosen) < (best.stability or 0.0) - max(best.stability_se or 0.0, _TOLERANCE):
            return found + (
                f"a later peak within {_NEARLY} of the best {there}, and clusters far better separated: silhouette "
                f"{chosen.silhouette:.2f} against {best.silhouette:.2f}"
            )
        return found + f"the largest number within one standard error of the best {there}"
    if rule == "gap":
        return "the smallest number that the next one does not beat by a standard error of the gap"
    value = getattr(chosen, rule)
    how = "lowest" if rule == "davies_bouldin" else "highest"
    figure = "infinite: every row lies on its centroid" if value is None else f"{value:.3g}"
    return f"{how} {_NAMES[rule]} ({figure}); stability there {_plus_minus(chosen)}"


def _no_structure(eligible: Sequence[NClustersPoint]) -> str:
    best = max(eligible, key=_excess)
    return (
        f"the silhouette is at most {_excess(best):.2f} above that of one normal distribution (at K={best.n_clusters}; "
        f"{_EXCESS} and {_ERRORS:.0f} standard errors are asked for)"
    )


def _plus_minus(point: NClustersPoint) -> str:
    return f"{point.stability:.2f} ± {point.stability_se:.2f}"


def _eligible(points: Sequence[NClustersPoint]) -> list[NClustersPoint]:
    return [point for point in points if point.n_clusters > 1 and point.large_enough]


def _most_stable(eligible: Sequence[NClustersPoint]) -> NClustersPoint:
    best = max(eligible, key=lambda point: point.stability or 0.0)
    low = (best.stability or 0.0) - max(best.stability_se or 0.0, _TOLERANCE)
    # A resample in which k-means missed a cluster lowers the mean and widens the error of that k; the error is its due.
    chosen = [point for point in eligible if _upper(point) >= low][-1]
    for point in _later_peaks(eligible, chosen.n_clusters):
        clearly = (chosen.silhouette or 0.0) + _ERRORS * max(chosen.silhouette_se or 0.0, point.silhouette_se or 0.0)
        if _upper(point) >= (best.stability or 0.0) - _NEARLY and (point.silhouette or 0.0) > clearly:
            chosen = point
    return chosen


def _later_peaks(eligible: Sequence[NClustersPoint], after: int) -> list[NClustersPoint]:
    """The numbers above `after` that are more stable than the one tried before and not less than the next."""
    values = [point.stability or 0.0 for point in eligible]
    follows = [*values[1:], 0.0]
    return [
        point
        for place, point in enumerate(eligible)
        if place and point.n_clusters > after and values[place - 1] < values[place] >= follows[place]
    ]


def _upper(point: NClustersPoint) -> float:
    return (point.stability or 0.0) + (point.stability_se or 0.0)


def _first_not_beaten(points: Sequence[NClustersPoint]) -> int:
    for point, following in pairwise(points):
        if _or_infinite(point.gap) >= _or_infinite(following.gap) - (following.gap_se or 0.0):
            return point.n_clusters
    return points[-1].n_clusters


def _highest(points: Sequence[NClustersPoint], figure: Callable[[NClustersPoint], float]) -> int:
    return max(points, key=figure).n_clusters


def _excess(point: NClustersPoint) -> float:
    return (point.silhouette or 0.0) - (point.silhouette_null or 0.0)


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value
