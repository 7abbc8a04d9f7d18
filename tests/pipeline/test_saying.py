"""One text answered in an emotion, by a run's circuits and by circuits from files."""

from dataclasses import replace
from shutil import copy

import pytest
import torch

from circuits.errors import CircuitError, DataError, RunError
from circuits.export.node_link import read_circuit, write_circuit
from circuits.runs.steering import cache_folder, deploy, generator_of_files, generator_of_run, say
from circuits.runs.work import Silent

TEXT = "I soldered a circuit board. The board overheated overnight."


@pytest.fixture(scope="module")
def generator(study):
    return generator_of_run(study)


@pytest.fixture(scope="module")
def from_files(study, tmp_path_factory):
    paths = [study.circuit_path(emotion) for emotion in ("fear", "anger")]
    return generator_of_files(paths, None, Silent(), cache=tmp_path_factory.mktemp("cache"))


def test_a_run_says_a_text_in_every_emotion(generator, study):
    from circuits.judges import LexiconJudge

    emotions = study.emotions
    said = [say(generator, TEXT, {emotion: 1.2}) for emotion in emotions]
    assert sum(v.match for v in LexiconJudge().judge(said, emotions)) >= 5


def test_at_strength_zero_it_says_what_the_model_says(generator):
    assert (
        say(generator, TEXT, {"fear": 0.0})
        == say(generator, TEXT, {"anger": 0.0})
        == say(generator, TEXT, {})
    )


def test_circuits_from_files_write_what_the_model_does(generator, from_files):
    """Differences from other contexts, but of the same model and the same parts."""
    one, other = (
        {(edit.site, edit.layer): edit.value for edit in v.edits["fear"]}
        for v in (from_files, generator)
    )
    heads = [place for place in one if place[0] == "z" and place in other]
    assert heads
    for place in heads:
        shared = (one[place] != 0) & (other[place] != 0)
        assert torch.cosine_similarity(one[place][shared], other[place][shared], dim=0) > 0.98
    assert say(from_files, TEXT, {"fear": 1.0}) != say(from_files, TEXT, {})


def test_differences_are_measured_once(study, tmp_path, monkeypatch):
    path = [study.circuit_path("fear")]
    first = generator_of_files(path, None, Silent(), cache=tmp_path)

    def never(*arguments, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr("circuits.runs.steering.own_differences", never)
    again = generator_of_files(path, None, Silent(), cache=tmp_path)
    both = zip(first.edits["fear"], again.edits["fear"], strict=True)
    assert all(torch.equal(one.value, other.value) for one, other in both)


def test_a_file_of_hooks_says_what_the_run_says(study, generator, tmp_path):
    deploy(study, tmp_path, ("hf",), ("fear",))
    hooks = generator_of_files([tmp_path / "fear.circuit.safetensors"], None, Silent())
    assert say(hooks, TEXT, {"fear": 0.9}) == say(generator, TEXT, {"fear": 0.9})


def test_hooks_and_circuits_mix(study, tmp_path):
    deploy(study, tmp_path, ("hf",), ("fear",))
    paths = [tmp_path / "fear.circuit.safetensors", study.circuit_path("anger")]
    mixed = generator_of_files(paths, None, Silent(), cache=tmp_path)
    assert set(mixed.edits) == {"fear", "anger"}


def test_two_emotions_at_once_are_neither_alone(from_files):
    both = say(from_files, TEXT, {"fear": 0.6, "anger": 0.9})
    assert both != say(from_files, TEXT, {})


def test_a_circuit_of_another_model_is_refused(study, tmp_path):
    circuit = read_circuit(study.circuit_path("fear"))
    model = {**circuit.provenance.model, "revision": "sha256:0"}
    other = replace(circuit, provenance=replace(circuit.provenance, model=model))
    write_circuit(other, tmp_path / "fear.json")
    with pytest.raises(CircuitError, match=r"was made from .* \(revision sha256:0\).*--any-revis"):
        generator_of_files([tmp_path / "fear.json"], None, Silent(), cache=tmp_path)
    taken = generator_of_files(
        [tmp_path / "fear.json"], None, Silent(), any_revision=True, cache=tmp_path
    )
    assert set(taken.edits) == {"fear"}


def test_a_circuit_of_a_model_of_another_size_is_never_taken(study, tmp_path):
    circuit = read_circuit(study.circuit_path("fear"))
    model = {**circuit.provenance.model, "n_heads": 64}
    other = replace(circuit, provenance=replace(circuit.provenance, model=model))
    write_circuit(other, tmp_path / "fear.json")
    for any_revision in (False, True):
        with pytest.raises(CircuitError, match=r"n_heads 64.* has n_heads 6"):
            generator_of_files(
                [tmp_path / "fear.json"], None, Silent(), any_revision=any_revision, cache=tmp_path
            )


def test_two_circuits_of_one_emotion_are_refused(study, tmp_path):
    copy(study.circuit_path("fear"), tmp_path / "again.json")
    paths = [study.circuit_path("fear"), tmp_path / "again.json"]
    with pytest.raises(RunError, match="another circuit of 'fear' was given before"):
        generator_of_files(paths, None, Silent(), cache=tmp_path)


def test_an_emotion_without_a_circuit_and_an_empty_text_are_refused(generator):
    with pytest.raises(CircuitError, match="no circuit of 'awe'"):
        say(generator, TEXT, {"awe": 1.0})
    with pytest.raises(DataError, match="the text is empty"):
        say(generator, "  ", {"fear": 1.0})


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "emotion-circuits"
