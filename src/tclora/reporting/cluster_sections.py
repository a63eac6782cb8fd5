"""What a report says of how the clusters were made: the curve their number was read from, and the map.

In: a `RunReport` or its records. Out: a table, Markdown sections, and the pictures they show, by file name. Where the
number was given, or no map was drawn, there is no such section.
"""

from tclora.records import NClustersPoint, NClustersRecord
from tclora.reporting.cluster_pictures import cluster_map_svg, n_clusters_svg
from tclora.reporting.markdown import escape, table
from tclora.reporting.run_report import RunReport
from tclora.reporting.tables import Table
from tclora.reporting.wording import NONE, count, number, percent

__all__ = ["choice_sections", "map_sections", "n_clusters_table", "pictures"]

_CURVE, _MAP = "n-clusters.svg", "clusters.svg"


def n_clusters_table(choice: NClustersRecord) -> Table:
    """The whole curve, a row for each number of clusters; the chosen one is marked."""
    header = ["clusters", "chosen", "stability", "silhouette", "of one group", "Calinski-Harabasz", "Davies-Bouldin"]
    header += ["gap", "smallest (rows)", "balance, rows", "balance, tokens"]
    return header, [_row(choice, point) for point in choice.points]


def choice_sections(report: RunReport) -> list[str]:
    """The reasons, the curve as a picture and as a table, and how it was measured."""
    choice = report.clusters.choice
    if choice is None:
        return []
    measured = (
        f"Measured on {count(choice.sample_size)} of {count(choice.n_rows)} rows on {choice.n_axes} principal axes "
        f"({percent(choice.variance_kept)} of the variance), by k-means. Stability: adjusted Rand index between "
        f"clusterings of {choice.n_resamples} bootstrap resamples, on {count(choice.n_held_out)} rows held out of "
        "them, with its standard error. Silhouette beside that of one normal distribution of the same covariance. "
        "Higher is better but for Davies-Bouldin; balance is 1 where all clusters are as large. A number in "
        "brackets has a cluster that is too small."
    )
    picture = f"![Stability, silhouette, gap and balance over the number of clusters]({_CURVE})"
    parts = [
        "## How many clusters",
        escape(choice.reasons),
        picture,
        table(*n_clusters_table(choice)),
        escape(measured),
    ]
    return parts


def map_sections(report: RunReport) -> list[str]:
    """The map as a picture."""
    if report.cluster_map is None:
        return []
    return [f"![Training examples in the plane, colored by cluster]({_MAP})"]


def pictures(report: RunReport) -> dict[str, str]:
    """The SVG files that the sections show."""
    found = {}
    if report.clusters.choice is not None:
        found[_CURVE] = n_clusters_svg(report.clusters.choice)
    if report.cluster_map is not None:
        found[_MAP] = cluster_map_svg(report.cluster_map, report.clusters)
    return found


def _row(choice: NClustersRecord, point: NClustersPoint) -> list[str]:
    return [
        str(point.n_clusters) if point.large_enough else f"({point.n_clusters})",
        "yes" if point.n_clusters == choice.n_clusters else "",
        _with_error(point.stability, point.stability_se),
        number(point.silhouette),
        number(point.silhouette_null),
        number(point.calinski_harabasz, 1),
        number(point.davies_bouldin),
        _with_error(point.gap, point.gap_se),
        count(point.smallest_rows),
        number(point.balance_rows),
        number(point.balance_tokens),
    ]


def _with_error(value: float | None, error: float | None) -> str:
    return NONE if value is None else f"{number(value)} ± {number(error)}"
