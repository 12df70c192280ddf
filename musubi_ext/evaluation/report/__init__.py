"""Pages that need nothing else: an evaluation's clips and distributions, and two models side by side."""

from musubi_ext.evaluation.report.compare_page import write_compare_report
from musubi_ext.evaluation.report.page import write_report

__all__ = ["write_compare_report", "write_report"]
