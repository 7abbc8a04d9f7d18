"""Every notebook is a clean file, runs top to bottom, and its claims hold."""

import ast
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MODEL_LINE = 'MODEL = "sev-mini"'
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

ALLOWED = {"circuits", "dataclasses", "importlib.util", "pathlib", "random", "tempfile", "torch"}
"""What a notebook may import: the package as ``ec``, torch, and the standard library."""

pytestmark = pytest.mark.slow


def read(path):
    return nbformat.read(path, as_version=4)


def codes(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def program(notebook):
    """All code as one program, without the lines that only IPython understands."""
    source = "\n".join(cell.source for cell in codes(notebook))
    return ast.parse(re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.M))


def test_the_story_is_told_from_five_minutes_to_rhetoric():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{n:02d}" for n in range(8)]


@EACH
def test_a_notebook_names_its_model_in_its_first_code_cell_and_nowhere_else(path):
    first, second, *others = codes(read(path))
    assert first.source == MODEL_LINE
    assert 'find_spec("circuits") is None' in second.source
    assert not [cell.source for cell in others if "sev-mini" in cell.source]


@EACH
def test_a_notebook_is_kept_without_outputs_and_with_ids(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == [
        f"cell-{number:02d}" for number in range(len(notebook.cells))
    ]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in codes(notebook))
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not cell.metadata for cell in notebook.cells)


@EACH
def test_a_notebook_uses_public_names_only(path):
    found, private = set(), set()
    for node in ast.walk(program(read(path))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            found.add(
                node.module.split(".")[0] if node.module.startswith("circuits") else node.module
            )
            if node.module.startswith("circuits"):
                public = import_module(node.module).__all__
                assert {name.name for name in node.names} <= {*public}, "a name that is not public"
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            private.add(node.attr)
    assert found <= ALLOWED
    assert not private


@EACH
def test_a_notebook_says_what_it_measures_and_ends_by_checking_its_claim(path):
    notebook = read(path)
    opening = notebook.cells[0].source
    if not path.stem.startswith("00"):
        assert "**Measured:**" in opening
        assert "**Not shown:**" in opening
    titles = [c.source for c in notebook.cells if c.cell_type == "markdown" and "## " in c.source]
    assert re.search(r"^## (\d\. )?Check the claim", titles[-1])
    last = ast.walk(ast.parse(codes(notebook)[-1].source))
    claims = [node for node in last if isinstance(node, ast.Assert)]
    assert claims
    assert all(claim.msg is not None for claim in claims), "a claim that fails says which"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All notebooks run in one kernel, names cleared between them: torch loads once.

    They share a folder, so that one takes the stages of a run that another has done; and the
    first has a model that is loaded in place of a name, as a reader may.
    """
    notebooks = {path.stem: read(path) for path in NOTEBOOKS}
    together = nbformat.v4.new_notebook()
    cell, folder = nbformat.v4.new_code_cell, str(tmp_path_factory.mktemp("notebooks"))
    shared = f"lambda *given, made=tempfile.mkdtemp: made(*given) if given else {folder!r}"
    together.cells = [cell(f"import tempfile\ntempfile.mkdtemp = {shared}")]
    for own in notebooks.values():
        at = own.cells.index(codes(own)[0]) + 1
        load = [cell("import circuits\nMODEL = circuits.load_model(MODEL)")]
        load = load if own is notebooks["00_five_minutes"] else []
        together.cells += [cell("%reset -f"), *own.cells[:at], *load, *own.cells[at:]]
    NotebookClient(together, timeout=300, kernel_name="python3", allow_errors=True).execute()
    return notebooks


@EACH
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_a_notebook_runs_from_top_to_bottom(path, executed):
    for cell in codes(executed[path.stem]):
        failed = [own for own in cell.outputs if own.output_type == "error"]
        assert not failed, (cell.id, "".join(failed[0].traceback))
        for figure in figures(cell):
            assert figure["layout"]["title"]["text"]
            for axis in (name for name in figure["layout"] if re.match(r"[xy]axis$", name)):
                titled = any(
                    figure["layout"][own].get("title", {}).get("text")
                    for own in figure["layout"]
                    if own.startswith(axis)
                )
                assert titled, (path.name, cell.id, axis)


def figures(cell):
    data = [output.data for output in cell.outputs if "data" in output]
    kind = "application/vnd.plotly.v1+json"
    return [own[kind] for own in data if kind in own]
