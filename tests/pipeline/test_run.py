"""The whole job on the embedded model and a few contexts."""

import json
import math
from dataclasses import replace
from shutil import copytree

import pytest
import torch

from circuits.circuit.circuit import SCORES
from circuits.errors import DataError, RunError
from circuits.files import read_json, write_json
from circuits.names import EMOTIONS, VALENCES
from circuits.runs import Plan, Study, run
from circuits.runs.keys import stage_key
from circuits.runs.plan import STAGES


def test_a_run_leaves_six_circuits_a_report_and_accuracies(study):
    names = sorted(path.name for path in (study.folder / "circuits").iterdir())
    assert names == sorted(f"{emotion}.json" for emotion in EMOTIONS)
    assert (study.folder / "report.html").stat().st_size > 100_000
    assert set(study.circuits) == set(EMOTIONS)


def test_accuracies_are_given_by_method_emotion_and_valence_with_their_price(study, plan):
    accuracy = read_json(study.folder / "steering.json")
    assert tuple(accuracy["methods"]) == plan.methods
    for found in accuracy["methods"].values():
        assert found["n"] == plan.test_scenarios * 3 * 6
        assert set(found["by_emotion"]) == set(EMOTIONS)
        assert set(found["by_valence"]) == set(VALENCES)
        assert math.isfinite(found["repetition"])
        by_emotion = sum(found["by_emotion"].values()) / 6
        assert found["overall"] == pytest.approx(by_emotion, abs=0.01)
    assert accuracy["methods"]["prompt"]["perplexity_ratio"] == 1.0
    assert accuracy["judge"]["name"] == "lexicon"
    assert "random_circuit" in accuracy["baselines"]


def test_every_method_has_both_judges_and_its_price(study):
    found = study.steering
    names = {
        "n",
        "overall",
        "by_emotion",
        "by_valence",
        "second_judge",
        "kappa",
        "perplexity_ratio",
        "repetition",
        "topic_kept",
        "intervals",
    }
    for own in {**found["methods"], **found["baselines"]}.values():
        assert names <= set(own)
    assert found["second_judge"]["name"] == "wording"
    assert found["methods"]["circuit"]["second_judge"] > 90
    assert found["methods"]["circuit"]["topic_kept"] > 90
    assert found["best_steering"] == "steer"


def test_the_circuits_strength_is_swept_on_test_contexts(study, plan):
    found = study.steering["strengths"]
    assert found["n"] == plan.sweep_contexts * 6 == found["unchanged_at_zero"]
    assert found["overall"][4] > found["overall"][0]


def test_circuits_are_ablated_where_the_emotion_is_asked_for(study, plan):
    found = study.steering["ablation"]
    assert found["n"] == plan.sweep_contexts * 6
    assert found["draws"] == plan.ablation_draws
    assert found["circuit_drop"] > found["random_drop"]


def test_replies_are_kept_with_what_both_judges_heard(study, plan):
    rows = [json.loads(line) for line in open_lines(study)]
    assert len(rows) == (len(plan.methods) + 2) * plan.test_scenarios * 3 * 6
    assert all(row["judge"]["match"] in (0, 1) for row in rows)
    assert all(row["second_judge"]["match"] in (0, 1) for row in rows)


def test_every_circuit_is_scored_on_contexts_that_it_was_not_made_from(study):
    found = read_json(study.folder / "scores.json")
    assert tuple(found) == EMOTIONS
    for emotion, own in found.items():
        assert set(own) == {*SCORES, "heads_fraction", "neurons_fraction"}
        assert set(own["cpr"]) == {"value", "low", "high", "baseline_p99", "p"}
        assert own["heads_fraction"] <= 0.20
        assert own["neurons_fraction"] <= 0.05
        scores = study.circuits[emotion].scores
        assert scores["faithfulness"] == own["faithfulness"]["value"]
        assert scores["cmd_above_baseline"] == study.scores[emotion].above_baseline("cmd")


def test_few_heads_and_neurons_carry_most_of_every_emotion(study):
    for found in study.scores.values():
        faithfulness = found.scores["faithfulness"]
        assert faithfulness.value > 0.75
        assert faithfulness.value > faithfulness.baseline_p99


def test_test_contexts_that_served_as_train_contexts_are_not_scored_on(plan, study, tmp_path):
    copytree(study.folder, tmp_path / "copy")
    leaking = replace(plan, test=plan.data, out=tmp_path / "copy")
    with pytest.raises(DataError, match=r"stage 'scores': .* circuits were made from"):
        run(leaking, stages=["scores"])


def test_a_plan_is_read_back_as_it_was(plan):
    assert Plan.from_json(plan.to_json(), plan.out) == plan
    with pytest.raises(RunError, match="no option is called 'imported'"):
        Plan.from_json({**plan.to_json(), "imported": "x"}, plan.out)


def test_prompting_expresses_emotions_and_plain_prompts_do_not(study):
    methods = study.steering["methods"]
    assert methods["prompt"]["overall"] > 90
    assert methods["none"]["overall"] < 10


def test_everything_after_elicitation_costs_one_pass_per_accepted_prompt_and_the_injections(study):
    receipts = {stage: entry["receipt"] for stage, entry in study.log["stages"].items()}
    assert receipts["directions"]["passes"] == len(study.accepted)
    assert receipts["effects"]["passes"] == 0
    assert receipts["importance"]["passes"] == 24 * 3
    # 24 contexts at most give the gradients, plainly and asked, for every emotion.
    assert receipts["circuits"]["passes"] == receipts["circuits"]["backward_passes"] <= 2 * 24 * 6


def test_the_log_says_where_values_lie(study):
    stages = study.log["stages"]
    assert stages["directions"]["values"].startswith("memory: ")
    assert "values" not in stages["effects"]


def test_under_a_small_budget_values_lie_in_a_file_and_numbers_are_the_same(
    brief, brief_study, tmp_path
):
    again = run(
        replace(brief, out=tmp_path / "again", memory=1e-4),
        stages=["replies", "judgements", "directions", "effects"],
    )
    stages, n = again.log["stages"], len(again.accepted)
    assert stages["directions"]["values"].startswith("a temporary file: ")
    assert stages["directions"]["receipt"]["passes"] == n
    assert stages["effects"]["receipt"]["passes"] == 0
    for name in ("directions", "generality", "heads", "neurons", "means"):
        one, other = getattr(brief_study, name), getattr(again, name)
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
    return study.replies_path.read_text().splitlines()


def test_a_finished_stage_is_not_run_again(study, plan, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr("circuits.runs.work.load_model", never)
    before = study.log
    again = run(plan)
    assert again.log["stages"] == before["stages"]


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"rank_by": "mean"}, {"circuits", "scores", "steering", "report"}),
        ({"score_contexts": 11}, {"scores", "report"}),
        ({"test_scenarios": 11}, {"steering", "report"}),
        ({"doses": (0.1,)}, {"importance", "circuits", "scores", "steering", "report"}),
        ({"head_readout": "post_norm"}, {"effects", "circuits", "scores", "steering", "report"}),
        ({"judge": "wording"}, {*STAGES} - {"replies"}),
        ({"batch_size": 7, "memory": 0.5}, set()),
    ],
)
def test_another_option_runs_only_what_depends_on_it(plan, changes, again):
    other = replace(plan, **changes)
    assert again == {s for s in STAGES if stage_key(plan, s) != stage_key(other, s)}


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
        ({"scenarios": 0}, "scenarios: found 0; give 1 or more"),
        ({"emotions": ("anger",)}, "emotions: found .*; give 2 or more"),
        ({"score_contexts": 1}, "score_contexts: found 1; give 2 or more"),
        ({"sweep_contexts": -1}, "sweep_contexts: found -1; give 0 or more"),
        ({"methods": ("pray",)}, "methods: 'pray' is not known; methods are none, prompt, steer"),
        ({"draws": 0}, "draws: found 0; give 1 or more"),
        ({"memory": 0.0}, "memory: found 0.0; give more than 0"),
        ({"doses": ()}, "doses: found .*; give 1 or more of them"),
        ({"doses": (-0.1,)}, "doses: found -0.1; give more than 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_loaded(plan, changes, message):
    with pytest.raises(RunError, match=message):
        replace(plan, **changes)
