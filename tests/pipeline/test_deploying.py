"""Files that a finished run leaves for other programs."""

import json
import sys
from dataclasses import replace
from shutil import copytree

import pytest
import torch

from circuits.cli.exporting import export_circuits
from circuits.errors import RunError
from circuits.files import read_json, write_json
from circuits.models.load import load_model
from circuits.names import EMOTIONS
from circuits.runs import Study
from circuits.runs.steering import circuit_interventions, deploy, written_how
from circuits.steering.control_vectors import read_gguf
from circuits.steering.hook_files import read_hooks
from circuits.steering.interventions import Steering, circuit_edits, steer

KINDS = ("direction", "circuit")


@pytest.fixture(scope="module")
def deployed(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployed")
    return folder, deploy(study, folder, ("gguf", "hf"))


def test_every_emotion_has_a_direction_and_a_circuit_in_every_format(deployed):
    folder, written = deployed
    names = {
        f"{emotion}.{kind}.{suffix}"
        for emotion in EMOTIONS
        for kind in KINDS
        for suffix in ("gguf", "safetensors")
    }
    assert {path.name for path in written} == names
    beside = {f"{emotion}.losses.json" for emotion in EMOTIONS}
    assert {path.name for path in folder.iterdir()} == names | beside


def test_hooks_hold_the_edits_that_the_run_makes_at_strength_one(deployed, study, plan):
    folder, _ = deployed
    model, interventions = load_model(plan.model), circuit_interventions(study, plan)
    tuned = study.steering["settings"]
    how = replace(written_how(study), strength=1.0, by_emotion=())
    assert how.when == tuned["circuit"]["when"]
    steering = Steering(tuple(tuned["steer"]["layers"]), 1.0, tuned["steer"]["when"])
    for emotion in ("anger", "surprise"):
        expected = {
            "circuit": circuit_edits(
                interventions.written(how)[emotion], interventions.differences, how
            ),
            "direction": steer(interventions.directions, emotion, steering),
        }
        for kind, edits in expected.items():
            named, read = read_hooks(folder / f"{emotion}.{kind}.safetensors", model)
            assert named == emotion
            assert [(e.site, e.layer, e.when) for e in read] == [
                (e.site, e.layer, e.when) for e in edits
            ]
            assert all(torch.equal(a.value, b.value) for a, b in zip(read, edits, strict=True))


def test_vectors_fit_the_model_and_their_losses_stand_beside_them(deployed, plan):
    folder, written = deployed
    model, every = load_model(plan.model), {}
    for emotion in EMOTIONS:
        every |= read_json(folder / f"{emotion}.losses.json")
    assert set(every) == {path.name for path in written}
    found = {name: losses for name, losses in every.items() if name.endswith(".gguf")}
    assert len(found) == len(EMOTIONS) * len(KINDS)
    for name, losses in found.items():
        vector = read_gguf(folder / name, model)
        assert vector.emotion == name.split(".")[0]
        assert vector.model_hint == "llama"
        assert vector.provenance.model["name"] == "sev-mini"
        own = written[folder / name]
        assert losses == [json.loads(json.dumps(loss.to_json())) for loss in own]
        assert "positions" in [loss.what for loss in own]
    assert all(not own for path, own in written.items() if path.suffix == ".safetensors")


def test_a_run_without_its_control_stage_is_exported_as_control_would_begin(study, tmp_path):
    copytree(study.folder, tmp_path / "run")
    log = read_json(tmp_path / "run" / "run.json")
    for stage in ("steering", "report"):
        del log["stages"][stage]
    write_json(tmp_path / "run" / "run.json", log)
    (tmp_path / "run" / "steering.json").unlink()
    early = Study(tmp_path / "run")
    deploy(early, tmp_path / "out", ("hf",), ("fear",))
    model = load_model(early.log["plan"]["model"])
    _, read = read_hooks(tmp_path / "out" / "fear.direction.safetensors", model)
    assert [edit.layer for edit in read] == [early.importance.stable_layers[0]]
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_the_command_writes_graphs_and_values_and_says_what_is_lost(study, tmp_path, capsys):
    export_circuits(study.folder, tmp_path, ("dot", "gguf"), ("fear",))
    assert {path.name for path in tmp_path.iterdir()} == {
        "fear.dot",
        "fear.direction.gguf",
        "fear.circuit.gguf",
        "fear.losses.json",
    }
    said = capsys.readouterr()
    assert said.out.count("fear.") == 3
    assert "note: not kept in 2 GGUF files: written at the last position or once" in said.err


def test_an_unknown_format_a_lone_circuit_or_a_missing_package_writes_nothing(
    study, tmp_path, monkeypatch
):
    lone = study.circuit_path("fear")
    refused = (
        (study.folder, ("dot", "pdf"), r"cannot export to 'pdf'; formats are json, .*, gguf, hf"),
        (lone, ("dot", "hf"), r"not what they write; give the run folder for hf"),
    )
    for place, formats, message in refused:
        with pytest.raises(RunError, match=message):
            export_circuits(place, tmp_path, formats, ())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RunError, match="need the package gguf"):
        export_circuits(study.folder, tmp_path, ("dot", "gguf", "hf"), ("fear",))
    assert not list(tmp_path.iterdir())


def test_a_lone_circuit_is_still_drawn(study, tmp_path):
    export_circuits(study.circuit_path("fear"), tmp_path, ("dot", "json"), ())
    assert {path.name for path in tmp_path.iterdir()} == {
        "fear.dot",
        "fear.json",
        "fear.losses.json",
    }
