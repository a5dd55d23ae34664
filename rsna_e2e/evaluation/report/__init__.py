"""The evaluation report as an HTML page: `write_report`, and of boxes, `write_box_report`."""

from rsna_e2e.evaluation.report.box_page import write_box_report
from rsna_e2e.evaluation.report.page import write_report

__all__ = ["write_box_report", "write_report"]
