"""The page on export: every command on it, in its order, does what it says."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner

from circuits.errors import CircuitError
from circuits.export import FORMATS, check_file, read_circuit, write_circuit
from circuits.files import read_json
from circuits.runs import Study

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"


def commands():
    blocks = re.findall(r"```(?:sh|\{\.sh\})\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines()]


def test_every_command_of_the_page_runs(study, tmp_path, monkeypatch):
    from circuits.cli.app import app

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(study.folder)
    monkeypatch.chdir(tmp_path)
    found = commands()
    assert len(found) > 9
    for line in found:
        program, *words = shlex.split(line)
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert (program, done.exit_code) == ("emotion-circuits", 0), (line, done.output)
    known = {path.name for path in (tmp_path / "graphs").iterdir()}
    kept = set(read_json(tmp_path / "graphs" / "fear.losses.json"))
    assert kept == known - {"fear.losses.json"}
    assert {check_file(tmp_path / "graphs" / name) for name in kept} == set(FORMATS)
    assert check_file(tmp_path / "circuits" / "fear.json") == "json"


@pytest.mark.parametrize(("field", "value"), [("revision", "sha256:0"), ("n_heads", 64)])
def test_a_run_refuses_a_circuit_of_another_model_in_its_folder(study, tmp_path, field, value):
    copytree(study.folder, tmp_path / "run")
    path = tmp_path / "run" / "circuits" / "fear.json"
    circuit = read_circuit(path)
    model = {**circuit.provenance.model, field: value}
    write_circuit(replace(circuit, provenance=replace(circuit.provenance, model=model)), path)
    with pytest.raises(CircuitError, match=rf"fear\.json was made from .*{field} {value}"):
        _ = Study(tmp_path / "run").circuits


@pytest.mark.parametrize("name", FORMATS)
def test_the_page_names_every_format(name):
    assert re.search(rf"--format \S*\b{name}\b", PAGE.read_text(encoding="utf-8"))
