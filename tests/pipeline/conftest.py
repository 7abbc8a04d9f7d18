"""Runs of the whole job, which several tests look at, and never change."""

from dataclasses import replace
from shutil import copytree

import pytest
from plans import plan_in

from circuits.runs import run
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
def brief(once):
    """A run of seconds: nothing is chosen on dev contexts, and one method is compared."""
    with once("runs") as folder:
        out = folder / "brief"
    return plan_in(
        out,
        model="sev-mini",
        emotions=("anger", "fear"),
        scenarios=5,
        dev_scenarios=1,
        circuit_strength=1.0,
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
def brief_study(brief, once):
    with once("brief-run"):
        return run(brief)


@pytest.fixture
def copied(brief, brief_study, tmp_path):
    """The brief run's plan and folder once more, to be changed."""
    copytree(brief_study.folder, tmp_path / "copy")
    return replace(brief, out=tmp_path / "copy")


@pytest.fixture(scope="module")
def folder(brief_study, tmp_path_factory):
    """The folder of the brief run once more, into which the tests of one file write."""
    return copytree(brief_study.folder, tmp_path_factory.mktemp("brief") / "run")
