"""Runs of the whole job, which several tests look at, and never change."""

from dataclasses import replace
from shutil import copytree

import pytest
from plans import plan_in

from circuits.files import shipped
from circuits.runs import Study, run
from circuits.runs.plan import STAGES
from circuits.steering.evaluate import FEW


@pytest.fixture(scope="session")
def plan(once):
    """The plan of ``emotion-circuits demo``."""
    with once("runs") as folder:
        out = folder / "demo"
    return plan_in(
        out,
        model="sev-mini",
        scenarios=32,
        dev_scenarios=8,
        test_scenarios=12,
        methods=FEW,
        tuning="brief",
        sweep_contexts=2,
        ablation_draws=2,
    )


@pytest.fixture(scope="session")
def study(plan, once):
    with once("runs"):  # a run that another worker has made is read
        return run(plan)


@pytest.fixture(scope="session")
def measured_run(once):
    """The folder of a run of two emotions that has its circuits, and nothing after them."""
    with once("measured") as folder:
        plan = plan_in(
            folder,
            model=str(shipped("sev-mini")),
            emotions=("anger", "fear"),
            scenarios=8,
            dev_scenarios=2,
            test_scenarios=4,
            max_new_tokens=20,
        )
        return run(plan, stages=STAGES[: STAGES.index("scores")]).folder


@pytest.fixture(scope="session")
def brief(tmp_path_factory):
    """A run of seconds: nothing is chosen on dev contexts, and one method is compared."""
    return plan_in(
        tmp_path_factory.mktemp("runs") / "brief",
        model="sev-mini",
        emotions=("anger", "fear"),
        scenarios=4,
        dev_scenarios=0,
        test_scenarios=1,
        score_contexts=2,
        draws=3,
        doses=(0.3,),
        methods=("circuit",),
        sweep_contexts=0,
        second_judge=None,
        max_new_tokens=24,
    )


@pytest.fixture(scope="session")
def reads():
    """Stage at work -> the stages whose results it asked for, filled while ``brief`` runs."""
    return {}


@pytest.fixture(scope="session")
def brief_study(brief, reads):
    need, begin = Study._need, Study.begin
    at_work = []

    def noting_begin(self, stage):
        at_work.append(stage)
        begin(self, stage)

    def noting_need(self, stage):
        reads.setdefault(at_work[-1], set()).add(stage)
        need(self, stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "begin", noting_begin)
        patch.setattr(Study, "_need", noting_need)
        return run(brief)


@pytest.fixture
def copied(brief, brief_study, tmp_path):
    """The brief run's plan and folder once more, to be changed."""
    copytree(brief_study.folder, tmp_path / "copy")
    return replace(brief, out=tmp_path / "copy")
