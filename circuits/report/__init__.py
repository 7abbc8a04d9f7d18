"""Pages of a run that open without a network: its report and its explorer."""

from circuits.report.explorer import ExplorerContent, explorer_document, explorer_page, trimmed
from circuits.report.page import ReportContent, write_report

__all__ = [
    "ExplorerContent",
    "ReportContent",
    "explorer_document",
    "explorer_page",
    "trimmed",
    "write_report",
]
