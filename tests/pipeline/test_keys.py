"""A stage is run again when something that it depends on has changed, and only then."""

from dataclasses import replace

import pytest
from pipeline.killing import differing

from circuits.errors import CircuitsError, RunError
from circuits.provenance import versions
from circuits.runs import Study, run
from circuits.runs.folder import run_status
from circuits.runs.keys import NEEDS, dependents, needed, stage_key
from circuits.runs.plan import STAGES


def begun(monkeypatch, reads=None):
    """Stages that begin from now on; ``reads``: and the stages whose results each asks for."""
    found, begin, need = [], Study.begin, Study._need

    def noting(self, stage):
        found.append(stage)
        begin(self, stage)

    def noting_need(self, stage):
        if reads is not None:
            reads.setdefault(found[-1], set()).add(stage)
        need(self, stage)

    monkeypatch.setattr(Study, "begin", noting)
    monkeypatch.setattr(Study, "_need", noting_need)
    return found


def test_dependents_are_the_other_way_round():
    assert dependents("scores") == ("report",)
    assert dependents("effects") == ("circuits", "scores", "steering", "report")
    assert all((a in dependents(b)) == (b in needed(a)) for a in STAGES for b in STAGES)


@pytest.mark.trial("faults", "a plan is run again with another number of test contexts")
def test_a_rerun_does_only_what_changed_and_leaves_what_a_new_run_leaves(
    copied, tmp_path, monkeypatch, trial
):
    reads = {}
    changed, done = replace(copied, score_contexts=3), begun(monkeypatch, reads)
    run(changed)
    assert done == ["scores", "report"]
    reads.clear()
    new = run(replace(changed, out=tmp_path / "new"))
    assert differing(copied.out, new.folder) == []
    trial(outcome="2 of 9 stages run; byte-equal to a new run")
    # Every stage reads what the graph of stages says, and nothing else.
    assert reads["report"] == {*STAGES} - {"replies", "report"}
    for stage, read in reads.items():
        assert read <= {*needed(stage)}, stage
    assert reads["scores"] >= {"circuits", "importance"}
    for stage in ("directions", "effects", "importance", "circuits", "scores", "steering"):
        assert {*NEEDS[stage]} & (reads[stage] | {"judgements"}), stage
    made = new.log["stages"]["scores"]["made_of"]
    assert made["options"]["score_contexts"] == 3
    assert made["files"]["test"].startswith("sha256:")
    assert made["needs"] == {"circuits": new.keys["circuits"]}
    assert made["version"] == {"emotion-circuits": versions()["emotion-circuits"]}


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
def test_another_option_runs_only_what_depends_on_it(brief, changes, again):
    other = replace(brief, **changes)
    assert again == {s for s in STAGES if stage_key(brief, s) != stage_key(other, s)}


@pytest.mark.trial("faults", "a stage fails after it has begun to write")
def test_a_stage_that_fails_half_way_is_undone_and_so_is_what_is_made_from_it(
    copied, monkeypatch, trial
):
    class OwnError(CircuitsError):
        pass

    def fails(*_):
        raise OwnError("the disk is gone")

    changed = replace(copied, rank_by="mean")
    with monkeypatch.context() as patch:
        patch.setattr("circuits.runs.stages.write_circuit", fails)
        with pytest.raises(OwnError, match="stage 'circuits': the disk is gone"):
            run(changed)
    study, undone = Study(copied.out), ("circuits", *dependents("circuits"))
    assert {*study.log["stages"]} == {*STAGES} - {*undone}
    # Also by the old plan, whose key the old circuits had.
    assert run_status(study, copied).to_do == run_status(study, changed).to_do == undone
    trial(outcome="undone, with all that is made from it")


@pytest.mark.trial("faults", "a run made by another version of the package is gone on with")
def test_another_version_makes_every_stage_again(brief, brief_study, monkeypatch, trial):
    other = {**versions(), "emotion-circuits": "0.0.1"}
    monkeypatch.setattr("circuits.runs.keys.versions", lambda: other)
    found = run_status(brief_study, brief)
    assert found.to_do == STAGES
    (why,) = found.stages[0].why
    assert why.startswith("emotion-circuits: ")
    assert why.endswith(" -> 0.0.1")
    trial(outcome="all stages are stale, and status says why")


def test_changed_data_and_weights_are_noticed(brief, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_bytes(brief.data.read_bytes())
    own = replace(brief, data=data)
    assert stage_key(own, "replies") == stage_key(brief, "replies")
    data.write_bytes(brief.data.read_bytes() + b"\n")
    assert stage_key(own, "replies") != stage_key(brief, "replies")
    assert stage_key(own, "report") != stage_key(brief, "report")


def test_a_stage_without_its_earlier_ones_is_refused(brief, tmp_path):
    with pytest.raises(RunError, match="stage 'report': .* stage 'directions' has not run"):
        run(replace(brief, out=tmp_path / "new"), stages=["report"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("thesis.txt", "mine", "holds files but no run"),
        ("run.json", '{"plan": {"imported": "x"}, "stages": {}}', "holds imported results"),
    ],
)
def test_a_folder_with_other_results_is_not_written_into(brief, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match=message):
        run(replace(brief, out=tmp_path))


def test_a_folder_that_is_no_run_cannot_be_opened(tmp_path):
    with pytest.raises(RunError, match="is no run folder"):
        Study(tmp_path)
