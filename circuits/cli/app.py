"""Commands of ``emotion-circuits``.

Wrong input ends with one line on standard error and exit code 2; ``--debug`` shows the
traceback instead. Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from circuits.cli import exporting, measuring, steering
from circuits.cli.console import ERRORS, Bars, command_again, finishing_batches
from circuits.cli.options import Engine, RayAddress, RunFolder, Workers, options_of
from circuits.cli.run import (
    model_card,
    plan_command,
    run_command,
    score,
    show_run,
    status_command,
    view,
)
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

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code that comes with a model. It can do all that you can."
    ),
]
TrustJudge = Annotated[
    bool,
    typer.Option(
        "--trust-judge", help="Send your key to the judge's server that a plan or a run names."
    ),
]


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


def show(run: RunFolder) -> None:
    """Show the results of a run as tables."""
    show_run(run)


_PLAN = options_of("circuits.runs.plan:Plan")
_SCORED = options_of("circuits.runs.plan:Plan", "score_contexts", "ablation", "positions", "draws")
_COMPARED = options_of(
    "circuits.runs.plan:Plan",
    "methods",
    "test",
    "hard",
    "test_scenarios",
    "tuning",
    "sweep_contexts",
    "second_judge",
)
_PATHS = options_of("circuits.runs.patching:PathOptions")
_NEURONS = options_of("circuits.runs.neurons:NeuronPlan")
_VALIDATION = options_of("circuits.runs.steering:ValidationOptions")

for name, function, cls, *examples in (
    (
        "run",
        run_command,
        _PLAN,
        "--model meta-llama/Llama-3.2-3B-Instruct --dtype bfloat16 --out runs/llama",
        "--plan plan.toml --out runs/mine",
        "--plan runs/llama/plan.toml --seed 1 --out runs/again",
    ),
    ("plan", plan_command, None, "> plan.toml"),
    ("status", status_command, _PLAN, "runs/demo", "runs/demo --score-contexts 32"),
    ("show", show, None, "runs/demo"),
    ("export", exporting.export, None, "runs/demo --format graphml,dot --out graphs"),
    (
        "import",
        exporting.import_command,
        None,
        "EmotionCircuits-LLM/outputs/llama32_3b --out runs/published",
        "ioi.json --emotion ioi --model gpt2 --out circuits",
    ),
    ("check", exporting.check, None, "graphs/fear.graphml graph.json"),
    ("assemble", exporting.assemble, None, "runs/published --preset published"),
    (
        "patch",
        measuring.patch,
        None,
        "runs/demo --emotion fear",
        "runs/demo --against anger --sites z,pattern",
    ),
    ("paths", measuring.paths, _PATHS, "runs/demo --emotion anger"),
    ("neurons", measuring.neurons, _NEURONS, "runs/demo --models sev-nano"),
    ("model-card", model_card, None, ""),
    ("score", score, _SCORED, "runs/demo --positions matched"),
    ("validate", steering.validate, _VALIDATION, "runs/demo --contexts 8"),
    ("view", view, None, "runs/demo --open", "runs/demo --serve"),
    ("steer", steering.steer, _COMPARED, "runs/demo --methods steer_neutral,circuit"),
    (
        "say",
        steering.say,
        None,
        "'I opened the cellar door' --emotion fear --strength 0.8",
        "'It rains.' --circuit fear.json --emotion fear --mix sadness=0.5",
    ),
):
    lines = (f"emotion-circuits {name} {own}".strip() for own in examples)
    epilog = f"Example: {' · '.join(f'[bold]{line}[/]' for line in lines)}"
    app.command(name=name, cls=cls, epilog=epilog)(function)


_GONE = {
    "--dry-run": "a bar tells the time that is left, from the first batch on",
    "--keep-code": "a change of the code alone makes no stage stale, another version does",
}


def main() -> None:
    """Entry point: errors of ours in one line, exit code 2; 130 after Ctrl-C."""
    # Threads that wait by spinning slow a small model twentyfold on a busy machine. It must be
    # said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    anywhere = ("--debug", "--trust-remote-code", "--trust-judge")
    given = [word for word in anywhere if word in sys.argv]
    sys.argv = [sys.argv[0], *given, *(word for word in sys.argv[1:] if word not in given)]
    trust: list[Any] = [word.rpartition("-")[2] for word in given if "trust" in word]
    allowed = nullcontext()
    try:
        if sys.argv[1:2] == ["control"]:
            raise RunError("the command control is now called steer; write that")
        for option, instead in _GONE.items():
            if option in sys.argv:
                raise RunError(f"{option}: gone since 0.2.0; leave it out: {instead}")
        if trust:
            # Loaded here: the pipeline is heavy, and --help is to be quick.
            from circuits.runs.plan import trusting

            allowed = trusting(*trust)
        with allowed:
            app()
    except Stopped as error:
        ERRORS.print(f"{error}\nto go on: {command_again()}")
        raise SystemExit(130) from None
    except (CircuitsError, OSError) as error:
        told = str(error)
        if isinstance(error, OSError):
            # A path that the system refuses, where no command had expected it.
            told = f"{error.filename}: {error.strerror}; give another path, or mend this one"
        if "--debug" in given or told.startswith("None:"):
            raise
        ERRORS.print(f"error: {' '.join(told.split())}")
        raise SystemExit(2) from error
