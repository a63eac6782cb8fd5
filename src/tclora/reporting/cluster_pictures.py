"""Two pictures of a clustering: where the clusters lie, and the curve that their number was read from.

In: records. Out: SVG text. Refused: nothing; figures that are not defined are left out.
"""

import math
from collections.abc import Callable, Sequence

from tclora.records import ClusterMapRecord, ClusterRecord, NClustersPoint, NClustersRecord
from tclora.reporting.svg import Axis, circle, color, document, line, panel, polyline, rounded_ticks, text
from tclora.reporting.wording import clip, count, percent

__all__ = ["cluster_map_svg", "n_clusters_svg"]

_WIDTH, _PLOT, _TOP, _ROW = 900, 560, 44, 17
_LINES = ("#0072b2", "#999999")
_N_TERMS, _N_CHARACTERS = 4, 40

# A figure of a point and its standard error; None: not defined for that number of clusters.
_Figure = Callable[[NClustersPoint], tuple[float, float] | None]


def cluster_map_svg(found: ClusterMapRecord, record: ClusterRecord) -> str:
    """The rows in the color of their cluster, the centroids with their numbers, and what each cluster is about."""
    height = max(_PLOT + _TOP, _TOP + _ROW * (record.n_clusters + 2)) + 24
    x, y = _square(found)
    title = f"{record.n_clusters} clusters: {count(len(found.x))} of {count(found.n_rows)} training examples"
    elements = [text(20, 26, title, size=15, extra='font-weight="bold"')]
    elements += [
        circle(x(a), y(b), 2.2, color(label), extra='fill-opacity="0.55"')
        for a, b, label in zip(found.x, found.y, found.labels, strict=True)
    ]
    for index, (a, b) in enumerate(zip(found.centroid_x, found.centroid_y, strict=True)):
        elements.append(circle(x(a), y(b), 9, color(index), extra='stroke="#ffffff" stroke-width="1.5"'))
        extra = 'fill="#ffffff" font-weight="bold"'
        elements.append(text(x(a), y(b) + 3.5, str(index), size=10, anchor="middle", extra=extra))
    elements += _legend(record)
    elements.append(text(20, height - 8, _axes_told(found), size=11, extra='fill="#777777"'))
    return document(_WIDTH, height, title, elements)


def n_clusters_svg(choice: NClustersRecord) -> str:
    """Stability, silhouette, gap and balance over the number of clusters, with the chosen one marked."""
    told: tuple[tuple[str, tuple[_Figure, ...]], ...] = (
        ("stability (adjusted Rand index, ± 1 standard error)", (lambda p: _pair(p.stability, p.stability_se),)),
        (
            "silhouette (gray: one normal distribution)",
            (lambda p: _pair(p.silhouette, p.silhouette_se), lambda p: _pair(p.silhouette_null, None)),
        ),
        ("gap statistic (± 1 standard error)", (lambda p: _pair(p.gap, p.gap_se),)),
        (
            "balance of rows (gray: of tokens)",
            (lambda p: _pair(p.balance_rows, None), lambda p: _pair(p.balance_tokens, None)),
        ),
    )
    elements = [text(20, 26, f"How many clusters: {choice.n_clusters}", size=15, extra='font-weight="bold"')]
    for place, (title, figures) in enumerate(told):
        left, top = 60 + 430 * (place % 2), 74 + 230 * (place // 2)
        elements += _curve(choice, title, figures, (left, top))
    return document(_WIDTH, 520, "How many clusters", elements)


def _curve(choice: NClustersRecord, title: str, figures: Sequence[_Figure], corner: tuple[int, int]) -> list[str]:
    points = choice.points
    values = [value for figure in figures for point in points if (value := figure(point)) is not None]
    low = min((value - error for value, error in values), default=0.0)
    high = max((value + error for value, error in values), default=1.0)
    room = 0.05 * (high - low) or 0.5
    x = Axis(1, max(2, points[-1].n_clusters), corner[0], corner[0] + 370, logarithmic=True)
    y = Axis(low - room, high + room, corner[1] + 150, corner[1])
    doublings = [2.0**power for power in range(1 + int(math.log2(x.high)))]
    elements = panel(x, y, title, (doublings, rounded_ticks(y.low, y.high)))
    marked = x(choice.n_clusters)
    elements.append(line((marked, y.first), (marked, y.last), "#d55e00", extra='stroke-dasharray="4 3"'))
    for figure, stroke in reversed(list(zip(figures, _LINES, strict=False))):
        found = [(x(p.n_clusters), value) for p in points if (value := figure(p)) is not None]
        elements.append(polyline([(a, y(value)) for a, (value, _) in found], stroke, extra='stroke-width="1.5"'))
        elements += [line((a, y(v - error)), (a, y(v + error)), stroke) for a, (v, error) in found if error]
        elements += [circle(a, y(value), 3, stroke) for a, (value, _) in found]
    return elements


def _square(found: ClusterMapRecord) -> tuple[Axis, Axis]:
    """One scale for both axes, so that distances in the picture are those of the plane."""
    xs, ys = (*found.x, *found.centroid_x), (*found.y, *found.centroid_y)
    half = 0.52 * max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    x = Axis(middle_x - half, middle_x + half, 20, 20 + _PLOT)
    return x, Axis(middle_y - half, middle_y + half, _TOP + _PLOT, _TOP)


def _legend(record: ClusterRecord) -> list[str]:
    left = _PLOT + 44
    elements = []
    for place, cluster in enumerate(record.clusters):
        y = _TOP + 10 + _ROW * place
        words = clip(", ".join(cluster.top_terms[:_N_TERMS]), _N_CHARACTERS)
        elements.append(circle(left, y - 4, 5, color(cluster.index)))
        elements.append(text(left + 12, y, f"{cluster.index}: {count(cluster.n_train)} rows. {words}"))
    return elements


def _axes_told(found: ClusterMapRecord) -> str:
    if found.method == "umap":
        return "UMAP: neighbors are near each other; distances between groups mean little."
    shares = " and ".join(percent(share) for share in found.variance_shares)
    return f"The two axes of largest variance, with {shares} of it. Groups that overlap here may be apart on others."


def _pair(value: float | None, error: float | None) -> tuple[float, float] | None:
    return None if value is None else (value, error or 0.0)
