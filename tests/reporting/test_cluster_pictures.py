"""The pictures and sections of a clustering: valid SVG, every row drawn, hostile text shown and not read."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from sample_report import sample_report

from tclora.records import ClusterMapRecord, NClustersPoint, NClustersRecord
from tclora.reporting import (
    cluster_map_svg,
    n_clusters_svg,
    n_clusters_table,
    render_json,
    render_markdown,
    write_report,
)
from tclora.reporting.svg import Axis, color, rounded_ticks

SVG = "{http://www.w3.org/2000/svg}"
MAP = ClusterMapRecord("pca", 900, (0.0, 1.0, 2.0), (0.0, -1.0, 4.0), (0, 1, 1), (0.0, 1.5), (0.0, 1.5), (0.3, 0.12))


def _point(k: int, **figures) -> NClustersPoint:
    return NClustersPoint(
        n_clusters=k,
        within=1 / k,
        smallest_rows=1000 // k,
        smallest_tokens=None,
        balance_rows=0.9,
        balance_tokens=None,
        large_enough=k < 4,
        **figures,
    )


def _choice() -> NClustersRecord:
    figures = {"stability": 0.9, "stability_se": 0.02, "silhouette": 0.4, "silhouette_null": 0.1, "silhouette_se": 0.01}
    points = (_point(1, gap=0.1, gap_se=0.01), _point(2, gap=0.5, gap_se=0.01, **figures), _point(4, **figures))
    reasons = "K=2: stability | 0.90 ± 0.02 <b>best</b>."
    return NClustersRecord(2, "stability", reasons, True, {"stability": 2}, points, 1000, 500, 150, 10, 64, 0.8)


def _chosen_report():
    report = sample_report()
    return replace(report, clusters=replace(report.clusters, choice=_choice()), cluster_map=MAP)


def test_the_map_draws_every_row_and_every_centroid():
    found = ElementTree.fromstring(cluster_map_svg(MAP, sample_report().clusters))
    circles = found.findall(f"{SVG}circle")
    assert [c.get("r") for c in circles] == ["2.2"] * 3 + ["9"] * 2 + ["5"] * 2  # rows, centroids, legend
    assert [c.get("fill") for c in circles[:3]] == [color(0), color(1), color(1)]
    # One scale for both axes: the second row is as far right of the first as it is below it.
    across, down = ([float(c.get(name)) for c in circles[:2]] for name in ("cx", "cy"))
    assert across[1] - across[0] == pytest.approx(down[1] - down[0], abs=0.2)


def test_hostile_terms_are_shown_and_not_read():
    clusters = sample_report().clusters
    bad = replace(clusters.clusters[0], top_terms=("<script>alert(1)</script>", "a&b", "\x1b[2J"))
    picture = cluster_map_svg(MAP, replace(clusters, clusters=(bad, clusters.clusters[1])))
    ElementTree.fromstring(picture)
    assert "<script" not in picture and "\x1b" not in picture
    assert "&lt;script&gt;alert(1)" in picture and "a&amp;b" in picture


def test_the_curve_draws_what_is_defined():
    found = ElementTree.fromstring(n_clusters_svg(_choice()))
    lines = found.findall(f"{SVG}polyline")
    # Stability; silhouette of one group and its own; gap; tokens and rows: points as many as are defined.
    assert [len(line.get("points").split()) if line.get("points") else 0 for line in lines] == [2, 2, 2, 2, 0, 3]


def test_a_curve_of_one_point_is_drawn():
    ElementTree.fromstring(n_clusters_svg(replace(_choice(), points=(_point(1),), n_clusters=1)))


def test_the_table_marks_the_chosen_and_brackets_what_is_too_small():
    header, rows = n_clusters_table(_choice())
    assert [row[:3] for row in rows] == [["1", "", "-"], ["2", "yes", "0.900 ± 0.020"], ["(4)", "", "0.900 ± 0.020"]]
    assert all(len(row) == len(header) for row in rows)


def test_the_report_shows_curve_map_and_reasons(tmp_path):
    write_report(tmp_path, _chosen_report())
    page = (tmp_path / "report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("clusters.svg", "n-clusters.svg", "report.json", "report.md")
    ]
    assert page.index("## How many clusters") < page.index("](n-clusters.svg)") < page.index("## Clusters")
    assert "](clusters.svg)" in page and "K=2: stability \\| 0.90 ± 0.02 &lt;b&gt;best" in page


def test_the_json_holds_the_curve_and_leaves_out_the_points_of_the_map():
    data = json.loads(render_json(_chosen_report()))
    assert data["clusters"]["choice"]["points"][1]["stability"] == 0.9 and "cluster_map" not in data


def test_without_choice_and_map_there_is_no_such_section():
    page = render_markdown(sample_report())
    assert "How many clusters" not in page and ".svg" not in page


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.5, 1]), (0.32, 0.41, [0.35, 0.4]), (-3, 250, [0, 100, 200]), (2.0, 2.0, [2.0])],
)
def test_ticks_are_round(low, high, ticks):
    assert rounded_ticks(float(low), float(high), about=3) == pytest.approx(ticks)


def test_an_axis_maps_its_ends_and_a_range_of_nothing_to_the_middle():
    axis = Axis(1, 16, 0, 100, logarithmic=True)
    assert (axis(1), axis(4), axis(16)) == pytest.approx((0, 50, 100))
    assert Axis(2, 2, 0, 100)(2) == 50


def test_neighboring_colors_differ():
    shown = [color(index) for index in range(40)]
    assert len(set(shown)) == 40 and all(len(c) == 7 for c in shown)
