"""Every notebook runs top to bottom, and its claims hold."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_a_notebook_runs_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    assert any(cell.source == 'MODEL = "sev-mini"' for cell in notebook.cells), (
        f"{path.name} must name its model in a cell of its own, so that another can be put in"
    )
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def test_there_is_a_notebook():
    assert NOTEBOOKS
