"""Files that a finished run leaves for other programs."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from circuits.cli.exporting import export_circuits
from circuits.errors import CircuitError, RunError
from circuits.export import FORMATS, read_circuit, write_circuit
from circuits.files import read_json, write_json
from circuits.models.load import load_model
from circuits.runs import Study
from circuits.runs.steering import circuit_interventions, deploy, written_how
from circuits.steering.control_vectors import read_gguf
from circuits.steering.hook_files import read_hooks
from circuits.steering.interventions import Steering, circuit_edits, steer

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"


def test_every_emotion_has_files_that_hold_the_edits_of_the_run_at_strength_one(copied, tmp_path):
    # The run's steering stage is made to say where it steers.
    path, study, folder = copied.out / "steering.json", Study(copied.out), tmp_path / "out"
    said = read_json(path)
    said["settings"]["steer"] = {"layers": [2, 3], "when": "every"}
    said["settings"]["circuit"]["strength"] = 0.5
    write_json(path, said)
    written = deploy(study, folder, ("gguf", "hf"))
    kinds, losses = ("direction", "circuit"), dict[str, list]()
    for emotion in study.emotions:
        losses |= read_json(folder / f"{emotion}.losses.json")
    assert set(losses) == {path.name for path in written}
    assert len(written) == 2 * 2 * 2 == len(list(folder.iterdir())) - 2

    model, known = load_model(copied.model), circuit_interventions(study, copied)
    how = replace(written_how(study), strength=1.0)
    for emotion in study.emotions:
        expected = (
            steer(known.directions, emotion, Steering((2, 3), 1.0, "every")),
            circuit_edits(known.written(how)[emotion], known.differences, how),
        )
        for kind, edits in zip(kinds, expected, strict=True):
            path = folder / f"{emotion}.{kind}.safetensors"
            named, read = read_hooks(path, model)
            assert (named, written[path]) == (emotion, ())
            assert [(e.site, e.layer, e.when) for e in read] == [
                (e.site, e.layer, e.when) for e in edits
            ]
            assert all(torch.equal(a.value, b.value) for a, b in zip(read, edits, strict=True))
            path = path.with_suffix(".gguf")
            vector = read_gguf(path, model)
            assert (vector.emotion, vector.model_hint) == (emotion, "llama")
            assert vector.provenance.model["name"] == "sev-mini"
            assert losses[path.name] == [json.loads(json.dumps(o.to_json())) for o in written[path]]
            assert "positions" in [loss.what for loss in written[path]]


def test_a_run_without_its_steering_stage_is_exported_as_steering_would_begin(copied, tmp_path):
    log = read_json(copied.out / "run.json")
    for stage in ("steering", "report"):
        del log["stages"][stage]
    write_json(copied.out / "run.json", log)
    (copied.out / "steering.json").unlink()
    early = Study(copied.out)
    deploy(early, tmp_path / "out", ("hf",), ("fear",))
    model = load_model(early.log["plan"]["model"])
    _, read = read_hooks(tmp_path / "out" / "fear.direction.safetensors", model)
    assert [edit.layer for edit in read] == [early.importance.stable_layers[0]]
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_the_command_writes_graphs_and_values_and_says_what_is_lost(brief_study, tmp_path, capsys):
    export_circuits(brief_study.folder, tmp_path, ("dot", "gguf"), ("fear",))
    names = {"fear.dot", "fear.direction.gguf", "fear.circuit.gguf", "fear.losses.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    said = capsys.readouterr()
    assert said.out.count("fear.") == 3
    assert "note: not kept in 2 GGUF files: written at the last position or once" in said.err
    export_circuits(brief_study.circuit_path("fear"), tmp_path / "lone", ("dot", "json"), ())
    assert {p.name for p in (tmp_path / "lone").glob("fear.*")} >= {"fear.dot", "fear.json"}


def test_an_unknown_format_a_lone_circuit_or_a_missing_package_writes_nothing(
    brief_study, tmp_path, monkeypatch
):
    place, lone = brief_study.folder, brief_study.circuit_path("fear")
    for source, formats, message in (
        (place, ("dot", "pdf"), r"cannot export to 'pdf'; formats are json, .*, gguf, hf"),
        (lone, ("dot", "hf"), r"not what they write; give the run folder for hf"),
    ):
        with pytest.raises(RunError, match=message):
            export_circuits(source, tmp_path, formats, ())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RunError, match="need the package gguf"):
        export_circuits(place, tmp_path, ("dot", "gguf", "hf"), ("fear",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("field", "value"), [("revision", "sha256:0"), ("n_heads", 64)])
def test_a_run_refuses_a_circuit_of_another_model_in_its_folder(copied, field, value):
    path = copied.out / "circuits" / "fear.json"
    circuit = read_circuit(path)
    model = {**circuit.provenance.model, field: value}
    write_circuit(replace(circuit, provenance=replace(circuit.provenance, model=model)), path)
    with pytest.raises(CircuitError, match=rf"fear\.json was made from .*{field} {value}"):
        _ = Study(copied.out).circuits


def test_the_page_on_export_names_every_format():
    page = PAGE.read_text(encoding="utf-8")
    assert all(re.search(rf"--format \S*\b{name}\b", page) for name in FORMATS)
