"""The evaluation report as an HTML page: `write_report`."""

from rsna_e2e.evaluation.report.page import write_report

__all__ = ["write_report"]
