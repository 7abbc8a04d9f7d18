"""``status``: what is done, what is out of date and why, what goes on; nothing is written."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from circuits.cli.app import app
from circuits.files import read_json, write_json, write_text
from circuits.runs import Study, run
from circuits.runs.folder import MADE_FROM, run_status
from circuits.runs.patching import Contrast, patch_run
from circuits.runs.plan import STAGES


def shown(*words):
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


def states(found):
    return {own.stage: own.state for own in found.stages}


def why(found, stage):
    (own,) = [own for own in found.stages if own.stage == stage]
    return own.why


def test_a_finished_run_is_done_with_time_passes_and_size(brief, brief_study):
    before = sorted(brief_study.folder.rglob("*"))
    found = run_status(brief_study, brief)
    assert set(states(found).values()) == {"done"}
    assert found.to_do == ()
    receipts = {s: own["receipt"]["passes"] for s, own in brief_study.log["stages"].items()}
    assert {own.stage: own.passes for own in found.stages} == receipts
    assert {own.stage: own.seconds for own in found.stages} == brief_study.seconds
    assert all(own.size > 0 for own in found.stages)
    assert (found.writer, found.beside) == (None, ())
    assert sorted(brief_study.folder.rglob("*")) == before


def test_stages_that_have_not_run_are_said(brief, tmp_path):
    study = run(replace(brief, out=tmp_path / "run"), stages=["replies"])
    found = run_status(study, brief)
    assert found.to_do == STAGES[1:]
    assert states(found)["judgements"] == "not run"


@pytest.mark.parametrize(
    ("changes", "stage", "reason", "again"),
    [
        ({"score_contexts": 3}, "scores", "score_contexts: 2 -> 3", ("scores", "report")),
        ({"emotions": ("anger", "disgust")}, "replies", 'emotions: ["anger", "fear"] -> [', STAGES),
        ({"model": "sev-nano"}, "replies", "model name: sev-mini -> sev-nano", STAGES),
        (
            {"circuit_dtype": "float16"},
            "steering",
            "circuit_dtype: none -> float16",
            ("steering", "report"),
        ),
    ],
)
def test_a_changed_option_is_named_and_what_it_leads_to(
    brief, brief_study, changes, stage, reason, again
):
    found = run_status(brief_study, replace(brief, **changes))
    assert found.to_do == again
    assert any(reason in text for text in why(found, stage))
    assert why(found, "report") == tuple(
        f"{need} is to be made again" for need in ("scores", "steering") if need in again
    )


def test_a_changed_file_is_named(copied, tmp_path):
    other = tmp_path / "test.jsonl"
    other.write_bytes(copied.test.read_bytes() + b"\n")
    found = run_status(Study(copied.out), replace(copied, test=other))
    assert why(found, "scores") == why(found, "steering") == ("test: another file",)
    assert found.to_do == ("scores", "steering", "report")


def test_files_that_are_gone_are_noticed(copied):
    (copied.out / "scores.json").unlink()
    found = run_status(Study(copied.out), copied)
    assert why(found, "scores") == ("its files are gone",)


def test_an_interrupted_stage_says_how_much_waits(copied):
    path = Study(copied.out).journal_path("steering")
    path.parent.mkdir()
    path.write_text('{"key": "x"}\n{"batch": 0}\n{"batch": 1}\n{"bat')
    (own,) = [s for s in run_status(Study(copied.out), copied).stages if s.stage == "steering"]
    assert own.waiting == 2
    assert "2 batches wait" in shown("status", copied.out)


@pytest.mark.parametrize(
    ("name", "journal"),
    [
        ("validation", ".resume/validate.jsonl"),
        ("neurons", "neurons/sev-nano/emotion/.resume/effects.jsonl"),
    ],
)
def test_so_does_what_is_measured_beside_the_stages(copied, name, journal):
    write_text(copied.out / journal, '{"key": "x"}\n{"batch": 0}\n{"bat')
    (own,) = run_status(Study(copied.out), copied).beside
    assert (own.name, own.state, own.waiting) == (name, "stale", 1)
    assert "1 batches wait" in shown("status", copied.out)


def test_what_was_measured_beside_is_fresh_until_its_stage_is_made_again(copied):
    study = Study(copied.out)
    patch_run(
        Contrast(study, "anger", contexts=1),
        ["z"],
        by="last",
        mode="denoising",
        readout="projection",
    )
    (own,) = run_status(study, copied).beside
    assert (own.name, own.state) == ("patching/anger-neutral", "fresh")
    note = copied.out / own.name / MADE_FROM
    assert read_json(note) == {"importance": study.keys["importance"]}
    run(replace(copied, doses=(0.2,)), stages=["importance"])
    assert run_status(study, copied).beside[0].state == "stale"
    write_json(note, {"importance": "another"})
    assert run_status(study, copied).beside[0].why == ("importance was made again",)


def test_imported_results_are_what_they_are(tmp_path):
    write_json(
        tmp_path / "run.json",
        {
            "plan": {"imported": "x"},
            "versions": {},
            "stages": {"circuits": {"key": "imported", "receipt": {"passes": 0}}},
        },
    )
    found = run_status(Study(tmp_path))
    assert states(found)["circuits"] == "done"
    assert states(found)["scores"] == "not run"


def test_a_run_of_an_earlier_version_is_stale(copied):
    path = copied.out / "run.json"
    log = read_json(path)
    for own in log["stages"].values():
        own["key"] = "old"
        del own["made_of"]
    write_json(path, log)
    found = run_status(Study(copied.out), copied)
    assert found.to_do == STAGES
    assert why(found, "replies") == ("made by an earlier version",)


def test_the_command_shows_the_table_and_what_goes_on(brief_study):
    folder = brief_study.folder
    assert "all is done" in shown("status", folder)
    text = " ".join(shown("status", folder, "--score-contexts", "3").split())
    assert "score_contexts: 2 -> 3" in text
    assert f"run --plan {folder}/plan.toml --score-contexts 3 --out {folder}" in text


def test_the_command_gives_json_and_takes_a_plan(brief, brief_study, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text((brief_study.folder / "plan.toml").read_text().replace("seed = 0", "seed = 1"))
    found = json.loads(shown("status", brief_study.folder, "--plan", plan, "--json"))
    assert found["to_do"] == ["effects", "importance", "circuits", "scores", "steering", "report"]
    assert found["stages"][3]["why"] == ["seed: 0 -> 1"]
