"""The authors' output folder (Wang et al. 2025, arXiv 2510.11328): read, written, assembled from.

A published folder is a mapping from the place of a file to its content: a record with just the
columns of the file, or a JSON document. Nothing is filled in that the files do not say.
"""

from circuits.published.assembling import Assembled as Assembled
from circuits.published.assembling import Settings as Settings
from circuits.published.assembling import assemble_published as assemble_published
from circuits.published.folder import Contents as Contents
from circuits.published.folder import read_folder as read_folder
from circuits.published.folder import write_folder as write_folder
from circuits.published.importing import import_folder as import_folder

__all__ = [
    "Assembled",
    "Contents",
    "Settings",
    "assemble_published",
    "import_folder",
    "read_folder",
    "write_folder",
]
