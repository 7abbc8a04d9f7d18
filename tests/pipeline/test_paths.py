"""Paths of the circuits of a run."""

import dataclasses

import pytest
from typer.testing import CliRunner

from circuits.cli.app import app
from circuits.errors import RunError
from circuits.export import read_circuit
from circuits.files import read_json
from circuits.patching.paths import ExactPaths, PathEffects
from circuits.runs import Study
from circuits.runs.patching import PathOptions, measure_paths
from circuits.runs.work import run_of

OPTIONS = PathOptions(contexts=3, keep=20, sample=12)


def test_circuits_get_their_paths_and_are_exported_again(folder):
    circuit, said = measure_paths(run_of(Study(folder)), "anger", OPTIONS)
    assert read_circuit(folder / "circuits" / "anger.json") == circuit
    assert read_circuit(folder / "export" / "anger.json") == circuit
    assert Study(folder).circuits["anger"].paths == circuit.paths != ()
    assert Study(folder).circuits["fear"].paths == ()
    assert all(edge.exact is not None and edge.causal is not None for edge in circuit.paths)
    assert said["causal"] == sum(edge.causal is True for edge in circuit.paths)
    assert "path" in (folder / "export" / "anger.edges.csv").read_text()

    place = folder / "paths" / "anger"
    effects = PathEffects.load(place / "attribution")
    exact = ExactPaths.load(place / "patching")
    said = read_json(place / "paths.json")
    assert said["agreement"]["count"] == 12
    assert said["agreement"]["spearman"] > 0.7
    assert said["receipts"] == {"attribution": effects.receipt, "patching": exact.receipt}
    assert (effects.n_contexts, effects.provenance.options["split"]) == (3, "test")
    assert "event" in effects.role


def test_dev_contexts_and_another_emotion_will_do_too(folder):
    options = dataclasses.replace(
        OPTIONS, split="dev", against="fear", method="eap-ig", steps=2, mode="denoising", contexts=1
    )
    circuit, said = measure_paths(run_of(Study(folder)), "anger", options)
    assert said["options"]["against"] == "fear"
    assert circuit.paths


@pytest.mark.parametrize(
    ("options", "emotion", "said"),
    [
        ({"against": "anger"}, "anger", "'anger' is the emotion itself"),
        ({"contexts": 4}, "anger", "asked for 4, the test split of .* has 3"),
        ({}, "joy", "has no emotion 'joy'"),
    ],
)
def test_what_a_run_lacks_is_refused(folder, options, emotion, said):
    with pytest.raises(RunError, match=said):
        measure_paths(run_of(Study(folder)), emotion, dataclasses.replace(OPTIONS, **options))


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(RunError, match="sample: found 2; it should be greater than or equal to 3"):
        PathOptions(sample=2)


def test_the_command_shows_the_paths(folder):
    words = ("paths", str(folder), "--contexts", "1", "--keep", "8", "--sample", "5")
    ask = CliRunner().invoke
    shown = ask(app, [*words, "--emotion", "fear"])
    assert shown.exit_code == 0, shown.output
    assert "Paths between the parts" in shown.output
    assert Study(folder).circuits["fear"].paths
    wrong = ask(app, [*words, "--against", "joy"])
    assert "--against: 'joy' is none of neutral, anger" in str(wrong.exception)
