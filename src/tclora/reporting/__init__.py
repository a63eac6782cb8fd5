"""Reports: a run's records as complete JSON and as a page that puts the answer first."""

from tclora.reporting.report import render_json, render_markdown, write_report
from tclora.reporting.run_report import RunReport
from tclora.reporting.tables import results_table

__all__ = ["RunReport", "render_json", "render_markdown", "results_table", "write_report"]
