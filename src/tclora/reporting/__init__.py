"""Reports: a run's records as complete JSON and as a page that puts the answer first."""

from tclora.reporting.cluster_pictures import cluster_map_svg, n_clusters_svg
from tclora.reporting.cluster_sections import n_clusters_table
from tclora.reporting.many_tables import many_comparison_table, many_page, many_table
from tclora.reporting.report import render_json, render_markdown, write_report
from tclora.reporting.run_report import RunReport
from tclora.reporting.study_page import study_table, write_study
from tclora.reporting.tables import results_table

__all__ = [
    "RunReport",
    "cluster_map_svg",
    "many_comparison_table",
    "many_page",
    "many_table",
    "n_clusters_svg",
    "n_clusters_table",
    "render_json",
    "render_markdown",
    "results_table",
    "study_table",
    "write_report",
    "write_study",
]
