"""The explorer of a run: one HTML page on which circuits are looked at, node by node."""

from circuits.explorer.content import ExplorerContent as ExplorerContent
from circuits.explorer.document import explorer_document as explorer_document
from circuits.explorer.page import explorer_page as explorer_page
from circuits.explorer.trimming import trimmed as trimmed

__all__ = ["ExplorerContent", "explorer_document", "explorer_page", "trimmed"]
