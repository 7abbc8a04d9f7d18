"""The report of a run: one HTML page that opens without a network."""

from circuits.report.content import ReportContent as ReportContent
from circuits.report.page import write_report as write_report

__all__ = ["ReportContent", "write_report"]
