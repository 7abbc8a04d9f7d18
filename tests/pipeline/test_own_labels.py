"""Labels of one's own, from a plan file to a report; the model need not know them."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from circuits.cli.app import app
from circuits.errors import JudgeError, RunError
from circuits.runs import Study, run
from circuits.runs.keys import made_of
from circuits.runs.plan import read_plan

LABELS = ("gratitude", "quiet pride")
PLAN = """
model = "sev-nano"
emotions = ["gratitude", "quiet pride"]
judge = "lexicon:words.json"
second_judge = "none"
samples = "all"
scenarios = 2
dev_scenarios = 0
test_scenarios = 1
score_contexts = 2
draws = 2
doses = [0.1]
methods = ["circuit"]
sweep_contexts = 0
hard = "none"
max_new_tokens = 4

[meanings]
"quiet pride" = "being content with what one did"
"""


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "words.json").write_text(
        json.dumps({"gratitude": ["thank*", "surprised"], "quiet pride": ["proud"]})
    )
    (folder / "plan.toml").write_text(PLAN)
    return folder / "plan.toml"


@pytest.fixture(scope="module")
def own_study(plan_file):
    done = CliRunner().invoke(
        app, ["run", "--plan", str(plan_file), "--out", str(plan_file.parent / "run")]
    )
    assert done.exit_code == 0, done.output
    return Study(plan_file.parent / "run")


def test_every_label_gets_its_directions_circuit_scores_and_steering(own_study):
    assert own_study.directions.emotion == own_study.importance.emotion == LABELS
    assert tuple(own_study.circuits) == tuple(own_study.scores) == LABELS
    assert {*own_study.steering["methods"]["circuit"]["by_emotion"]} == {*LABELS}
    page = (own_study.folder / "report.html").read_text()
    assert all(label in page for label in LABELS)
    # The judge of own words is described, and not measured on the six emotions.
    judge = own_study.steering["judge"]
    assert judge["entries"] == {"gratitude": 2, "quiet pride": 1}
    assert "calibration" not in judge


def test_other_words_make_the_judgements_stale(plan_file):
    plan = read_plan(plan_file, {"out": plan_file.parent / "run"})
    assert dict(plan.meanings) == {"quiet pride": "being content with what one did"}
    before, words = made_of(plan, "judgements", {}), plan_file.parent / "words.json"
    words.write_text(json.dumps({label: ["thanks"] for label in LABELS}))
    assert made_of(plan, "judgements", {}) != before


def test_a_meaning_of_a_label_that_is_not_asked_for_is_refused(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('model = "sev-mini"\n[meanings]\nawe = "wonder"\n')
    with pytest.raises(RunError, match="meanings: 'awe' is no emotion of the run"):
        read_plan(path, {"out": tmp_path / "run"})


def test_a_judge_that_does_not_know_a_label_is_refused_before_anything_is_made(tmp_path):
    path, place = tmp_path / "plan.toml", tmp_path / "run"
    path.write_text('model = "sev-mini"\nemotions = ["anger", "awe"]\n')
    with pytest.raises(JudgeError, match="judge: the judge lexicon knows .* not 'awe'"):
        read_plan(path, {"out": place})
    plan = read_plan(path, {"out": place, "emotions": ("anger", "fear")})
    with pytest.raises(JudgeError, match="not 'awe'"):
        run(replace(plan, emotions=("anger", "awe")))
    assert not place.exists()
