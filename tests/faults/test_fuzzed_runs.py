"""A run's folder with malformed files in it, looked at from the command line."""

from pathlib import Path
from typing import Any

import pytest
from faults.mutation import json_files, quick
from hypothesis import given
from plans import plan_in
from typer.testing import CliRunner

from circuits.circuit.circuit import Circuit, Node
from circuits.cli.app import app
from circuits.errors import CircuitsError
from circuits.export.node_link import write_circuit
from circuits.files import read_json, write_json
from circuits.models.memory import Receipt
from circuits.provenance import Provenance


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with a plan and a circuit, of which no other stage is said to be done."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    plan = plan_in(folder, model="m", emotions=("anger", "fear"))
    model = Provenance({"name": "m", "n_layers": 2, "n_heads": 2, "d_mlp": 8})
    nodes = (
        Node("embed", "embed"),
        Node("L0H1", "head", 0, effect=0.5),
        Node("readout", "readout"),
    )
    write_circuit(Circuit("anger", nodes, (), {}, model), folder / "circuits" / "anger.json")
    entry = {"key": "0", "receipt": Receipt().to_json()}
    write_json(
        folder / "run.json",
        {"plan": plan.to_json(), "stages": {"replies": entry, "circuits": entry}},
    )
    return folder


@pytest.mark.trial("files", "run.json from the fuzzer, then: emotion-circuits {command}")
@pytest.mark.parametrize("command", ["show", "export"])
def test_a_malformed_run_ends_in_one_line(run, tmp_path_factory, trial, command):
    path, valid = run / "run.json", read_json(run / "run.json")
    words = {
        "show": ["show", str(run)],
        "export": ["export", str(run), "--out", str(tmp_path_factory.mktemp("out"))],
    }
    counts = {"refused": 0, "read": 0}

    @quick
    @given(json_files(valid))
    def fuzz(content):
        path.write_bytes(content)
        found: Any = CliRunner().invoke(app, words[command])
        if found.exit_code == 0:
            counts["read"] += 1
            return
        assert isinstance(found.exception, CircuitsError), found.exception
        assert "Traceback" not in found.output
        counts["refused"] += 1

    try:
        fuzz()
    finally:
        write_json(path, valid)
    assert counts["refused"] > 10, counts
    trial(times=sum(counts.values()), outcome="refused in one line, or shown")
