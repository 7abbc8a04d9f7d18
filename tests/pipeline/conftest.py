"""One small run of the whole job, which several tests look at."""

import pytest

from circuits.assets import shipped
from circuits.pipeline import Plan, run


@pytest.fixture(scope="session")
def plan(tmp_path_factory):
    return Plan(
        model=str(shipped("sev-mini")),
        data=shipped("sev/train.jsonl"),
        test=shipped("sev/test.jsonl"),
        out=tmp_path_factory.mktemp("runs") / "small",
        scenarios=12,
        dev_scenarios=3,
        test_scenarios=4,
        score_contexts=4,
        methods=("steer", "steer_plain", "neurons", "circuit"),
        tuning="brief",
        dial_contexts=2,
        ablation_draws=2,
    )


@pytest.fixture(scope="session")
def study(plan):
    return run(plan)
