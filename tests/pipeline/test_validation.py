"""Validation of the components of a run."""

from shutil import copytree

import pytest
import torch
from typer.testing import CliRunner

from circuits.cli.app import app
from circuits.errors import RunError
from circuits.files import read_json, write_json
from circuits.runs import Study
from circuits.runs.steering import ValidationOptions, read_validation, validate

OPTIONS = ValidationOptions(contexts=3, draws=2, reply_sizes=2, reply_draws=1)


@pytest.fixture(scope="module")
def folder(measured_run, tmp_path_factory):
    return copytree(measured_run, tmp_path_factory.mktemp("validation") / "run")


@pytest.fixture(scope="module")
def validated(folder):
    validate(folder, OPTIONS)
    return read_validation(Study(folder))


def test_the_records_of_heads_and_neurons_are_kept(validated, folder):
    effects, heard, _ = validated
    assert [record.kind for record in effects] == ["head", "neuron"]
    assert [record.kind for record in heard] == ["head", "neuron"]
    for record in (*effects, *heard):
        assert record.n_contexts == 3
        assert record.size[0] == 1
        assert len(record.provenance.options["contexts"]) == 3
    assert effects[0].size[-1] == 36
    assert effects[1].size[-1] == 2304
    assert read_json(folder / "validation" / "receipt.json")["steps"] > 0


def test_the_model_needs_the_circuits_of_the_run_and_not_random_parts(validated):
    _, _, drop = validated
    assert drop["heads_share"] <= 0.10
    assert drop["neurons_share"] <= 0.02
    assert drop["circuit_drop"] >= 50
    assert drop["random_max"] <= 5
    assert set(drop["by_emotion"]) == {"anger", "fear"}


def test_the_first_components_carry_more_than_the_last(validated):
    for record in validated[0]:
        own = torch.diagonal(record.effect, dim1=0, dim2=4)  # method order size emotion
        ablated = own[record.method.index("neutral mean")]
        assert (ablated[0, 3] > ablated[1, 3]).all()


def test_what_was_not_validated_is_empty(folder, tmp_path):
    write_json(tmp_path / "run.json", read_json(folder / "run.json"))
    assert read_validation(Study(tmp_path)) == ([], [], {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"contexts": 1}, "contexts: found 1; give 2 or more"),
        ({"reply_sizes": 1}, "reply_sizes: found 1; give 2 or more"),
        ({"draws": 0}, "draws: found 0; give 1 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(RunError, match=said):
        ValidationOptions(**options)


def test_a_run_without_a_model_is_refused(folder, tmp_path):
    log = read_json(folder / "run.json")
    write_json(tmp_path / "run.json", {**log, "plan": {**log["plan"], "imported": {}}})
    with pytest.raises(RunError, match="holds imported results, without a model"):
        validate(tmp_path)


def test_the_command_shows_what_falls(folder):
    ask = CliRunner().invoke
    words = ["validate", str(folder), "--contexts", "2", "--draws", "1"]
    shown = ask(app, [*words, "--reply-sizes", "2", "--reply-draws", "1"])
    assert shown.exit_code == 0, shown.output
    assert "Points of judged expression lost" in shown.output
    assert "fear" in shown.output
    assert "validation:" in shown.output
