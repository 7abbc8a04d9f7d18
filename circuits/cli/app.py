"""Commands of ``emotion-circuits``.

Wrong input ends with one line on standard error and exit code 2; ``--debug`` shows the
traceback instead. Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from circuits.cli.console import ERRORS, Bars, command_again, finishing_batches
from circuits.cli.interchange import (
    CHECK_EXAMPLE,
    EXPORT_EXAMPLE,
    IMPORT_EXAMPLE,
    check,
    export,
    import_command,
)
from circuits.cli.measuring import neurons, patch, paths_command
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
    PLAN_EXAMPLE,
    RUN_EXAMPLE,
    STATUS_EXAMPLE,
    VIEW_EXAMPLE,
    model_card,
    plan_command,
    run_command,
    score,
    show_run,
    status_command,
    view,
)
from circuits.cli.steering import VALIDATE_EXAMPLE, control, say, validate_command
from circuits.errors import CircuitsError, RunError, Stopped
from circuits.files import shipped

__all__ = [
    "app",
    "main",
]

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
    """Run the whole job on the embedded model and a part of the shipped contexts."""
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
        dial_contexts=2,
        ablation_draws=2,
    )
    with finishing_batches():
        done = run(plan, reporter=Bars(), engine=engine, workers=workers, ray_address=ray_address)
    show_run(done.folder)


_PLAN = options_of("circuits.runs.plan:Plan")

app.command(name="run", cls=_PLAN, epilog=RUN_EXAMPLE)(run_command)

app.command(name="plan", epilog=PLAN_EXAMPLE)(plan_command)

app.command(name="status", cls=_PLAN, epilog=STATUS_EXAMPLE)(status_command)


@app.command(epilog="Example: [bold]emotion-circuits show runs/demo[/]")
def show(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Show the results of a run as tables."""
    show_run(run)


app.command(epilog=EXPORT_EXAMPLE)(export)

app.command(name="import", epilog=IMPORT_EXAMPLE)(import_command)

app.command(epilog=CHECK_EXAMPLE)(check)


@app.command(
    name="assemble",
    epilog="Example: [bold]emotion-circuits assemble runs/published --preset published[/]",
)
def assemble_command(
    run: Annotated[Path, typer.Argument(help="A run folder, imported or not.")],
    preset: Annotated[
        Literal["published"], typer.Option(help="Whose rule and constants.")
    ] = "published",
    total: Annotated[
        int | None, typer.Option(help="Components of a circuit; ten per sublayer by default.")
    ] = None,
    ratio_mode: Annotated[
        Literal["fixed", "auto"],
        typer.Option(help="Neurons and heads 7 to 3, or as the sublayers' importance says."),
    ] = "fixed",
) -> None:
    """Assemble circuits from tables alone, without a model, by the published rule."""
    from circuits.cli.exporting import assemble_run

    assemble_run(run, total, ratio_mode)


app.command(
    epilog="Examples: [bold]emotion-circuits patch runs/demo --emotion fear[/] · "
    "[bold]emotion-circuits patch runs/demo --against anger --sites z,pattern[/]"
)(patch)

app.command(
    name="paths",
    cls=options_of("circuits.runs.patching:PathOptions"),
    epilog="Example: [bold]emotion-circuits paths runs/demo --emotion anger[/]",
)(paths_command)


app.command(
    cls=options_of("circuits.runs.neurons:NeuronPlan"),
    epilog="Example: [bold]emotion-circuits neurons runs/demo --models sev-nano[/]",
)(neurons)


app.command(name="model-card", epilog="Example: [bold]emotion-circuits model-card[/]")(model_card)

app.command(
    name="score",
    cls=options_of("circuits.runs.plan:Plan", "score_contexts", "ablation", "positions", "draws"),
    epilog="Example: [bold]emotion-circuits score runs/demo --positions matched[/]",
)(score)

_VALIDATION = options_of("circuits.runs.steering:ValidationOptions")

app.command(name="validate", cls=_VALIDATION, epilog=VALIDATE_EXAMPLE)(validate_command)

app.command(name="view", epilog=VIEW_EXAMPLE)(view)


app.command(
    name="control",
    cls=options_of(
        "circuits.runs.plan:Plan",
        "methods",
        "test",
        "hard",
        "test_scenarios",
        "tuning",
        "dial_contexts",
        "second_judge",
    ),
    epilog="Example: [bold]emotion-circuits control runs/demo --methods steer_plain,circuit[/]",
)(control)

app.command(
    name="say",
    epilog="Examples: [bold]emotion-circuits say 'I opened the cellar door' --emotion fear "
    "--strength 0.8[/] · [bold]emotion-circuits say 'It rains.' --circuit fear.json "
    "--emotion fear --mix sadness=0.5[/]",
)(say)


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
        for option in _GONE:
            if option in sys.argv:
                raise RunError(f"{option}: gone since 0.2.0; leave it out: {_GONE[option]}")
        with allowed(given):
            app()
    except Stopped as error:
        ERRORS.print(f"{error}\nto go on: {command_again()}", markup=False, highlight=False)
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
    ERRORS.print(f"error: {' '.join(error.split())}", markup=False, highlight=False)
