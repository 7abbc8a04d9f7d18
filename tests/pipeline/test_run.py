"""The whole job on the embedded model and a few contexts."""

import json
import math
from dataclasses import replace

import pytest
import torch

from circuits.assets import shipped
from circuits.control.compare import METHODS
from circuits.errors import RunError
from circuits.files import read_json, write_json
from circuits.names import EMOTIONS, VALENCES
from circuits.pipeline import Plan, Study, run
from circuits.pipeline.plan import STAGES


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return Plan(
        model=str(shipped("sev-mini")),
        data=shipped("sev/train.jsonl"),
        test=shipped("sev/test.jsonl"),
        out=tmp_path_factory.mktemp("runs") / "small",
        scenarios=12,
        dev_scenarios=3,
        test_scenarios=4,
    )


@pytest.fixture(scope="module")
def study(plan):
    return run(plan)


def test_a_run_leaves_six_circuits_a_report_and_accuracies(study):
    names = sorted(path.name for path in (study.folder / "circuits").iterdir())
    assert names == sorted(f"{emotion}.json" for emotion in EMOTIONS)
    assert (study.folder / "report.html").stat().st_size > 100_000
    assert set(study.circuits) == set(EMOTIONS)


def test_accuracies_are_given_by_method_emotion_and_valence_with_their_price(study):
    accuracy = read_json(study.folder / "accuracy.json")
    assert tuple(accuracy["methods"]) == METHODS
    for found in accuracy["methods"].values():
        assert found["n"] == 4 * 3 * 6
        assert set(found["by_emotion"]) == set(EMOTIONS)
        assert set(found["by_valence"]) == set(VALENCES)
        assert math.isfinite(found["repetition"])
        by_emotion = sum(found["by_emotion"].values()) / 6
        assert found["overall"] == pytest.approx(by_emotion, abs=0.01)
    assert accuracy["methods"]["prompt"]["perplexity_ratio"] == 1.0
    assert accuracy["judge"]["name"] == "lexicon"
    assert "random_circuit" in accuracy["controls"]


def test_prompting_expresses_emotions_and_plain_prompts_do_not(study):
    methods = study.accuracy["methods"]
    assert methods["prompt"]["overall"] > 90
    assert methods["none"]["overall"] < 10


def test_everything_after_elicitation_costs_one_pass_per_accepted_prompt_and_the_injections(study):
    receipts = {stage: entry["receipt"] for stage, entry in study.log["stages"].items()}
    assert receipts["directions"]["passes"] == len(study.accepted) + 1  # and one to check the model
    assert receipts["effects"]["passes"] == 0
    assert receipts["importance"]["passes"] == 9 * 3
    assert receipts["circuits"]["passes"] == 0


def test_values_are_kept_and_the_log_says_why(study):
    stages = study.log["stages"]
    assert stages["directions"]["values"].startswith("kept: values of ")
    assert "values" not in stages["effects"]


def test_under_a_small_budget_the_same_numbers_cost_one_pass_more(study, plan, tmp_path):
    again = run(
        replace(plan, out=tmp_path / "again", memory=0.001),
        stages=["replies", "judgements", "directions", "effects"],
    )
    stages, n = again.log["stages"], len(again.accepted)
    assert stages["directions"]["values"].startswith("made again by a second pass: ")
    assert stages["directions"]["receipt"]["passes"] == n + 1
    assert stages["effects"]["receipt"]["passes"] == n
    for name in ("directions", "generality", "heads", "neurons", "means"):
        one, other = getattr(study, name), getattr(again, name)
        for field in one.axes:
            found, expected = getattr(other, field), getattr(one, field)
            # Other batches pad otherwise, and round otherwise.
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_dev_contexts_serve_nothing_but_the_choice_of_strengths(study, plan):
    used = {row.reply.prompt.context.scenario for row in study.accepted}
    assert len(used) == plan.scenarios - plan.dev_scenarios
    tested = {json.loads(line)["skeleton_id"] for line in open_lines(study)}
    assert not used & tested


def open_lines(study):
    return (study.folder / "control" / "replies.jsonl").read_text().splitlines()


def test_a_finished_stage_is_not_run_again(study, plan, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr("circuits.pipeline.work.load_model", never)
    before = study.log
    again = run(plan)
    assert again.log["stages"] == before["stages"]


def test_another_option_runs_only_what_depends_on_it(study, plan):
    for stage in STAGES:
        same = plan.key(stage) == replace(plan, rank_by="mean").key(stage)
        assert same == (STAGES.index(stage) < STAGES.index("circuits"))


def test_a_stage_without_its_earlier_ones_is_refused(plan, tmp_path):
    with pytest.raises(RunError, match="stage 'report': .* stage 'directions' has not run"):
        run(replace(plan, out=tmp_path / "new"), stages=["report"])


def test_a_folder_with_other_files_is_not_written_into(plan, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files but no run"):
        run(replace(plan, out=tmp_path))


def test_imported_results_are_not_overwritten(plan, tmp_path):
    write_json(tmp_path / "run.json", {"plan": {"imported": "x"}, "versions": {}, "stages": {}})
    with pytest.raises(RunError, match="holds imported results"):
        run(replace(plan, out=tmp_path))


def test_a_folder_that_is_no_run_cannot_be_opened(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        Study(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenarios": 0}, "--scenarios: 0 is too few"),
        ({"emotions": ("anger",)}, "--emotions: found anger; give two or more"),
        ({"memory": 0.0}, "--memory: 0.0 GB holds nothing; give more than 0"),
        ({"doses": ()}, "--doses: give one or more positive numbers"),
        ({"doses": (-0.1,)}, "--doses: give one or more positive numbers"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_loaded(plan, changes, message):
    with pytest.raises(RunError, match=message):
        replace(plan, **changes)
