"""The wheel in an environment of its own, used outside the checkout."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from circuits.runs.plan import STAGES

ROOT = Path(__file__).parents[2]

WHOLE_RUN = shlex.split("""
run --model sev-nano --out run --emotions anger,fear --scenarios 4 --dev-scenarios 1
--test-scenarios 1 --score-contexts 2 --set draws=3 --set doses=0.3 --set methods=circuit
--set tuning=brief --set sweep_contexts=1 --set ablation_draws=1 --set max_new_tokens=8
""")


@pytest.mark.trial("packaging", "model, data and modules of an installed wheel")
def test_everything_comes_from_the_installed_package(installed, tmp_path, trial):
    code = (
        "import circuits, circuits.cli.app, json\n"
        "from circuits import shipped\n"
        "names = ['sev-mini', 'sev-nano', 'sev/train.jsonl', 'texts', 'judge']\n"
        "print(json.dumps([circuits.__file__, *(str(shipped(own)) for own in names)]))"
    )
    paths = json.loads(installed("-c", code, cwd=tmp_path))
    assert [path for path in paths if not path.startswith(str(installed.site))] == []
    trial(times=len(paths), outcome="from the installed package")


@pytest.mark.slow
@pytest.mark.trial("packaging", "an installed wheel does a whole run outside the repository")
def test_the_installed_command_does_a_whole_run(installed, tmp_path, trial):
    installed(installed.python.parent / "emotion-circuits", *WHOLE_RUN, cwd=tmp_path)
    assert (tmp_path / "run" / "report.html").is_file()
    log = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(log["stages"]) == set(STAGES)
    assert log["versions"]["emotion-circuits"] != "not installed"
    trial(outcome="every stage done, with the embedded model and data")


PROGRAM = """
from circuits import EMOTIONS, Circuit, Directions, load_model, read_circuit
from pathlib import Path

reveal_type(load_model("sev-mini"))
reveal_type(read_circuit(Path("anger.json")))
reveal_type(EMOTIONS)
read_circuit(3.5)
read_circuit(Path("anger.json")).emotions
"""


@pytest.mark.trial("packaging", "a type checker reads a program that uses the installed wheel")
def test_types_are_shipped(installed, tmp_path, trial):
    pyright = shutil.which("pyright", path=str(Path(sys.executable).parent)) or shutil.which(
        "pyright"
    )
    if pyright is None:
        pytest.skip("needs pyright; install the extra dev")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [pyright, "--outputjson", "--pythonpath", str(installed.python), "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    said = [own["message"] for own in found if own["severity"] == "information"]
    errors = [own["message"] for own in found if own["severity"] == "error"]
    assert [text.split(" is ")[1] for text in said[:2]] == ['"Model"', '"Circuit"']
    assert "tuple[" in said[2]
    assert len(errors) == 2
    assert '"float" is not assignable' in errors[0]
    assert 'Cannot access attribute "emotions"' in errors[1]
    trial(times=5, outcome="types are seen, wrong uses are found")
