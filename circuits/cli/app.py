"""Commands of ``emotion-circuits``.

Wrong input ends with one line on standard error and exit code 2; ``--debug`` shows the
traceback instead. Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from circuits.assets import shipped
from circuits.cli.anywhere import ANYWHERE, Debug, Trust, allowed
from circuits.cli.console import ERRORS, Bars
from circuits.cli.control import control
from circuits.cli.interrupting import command_again, finishing_batches
from circuits.cli.neurons import neurons
from circuits.cli.options import (
    Accepted,
    Batch,
    Budgets,
    Data,
    Device,
    DeviceMap,
    DevScenarios,
    Doses,
    Dtype,
    Emotions,
    Engine,
    JudgeOption,
    Memory,
    Model,
    Out,
    PresetOption,
    RayAddress,
    ReadOption,
    Revision,
    Scenarios,
    ScoreContexts,
    Seed,
    Settings,
    StableLayers,
    Stages,
    Test,
    TestScenarios,
    Workers,
    budget,
    checked_stages,
    numbers,
    words,
)
from circuits.cli.patch import patch
from circuits.cli.paths import paths_command
from circuits.cli.say import say
from circuits.cli.scores import score
from circuits.cli.settings import settings as read_settings
from circuits.cli.showing import model_card, show_run
from circuits.cli.validate import VALIDATE_EXAMPLE, validate_command
from circuits.errors import CircuitsError, Stopped
from circuits.names import EMOTIONS

__all__ = ["app", "main"]

_SIX = ",".join(EMOTIONS)

app = typer.Typer(
    name="emotion-circuits",
    help="Find, measure, export and use the circuits by which language models express emotion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def options(debug: Debug = False, trust: Trust = False) -> None:
    """Find, measure, export and use the circuits by which language models express emotion."""


@app.command(
    epilog="Example: [bold]emotion-circuits demo[/] (under two minutes; no network, no GPU)"
)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    engine: Engine = "here",
    workers: Workers = None,
    ray_address: RayAddress = None,
) -> None:
    """Run the whole job on the embedded model and a part of the shipped contexts."""
    from circuits.control.methods import FEW
    from circuits.pipeline import Plan, run

    plan = Plan(
        model=str(shipped("sev-mini")),
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
        done = run(
            plan, reporter=Bars(), engine=engine, workers=workers, ray_address=ray_address
        )  # fmt: skip
    show_run(done.folder)


@app.command(
    name="run",
    epilog="Examples: [bold]emotion-circuits run --model meta-llama/Llama-3.2-3B-Instruct "
    "--dtype bfloat16 --out runs/llama[/] · [bold]emotion-circuits run --model ./my-model "
    "--data mine.jsonl --test mine_test.jsonl --out runs/mine[/]",
)
def run_command(
    model: Model,
    out: Out,
    data: Data = None, test: Test = None,
    accepted: Accepted = None,
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
    budgets: Budgets = "",
    device: Device = None, device_map: DeviceMap = None, dtype: Dtype = "float32",
    revision: Revision = None, batch_size: Batch = 96, memory: Memory = 1.0, seed: Seed = 0,
    engine: Engine = "here", workers: Workers = None, ray_address: RayAddress = None,
    settings: Settings = [],  # noqa: B006
) -> None:  # fmt: skip
    """Run the whole job on a model: contexts to circuits to control, and a report.

    A stage that was finished in the same folder with the same inputs is not run again.
    """
    from circuits.pipeline import PRESETS, Plan, run
    from circuits.pipeline.trust import trusted

    plan = Plan(
        model=model, revision=revision, device=device, device_map=device_map, dtype=dtype,
        out=out, judge=judge, trust_remote_code=trusted(),
        data=data or shipped("sev/train.jsonl"), test=test or shipped("sev/test.jsonl"),
        hard=None if test else shipped("sev/hard.jsonl"),  # own scenarios come without harder ones
        emotions=words(emotions), scenarios=scenarios, dev_scenarios=dev_scenarios, read=read,
        test_scenarios=test_scenarios, score_contexts=score_contexts, accepted=accepted,
        stable_layers=numbers(stable_layers, int, "--stable-layers") or None,
        doses=numbers(doses, float, "--doses"), batch_size=batch_size, memory=memory, seed=seed,
    )  # fmt: skip
    chosen = {"budget": budget(budgets)} if budgets else {}
    plan = replace(plan, **{**PRESETS[preset], **chosen, **read_settings(settings)})
    with finishing_batches():
        done = run(
            plan, stages=checked_stages(stages), reporter=Bars(), engine=engine, workers=workers,
            ray_address=ray_address,
        )  # fmt: skip
    show_run(done.folder)


@app.command(epilog="Example: [bold]emotion-circuits show runs/demo[/]")
def show(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Show the results of a run as tables."""
    show_run(run)


@app.command(
    epilog="Example: [bold]emotion-circuits export runs/demo --format graphml,dot --out graphs[/]"
)
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, or one circuit's JSON file.")],
    out: Out,
    format: Annotated[
        str,
        typer.Option(
            help="json, graphml, gexf, dot, mermaid, csv; comma-separated. With a run folder also "
            "gguf (control vectors for llama.cpp) and hf (hooks on a Hugging Face model). Or "
            "published: the whole run in the layout of the authors' output folder."
        ),
    ] = "json,graphml,gexf,dot,mermaid,csv",
    emotion: Annotated[str, typer.Option(help="Only these emotions; all by default.")] = "",
) -> None:
    """Write circuits in formats that other programs read or apply."""
    from circuits.cli.exporting import export_circuits
    from circuits.cli.published import export_run, wants_published

    if wants_published(words(format), words(emotion)):
        export_run(run, out)
    else:
        export_circuits(run, out, words(format), words(emotion))


@app.command(
    name="import",
    epilog="Example: [bold]emotion-circuits import EmotionCircuits-LLM/outputs/llama32_3b "
    "--out runs/published[/]",
)
def import_command(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The authors' outputs: a model's folder, one above it, or a .zip or .tar.gz."
        ),
    ],
    out: Out,
) -> None:
    """Make a run folder from results in the authors' layout; any part of them is enough."""
    from circuits.cli.published import import_run

    import_run(folder, out)


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
    from circuits.cli.published import assemble_run

    assemble_run(run, total, ratio_mode)


app.command(
    epilog="Examples: [bold]emotion-circuits patch runs/demo --emotion fear[/] · "
    "[bold]emotion-circuits patch runs/demo --against anger --sites z,pattern --dry-run[/]"
)(patch)

app.command(
    name="paths",
    epilog="Example: [bold]emotion-circuits paths runs/demo --emotion anger --dry-run[/]",
)(paths_command)


app.command(epilog="Example: [bold]emotion-circuits neurons runs/demo --models sev-nano[/]")(
    neurons
)


app.command(name="model-card", epilog="Example: [bold]emotion-circuits model-card[/]")(model_card)

app.command(
    name="score",
    epilog="Example: [bold]emotion-circuits score runs/demo --positions matched[/]",
)(score)

app.command(name="validate", epilog=VALIDATE_EXAMPLE)(validate_command)


app.command(
    name="control",
    epilog="Example: [bold]emotion-circuits control runs/demo --methods steer_plain,circuit[/]",
)(control)

app.command(
    name="say",
    epilog="Examples: [bold]emotion-circuits say 'I opened the cellar door' --emotion fear "
    "--strength 0.8[/] · [bold]emotion-circuits say 'It rains.' --circuit fear.json "
    "--emotion fear --mix sadness=0.5[/]",
)(say)


def main() -> None:
    """Entry point: errors of ours in one line, exit code 2; 130 after Ctrl-C."""
    # Threads that wait by spinning slow a small model twentyfold on a busy machine. It must be
    # said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = [word for word in ANYWHERE if word in sys.argv]
    sys.argv = [sys.argv[0], *given, *(word for word in sys.argv[1:] if word not in given)]
    try:
        with allowed(given):
            app()
    except Stopped as error:
        ERRORS.print(f"{error}\nto go on: {command_again()}", markup=False, highlight=False)
        raise SystemExit(130) from None
    except CircuitsError as error:
        if "--debug" in given:
            raise
        ERRORS.print(f"error: {' '.join(str(error).split())}", markup=False, highlight=False)
        raise SystemExit(2) from error
