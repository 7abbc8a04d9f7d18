"""One text answered in an emotion, by a run's circuits and by circuits from files."""

from dataclasses import replace
from shutil import copy

import pytest
import torch

from circuits.errors import CircuitError, DataError, RunError
from circuits.export.node_link import read_circuit, write_circuit
from circuits.judges import LexiconJudge
from circuits.runs.steering import cache_folder, deploy, generator_of_files, generator_of_run, say

TEXT = "I soldered a circuit board. The board overheated overnight."


def spoken(generator, **weights):
    return say(generator, TEXT, weights, max_new_tokens=30)


@pytest.fixture(scope="module")
def generator(brief_study):
    return generator_of_run(brief_study)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def from_files(brief_study, cache):
    paths = [brief_study.circuit_path(emotion) for emotion in ("fear", "anger")]
    return generator_of_files(paths, None, cache=cache)


def test_a_run_says_a_text_in_every_emotion_and_at_strength_zero_what_the_model_says(generator):
    emotions = ("anger", "fear")
    said = [spoken(generator, **{emotion: 1.2}) for emotion in emotions]
    assert all(verdict.match for verdict in LexiconJudge().judge(said, emotions))
    plainly = spoken(generator)
    assert spoken(generator, fear=0.0) == spoken(generator, anger=0.0) == plainly
    assert spoken(generator, fear=0.6, anger=0.9) != plainly


def test_circuits_from_files_write_what_the_model_does(
    generator, from_files, brief_study, cache, monkeypatch
):
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
    # They are measured once.
    monkeypatch.setattr("circuits.runs.steering.own_differences", None)
    paths = [brief_study.circuit_path(emotion) for emotion in ("fear", "anger")]
    again = generator_of_files(paths, None, cache=cache)
    both = zip(from_files.edits["fear"], again.edits["fear"], strict=True)
    assert all(torch.equal(one.value, other.value) for one, other in both)


def test_a_file_of_hooks_says_what_the_run_says_and_mixes_with_circuits(
    brief_study, generator, tmp_path
):
    deploy(brief_study, tmp_path, ("hf",), ("fear",))
    paths = [tmp_path / "fear.circuit.safetensors", brief_study.circuit_path("anger")]
    mixed = generator_of_files(paths, None, cache=tmp_path)
    assert set(mixed.edits) == {"fear", "anger"}
    assert spoken(mixed, fear=0.9) == spoken(generator, fear=0.9)


def test_a_circuit_of_another_model_is_refused(brief_study, tmp_path, cache):
    path, circuit = tmp_path / "fear.json", read_circuit(brief_study.circuit_path("fear"))

    def of_other(**changes):
        model = {**circuit.provenance.model, **changes}
        write_circuit(replace(circuit, provenance=replace(circuit.provenance, model=model)), path)
        return {"paths": [path], "model": None, "cache": cache}

    other = of_other(revision="sha256:0")
    with pytest.raises(CircuitError, match=r"was made from .* \(revision sha256:0\).*--any-revis"):
        generator_of_files(**other)
    assert set(generator_of_files(**other, any_revision=True).edits) == {"fear"}
    other = of_other(n_heads=64)
    for any_revision in (False, True):
        with pytest.raises(CircuitError, match=r"n_heads 64.* has n_heads 6"):
            generator_of_files(**other, any_revision=any_revision)


def test_two_circuits_of_one_emotion_are_refused(brief_study, tmp_path, cache):
    copy(brief_study.circuit_path("fear"), tmp_path / "again.json")
    paths = [brief_study.circuit_path("fear"), tmp_path / "again.json"]
    with pytest.raises(RunError, match="another circuit of 'fear' was given before"):
        generator_of_files(paths, None, cache=cache)


def test_an_emotion_without_a_circuit_and_an_empty_text_are_refused(generator):
    with pytest.raises(CircuitError, match="no circuit of 'awe'"):
        say(generator, TEXT, {"awe": 1.0})
    with pytest.raises(DataError, match="the text is empty"):
        say(generator, "  ", {"fear": 1.0})


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "emotion-circuits"
