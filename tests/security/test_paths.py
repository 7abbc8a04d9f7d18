"""Names from data never decide where a file is written."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit, Node
from circuits.errors import DataError
from circuits.export import export_circuit, file_stem
from circuits.prompts.sev import read
from circuits.published.folder import short_model
from circuits.published.tables import DifferenceVectors

HOSTILE = [
    *("../../outside", "/etc/outside", "..", ".", "a/b", "a\\b", "C:\\outside", "．．／x"),
    *("%2e%2e%2fx", "con", "~", "~/x", "$HOME", "`id`", "x" * 300, ".hidden", "-rf", "*"),
    *("a|b", "a:b"),
]


@given(st.text(max_size=60) | st.sampled_from(HOSTILE))
def test_a_file_name_made_of_any_label_is_one_plain_name(label):
    stem = file_stem(label)
    assert Path(stem).name == stem
    assert 0 < len(os.fsencode(stem)) < 200
    assert not stem.startswith((".", "-", "~"))
    assert not set(stem) & set('/\\:*?"<>|$`%\0\n')


@given(st.text(max_size=60) | st.sampled_from(HOSTILE))
def test_a_folder_name_made_of_any_model_is_one_plain_name(name):
    short = short_model(name)
    assert Path(short).name == short
    assert short not in ("", ".", "..")


@pytest.mark.trial("security", "circuits of emotions that are named like paths are written")
def test_circuits_stay_in_their_folder(tmp_path, trial):
    home = tmp_path / "one" / "two" / "three"
    for emotion in HOSTILE:
        nodes = (Node("embed", "embed"), Node("readout", "readout"))
        written = export_circuit(Circuit(emotion, nodes, ()), home)
        assert {path.resolve().parent for path in written} == {home.resolve()}
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != home] == []
    trial(times=len(HOSTILE), outcome="nothing written outside the folder")


@pytest.mark.trial("security", "a run is patched between emotions that are named like paths")
def test_a_contrast_has_a_folder_of_its_own(trial):
    pairs = [(one, other) for one in HOSTILE for other in HOSTILE[:3] if one != other]
    stems = {"-".join(map(file_stem, pair)) for pair in pairs}
    assert [stem for stem in stems if Path(stem).name != stem or stem.startswith(".")] == []
    assert len(stems) == len(pairs)
    trial(times=len(stems), outcome="nothing written outside the folder")


@pytest.mark.trial("security", "an id of a scenario is a path")
@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\\b"])
def test_an_id_that_is_a_path_is_refused(tmp_path, name, trial):
    row = {
        "theme": "t",
        "scenario": "s",
        "skeleton_id": name,
        "event": dict.fromkeys(("positive", "neutral", "negative"), "e"),
    }
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="may not contain spaces or slashes"):
        read(tmp_path / "own.jsonl")
    trial(outcome="refused by line and field")


@pytest.mark.trial("security", "a received run holds vectors whose files are named like paths")
@pytest.mark.parametrize("stem", ["../../outside/L", "/outside/L", "x"])
def test_vectors_of_a_received_run_stay_in_their_folder(tmp_path, stem, trial):
    record = DifferenceVectors(torch.ones(1, 2), "anger", "attn", (0,), stem)
    record.save(tmp_path / "record")
    received = DifferenceVectors.load(tmp_path / "record")
    with pytest.raises(DataError, match="is no file of a layer"):
        received.write(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.rglob("*.npy")] == []
    trial(outcome="refused by name, nothing written")
