"""The page on export: every command on it, in its order, does what it says."""

import re
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from circuits.errors import CircuitError
from circuits.export import FORMATS, read_circuit, write_circuit
from circuits.runs import Study

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"


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
