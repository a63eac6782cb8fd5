"""Write the golden files of the report's format: `python tests/reporting/make_golden.py`, then read the diff."""

from pathlib import Path

from sample_report import sample_report

from tclora.reporting import write_report

GOLDEN = Path(__file__).parent / "golden"

if __name__ == "__main__":
    write_report(GOLDEN, sample_report())
