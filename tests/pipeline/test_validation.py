"""Validation of the components of a run."""

import pytest
import torch
from typer.testing import CliRunner

from circuits.cli.app import app
from circuits.errors import RunError
from circuits.files import read_json, write_json
from circuits.runs import Study
from circuits.runs.steering import ValidationOptions, read_validation, validate

OPTIONS = ValidationOptions(contexts=3, draws=2, reply_sizes=2, reply_draws=1)


def test_components_of_a_run_are_validated(folder):
    assert read_validation(Study(folder)) == ([], [], {})
    validate(folder, OPTIONS)
    effects, heard, drop = read_validation(Study(folder))
    assert [record.kind for record in effects] == ["head", "neuron"]
    assert [record.kind for record in heard] == ["head", "neuron"]
    for record in (*effects, *heard):
        assert (record.n_contexts, record.size[0]) == (3, 1)
        assert len(record.provenance.options["contexts"]) == 3
    assert (effects[0].size[-1], effects[1].size[-1]) == (36, 2304)
    assert read_json(folder / "validation" / "receipt.json")["steps"] > 0
    # The model needs the circuits of the run, and not random parts.
    assert (drop["heads_share"] <= 0.10, drop["neurons_share"] <= 0.02) == (True, True)
    assert drop["circuit_drop"] >= 50 > 5 >= drop["random_max"]
    assert set(drop["by_emotion"]) == {"anger", "fear"}
    # The first components carry more than the last.
    for record in effects:
        own = torch.diagonal(record.effect, dim1=0, dim2=4)  # method order size emotion
        ablated = own[record.method.index("neutral mean")]
        assert (ablated[0, 3] > ablated[1, 3]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"contexts": 1}, "contexts: found 1; it should be greater than or equal to 2"),
        ({"reply_sizes": 1}, "reply_sizes: found 1; it should be"),
        ({"draws": 0}, "draws: found 0; it should be"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(RunError, match=said):
        ValidationOptions(**options)


def test_a_run_without_a_model_is_refused(brief_study, tmp_path):
    log = read_json(brief_study.folder / "run.json")
    write_json(tmp_path / "run.json", {**log, "plan": {**log["plan"], "imported": {}}})
    with pytest.raises(RunError, match="holds imported results, without a model"):
        validate(tmp_path)


def test_the_command_shows_what_falls(folder):
    words = ["validate", str(folder), "--contexts", "2", "--draws", "1"]
    shown = CliRunner().invoke(app, [*words, "--reply-sizes", "2", "--reply-draws", "1"])
    assert shown.exit_code == 0, shown.output
    assert "Points of judged expression lost" in shown.output
    assert "fear" in shown.output
    assert "validation:" in shown.output
