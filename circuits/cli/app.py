"""Commands of ``emotion-circuits``.

Wrong input ends with one line on standard error and exit code 2; ``--debug`` shows the
traceback instead. Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from circuits.cli.console import ERRORS, Bars, command_again, finishing_batches
from circuits.cli.exporting import assemble, check, export, import_command
from circuits.cli.measuring import neurons, patch, paths
from circuits.cli.options import (
    ANYWHERE,
    Debug,
    Engine,
    RayAddress,
    TrustCode,
    TrustJudge,
    Workers,
    allowed,
    options_of,
)
from circuits.cli.run import (
    model_card,
    plan_command,
    run_command,
    score,
    show_run,
    status_command,
    view,
)
from circuits.cli.steering import say, steer, validate
from circuits.errors import CircuitsError, RunError, Stopped
from circuits.files import shipped

__all__ = ["app", "main"]

app = typer.Typer(
    name="emotion-circuits",
    help="Find, measure, export and use the circuits by which language models express emotion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def options(debug: Debug = False, code: TrustCode = False, judge: TrustJudge = False) -> None:
    """Find, measure, export and use the circuits by which language models express emotion."""


@app.command(
    epilog="Example: [bold]emotion-circuits demo[/] (about two minutes; no network, no GPU)"
)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    engine: Engine = "here",
    workers: Workers = None,
    ray_address: RayAddress = None,
) -> None:
    """Run the full pipeline on the embedded model and a part of the shipped contexts."""
    from circuits.runs import Plan, run
    from circuits.steering.evaluate import FEW

    plan = Plan(
        model="sev-mini",
        data=shipped("sev/train.jsonl"),
        test=shipped("sev/test.jsonl"),
        out=out,
        scenarios=32,
        dev_scenarios=8,
        test_scenarios=12,
        methods=FEW,
        tuning="brief",
        sweep_contexts=2,
        ablation_draws=2,
    )
    with finishing_batches():
        done = run(plan, reporter=Bars(), engine=engine, workers=workers, ray_address=ray_address)
    show_run(done.folder)


def show(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Show the results of a run as tables."""
    show_run(run)


_PLAN = "circuits.runs.plan:Plan"
_SCORED = ("score_contexts", "ablation", "positions", "draws")
_COMPARED = (
    "methods",
    "test",
    "hard",
    "test_scenarios",
    "tuning",
    "sweep_contexts",
    "second_judge",
)


def _add(
    name: str, function: Callable[..., None], *examples: str, cls: type[TyperCommand] | None = None
) -> None:
    shown = " · ".join(f"[bold]emotion-circuits {own}[/]" for own in examples)
    app.command(name=name, cls=cls, epilog=f"Example: {shown}")(function)


_add(
    "run",
    run_command,
    "run --model meta-llama/Llama-3.2-3B-Instruct --dtype bfloat16 --out runs/llama",
    "run --plan plan.toml --out runs/mine",
    "run --plan runs/llama/plan.toml --seed 1 --out runs/again",
    cls=options_of(_PLAN),
)
_add("plan", plan_command, "plan > plan.toml")
_add(
    "status",
    status_command,
    "status runs/demo",
    "status runs/demo --score-contexts 32",
    cls=options_of(_PLAN),
)
_add("show", show, "show runs/demo")
_add("export", export, "export runs/demo --format graphml,dot --out graphs")
_add(
    "import",
    import_command,
    "import EmotionCircuits-LLM/outputs/llama32_3b --out runs/published",
    "import ioi.json --emotion ioi --model gpt2 --out circuits",
)
_add("check", check, "check graphs/fear.graphml graph.json")
_add("assemble", assemble, "assemble runs/published --preset published")
_add(
    "patch",
    patch,
    "patch runs/demo --emotion fear",
    "patch runs/demo --against anger --sites z,pattern",
)
_paths = options_of("circuits.runs.patching:PathOptions")
_add("paths", paths, "paths runs/demo --emotion anger", cls=_paths)
_neurons = options_of("circuits.runs.neurons:NeuronPlan")
_add("neurons", neurons, "neurons runs/demo --models sev-nano", cls=_neurons)
_add("model-card", model_card, "model-card")
_add("score", score, "score runs/demo --positions matched", cls=options_of(_PLAN, *_SCORED))
_validation = options_of("circuits.runs.steering:ValidationOptions")
_add("validate", validate, "validate runs/demo --contexts 8", cls=_validation)
_add("view", view, "view runs/demo --open", "view runs/demo --serve")
_compared = options_of(_PLAN, *_COMPARED)
_add("steer", steer, "steer runs/demo --methods steer_neutral,circuit", cls=_compared)
_add(
    "say",
    say,
    "say 'I opened the cellar door' --emotion fear --strength 0.8",
    "say 'It rains.' --circuit fear.json --emotion fear --mix sadness=0.5",
)


_GONE = {
    "--dry-run": "a bar tells the time that is left, from the first batch on",
    "--keep-code": "a change of the code alone makes no stage stale, another version does",
}


def main() -> None:
    """Entry point: errors of ours in one line, exit code 2; 130 after Ctrl-C."""
    # Threads that wait by spinning slow a small model twentyfold on a busy machine. It must be
    # said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = [word for word in ANYWHERE if word in sys.argv]
    sys.argv = [sys.argv[0], *given, *(word for word in sys.argv[1:] if word not in given)]
    try:
        if sys.argv[1:2] == ["control"]:
            raise RunError("the command control is now called steer; write that")
        for option in _GONE:
            if option in sys.argv:
                raise RunError(f"{option}: gone since 0.2.0; leave it out: {_GONE[option]}")
        with allowed(given):
            app()
    except Stopped as error:
        ERRORS.print(f"{error}\nto go on: {command_again()}")
        raise SystemExit(130) from None
    except CircuitsError as error:
        if "--debug" in given:
            raise
        _say(str(error))
        raise SystemExit(2) from error
    except OSError as error:
        # A path that the system refuses, where no command had expected it.
        if "--debug" in given or not error.filename:
            raise
        _say(f"{error.filename}: {error.strerror}; give another path, or mend this one")
        raise SystemExit(2) from error


def _say(error: str) -> None:
    ERRORS.print(f"error: {' '.join(error.split())}")
