"""Pages of a run that open without a network: its report and its explorer."""

from circuits.report.explorer import ExplorerContent as ExplorerContent
from circuits.report.explorer import explorer_document as explorer_document
from circuits.report.explorer import explorer_page as explorer_page
from circuits.report.explorer import trimmed as trimmed
from circuits.report.page import ReportContent as ReportContent
from circuits.report.page import write_report as write_report

__all__ = [
    "ExplorerContent",
    "ReportContent",
    "explorer_document",
    "explorer_page",
    "trimmed",
    "write_report",
]
