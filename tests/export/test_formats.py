"""Files of a circuit in every format: their names, and what is refused in all of them."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import CircuitError, DataError
from circuits.export import FORMATS, export_circuit, file_stem, read_circuit, write_circuit

AWKWARD = ["joy / relief", "../up", "怒り", "Anger", "a" * 300, "nul", "COM1", ".", "-rf", "a:b*c?"]


def test_every_format_is_written_under_the_name_of_the_emotion(circuit, tmp_path):
    paths = export_circuit(circuit, tmp_path / "new")
    suffixes = ["json", "graphml", "gexf", "dot", "mmd", "nodes.csv", "edges.csv"]
    assert [path.name for path in paths] == [f"anger.{own}" for own in suffixes]
    beside = tmp_path / "new" / "anger.losses.json"
    assert sorted((tmp_path / "new").iterdir()) == sorted([*paths, beside])
    assert all(path.read_bytes().endswith(b"\n") for path in paths)
    write_circuit(circuit, tmp_path / "other.json")
    assert next(iter(paths)).read_bytes() == (tmp_path / "other.json").read_bytes()
    some = export_circuit(circuit, tmp_path / "some", ["dot", "json", "dot"])
    assert [path.suffix for path in some] == [".dot", ".json"]


def test_an_unknown_format_is_refused_with_those_that_exist(circuit, tmp_path):
    message = r"^cannot export to 'pdf'; formats are json, .*, csv, neuronpedia, eap-ig$"
    with pytest.raises(CircuitError, match=message):
        export_circuit(circuit, tmp_path, ["json", "pdf"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_number_or_no_line_of_text_is_refused_in_every_format(circuit, name, tmp_path):
    for emotion in ("a\nb", "\ud800", ""):
        with pytest.raises(CircuitError, match="graph.emotion"):
            export_circuit(dataclasses.replace(circuit, emotion=emotion), tmp_path, [name])
    with pytest.raises(CircuitError, match="scores.share is nan"):
        export_circuit(circuit.with_scores(share=float("nan")), tmp_path, [name])
    head = dataclasses.replace(circuit.nodes[1], effect=float("inf"))
    with pytest.raises(CircuitError, match=r"\(node 'L0H1'\) is inf, not a finite number"):
        export_circuit(dataclasses.replace(circuit, nodes=(head,), edges=()), tmp_path, [name])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_refused(circuit, tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot write .*taken"):
        export_circuit(circuit, tmp_path / "taken", ["json"])


@pytest.mark.parametrize("emotion", AWKWARD)
def test_an_awkward_emotion_stays_in_its_folder(circuit, emotion, tmp_path):
    named = dataclasses.replace(circuit, emotion=emotion)
    paths = export_circuit(named, tmp_path)
    assert all(path.parent == tmp_path and path.is_file() for path in paths)
    assert read_circuit(next(iter(paths))) == named


@given(st.lists(st.text(), unique=True, max_size=20))
def test_different_emotions_have_different_names_on_any_system(emotions):
    stems = [file_stem(emotion).casefold() for emotion in emotions]
    assert len(set(stems)) == len(stems)
    assert all(stem and len(stem.encode()) < 200 for stem in stems)
    assert not any(set(stem) & set('/\\:*?"<>|. ') for stem in stems)
    assert (file_stem("anger"), file_stem("悲しみ")) == ("anger", "悲しみ")
    assert file_stem("con") != "con"
