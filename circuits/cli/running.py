"""``emotion-circuits run`` and ``plan``: a run from options, a plan file, or both."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from circuits.cli.console import ERRORS, OUT, Bars
from circuits.cli.interrupting import finishing_batches
from circuits.cli.options import (
    Accepted,
    Batch,
    BudgetOption,
    Data,
    Device,
    DeviceMap,
    DevScenarios,
    Doses,
    Dtype,
    Emotions,
    Engine,
    JudgeOption,
    KeepCode,
    Memory,
    Model,
    PlanOption,
    PresetOption,
    RayAddress,
    ReadOption,
    Revision,
    RunOut,
    Scenarios,
    ScoreContexts,
    Seed,
    Settings,
    StableLayers,
    Stages,
    Test,
    TestScenarios,
    Workers,
    checked_stages,
)
from circuits.cli.settings import given_options
from circuits.cli.settings import settings as read_settings
from circuits.cli.showing import show_run
from circuits.files import is_file
from circuits.names import EMOTIONS

if TYPE_CHECKING:
    from circuits.pipeline.plan import Plan

__all__ = ["PLAN_EXAMPLE", "RUN_EXAMPLE", "Told", "plan_command", "run_command"]

RUN_EXAMPLE = (
    "Examples: [bold]emotion-circuits run --model meta-llama/Llama-3.2-3B-Instruct "
    "--dtype bfloat16 --out runs/llama[/] · [bold]emotion-circuits run --plan plan.toml "
    "--out runs/mine[/] · [bold]emotion-circuits run --plan runs/llama/plan.toml --seed 1 "
    "--out runs/again[/]"
)
PLAN_EXAMPLE = "Example: [bold]emotion-circuits plan > plan.toml[/]"

_SIX = ",".join(EMOTIONS)
_OPTIONS = (
    "model", "out", "data", "test", "accepted", "judge", "emotions", "scenarios", "test_scenarios",
    "dev_scenarios", "stable_layers", "doses", "read", "score_contexts", "budget", "device",
    "device_map", "dtype", "revision", "batch_size", "memory", "seed", "preset",
)  # fmt: skip


class Told(TyperCommand):
    """A command whose function is given the context that its annotation promises."""

    context_class = typer.Context


def run_command(
    context: typer.Context,
    plan: PlanOption = None,
    model: Model = None,
    out: RunOut = None,
    data: Data = None, test: Test = None, accepted: Accepted = None,
    preset: PresetOption = "default",
    judge: JudgeOption = "lexicon",
    emotions: Emotions = _SIX,
    scenarios: Scenarios = None,
    test_scenarios: TestScenarios = None, dev_scenarios: DevScenarios = 16,
    stages: Stages = "",
    stable_layers: StableLayers = "",
    doses: Doses = "0.1,0.3,0.5,0.7",
    read: ReadOption = "prompt",
    score_contexts: ScoreContexts = 16,
    budget: BudgetOption = "",
    device: Device = None, device_map: DeviceMap = None, dtype: Dtype = "float32",
    revision: Revision = None, batch_size: Batch = 96, memory: Memory = 1.0, seed: Seed = 0,
    engine: Engine = "here", workers: Workers = None, ray_address: RayAddress = None,
    settings: Settings = [], keep_code: KeepCode = False,  # noqa: B006
) -> None:  # fmt: skip
    """Run the whole job on a model: contexts to circuits to control, and a report.

    A stage that was finished in the same folder with the same inputs and code is not run again.
    """
    from circuits.pipeline import run
    from circuits.pipeline.plan_files import read_plan
    from circuits.pipeline.trust import trusted

    given, wanted = given_options(context, _OPTIONS), checked_stages(stages)
    chosen = given.pop("preset", None)
    own = read_plan(plan, {**given, **read_settings(settings)}, chosen)
    own = replace(own, trust_remote_code=trusted("code"))
    if keep_code:
        _say_kept(own)
    with finishing_batches():
        done = run(
            own, stages=wanted, keep_code=keep_code, reporter=Bars(), engine=engine,
            workers=workers, ray_address=ray_address,
        )  # fmt: skip
    show_run(done.folder)


def plan_command(
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON Schema of plan files instead.")
    ] = False,
) -> None:
    """Print a plan file: every option with its default and what it means."""
    from circuits.pipeline.plan_files import plan_schema, template

    text = json.dumps(plan_schema(), indent=2) if schema else template().rstrip()
    OUT.print(text, soft_wrap=True, markup=False, highlight=False)


def _say_kept(plan: "Plan") -> None:
    from circuits.pipeline.status import run_status
    from circuits.pipeline.study import Study

    if not is_file(plan.out / "run.json"):
        return
    for own in run_status(Study(plan.out), plan).stages:
        if own.only_code:
            ERRORS.print(
                f"note: {own.stage} is kept although its code changed ({', '.join(own.why)})",
                soft_wrap=True, markup=False, highlight=False,
            )  # fmt: skip
