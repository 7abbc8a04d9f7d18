"""The solutions run and pass; the exercises fail at their checks, each with its own message."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from workshop.scripts import FOLDER, script

NAMES = sorted(path.stem for path in (FOLDER / "solutions").glob("*.ipynb"))
CELL = nbformat.NotebookNode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning"),
]


def notebook(folder: Path, name: str) -> CELL:
    return nbformat.read(folder / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed() -> dict[str, dict[str, list[CELL]]]:
    """All notebooks, run in one kernel, names cleared between them: torch loads once."""
    folders = {"solved": FOLDER / "solutions", "unsolved": FOLDER}
    notebooks = {key: {n: notebook(own, n) for n in NAMES} for key, own in folders.items()}
    together = nbformat.v4.new_notebook()
    for key, folder in folders.items():
        for own in notebooks[key].values():
            # As Jupyter does, in the notebooks' own folder.
            begin = f"%reset -f\n%cd -q {folder}"
            together.cells += [nbformat.v4.new_code_cell(begin), *own.cells]
    NotebookClient(together, timeout=300, kernel_name="python3", allow_errors=True).execute()
    return {key: {n: own.cells for n, own in all.items()} for key, all in notebooks.items()}


def tagged(cells: list[CELL], tag: str) -> list[CELL]:
    return [cell for cell in cells if tag in cell.metadata.get("tags", ())]


def errors(cell: CELL) -> list[CELL]:
    return [output for output in cell.get("outputs", ()) if output.output_type == "error"]


def test_the_figures_are_those_that_the_script_writes_and_the_guide_shows():
    made, guide = script("make_figures").figures(), (FOLDER / "GUIDE.md").read_text("utf-8")
    kept = {path.name: path.read_text("utf-8") for path in (FOLDER / "figures").iterdir()}
    assert kept == made
    assert all(f"`{name}`" in guide for name in made)


def test_there_are_five_notebooks_and_every_check_is_in_one():
    assert len(NAMES) == 5
    used = [
        match
        for name in NAMES
        for cell in tagged(notebook(FOLDER, name).cells, "check")
        for match in re.findall(r"checks\.(\w+)\(", cell.source)
    ]
    assert sorted(used) == sorted(n for n in vars(script("checks")) if n.startswith("check_"))


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_is_its_solution_without_the_answers(name):
    solution = (FOLDER / "solutions" / f"{name}.ipynb").read_text(encoding="utf-8")
    exercise = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert exercise == script("make_exercises").exercise(solution), (
        "run notebooks/workshop/make_exercises.py"
    )
    assert "SOLUTION" not in exercise


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_has_a_task_with_hints_a_stub_and_a_check(name):
    cells = notebook(FOLDER, name).cells
    answers = [i for i, cell in enumerate(cells) if "answer" in cell.metadata.get("tags", ())]
    assert len(answers) >= 3
    for place in answers:
        task, stub, check = cells[place - 1 : place + 2]
        assert task.cell_type == "markdown"
        assert "### Exercise" in task.source
        assert "<details><summary>Hint 1</summary>" in task.source
        assert stub.source.rstrip().endswith("raise NotImplementedError")
        assert "check" in check.metadata.tags


@pytest.mark.parametrize("name", NAMES)
def test_no_output_is_stored(name):
    for folder in (FOLDER, FOLDER / "solutions"):
        cells = notebook(folder, name).cells
        assert any(cell.source == 'MODEL = "sev-mini"' for cell in cells)
        assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.parametrize("name", NAMES)
def test_the_solutions_pass_and_their_claims_hold(name, executed):
    cells = executed["solved"][name]
    assert [error for cell in cells for error in errors(cell)] == []
    for cell in tagged(cells, "check"):
        assert ": right. " in cell.outputs[-1].data["text/plain"]


@pytest.mark.parametrize("name", NAMES)
def test_an_unsolved_exercise_fails_at_its_check_and_nowhere_else(name, executed):
    for cell in executed["unsolved"][name]:
        failed = errors(cell)
        if "check" not in cell.metadata.get("tags", ()):
            assert failed == [], cell.source
            continue
        (error,) = failed
        assert error.ename == "ExerciseError"
        assert "not done yet" in error.evalue
        assert len(error.traceback) == 1, "the message alone is shown"
