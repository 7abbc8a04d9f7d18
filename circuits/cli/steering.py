"""The commands that steer: compare methods, validate components, answer a text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from circuits.cli.console import OUT, Bars, accuracy_table, finishing_batches, number, table_of
from circuits.cli.options import Engine, RayAddress, RunFolder, Workers, given
from circuits.errors import RunError

__all__ = ["say", "side_effects_table", "steer", "validate", "weights"]


def steer(context: typer.Context, run: RunFolder) -> None:
    """Compare all ways to an emotion on the test contexts: what each reaches, and its side effects.

    Writes steering.json, steering_replies.jsonl and the report. What is not given stays as the
    run's plan has it.
    """
    from circuits.runs.folder import Study
    from circuits.runs.stages import run as carry_out
    from circuits.runs.work import plan_of

    plan = plan_of(Study(run)).asking(given(context))
    with finishing_batches():
        study = carry_out(plan, stages=["steering", "report"], reporter=Bars())
    OUT.print(accuracy_table(study.steering))
    OUT.print(side_effects_table(study.steering))
    OUT.print(f"\nreport: {(study.folder / 'report.html').resolve()}", soft_wrap=True)


def side_effects_table(found: Mapping[str, Any]) -> Table:
    """What every method cost, and what the second judge found."""
    title = "Expression by both judges (%) and its side effects"
    numbers = ("all", "second", "kappa", "opposing", "hard", "ratio", "repet.", "topic")
    table = table_of(title, ["method"], numbers)
    hard = found.get("hard") or {}
    for method, own in {**found["methods"], **found["baselines"]}.items():
        table.add_row(
            method.replace("_", " "),
            number(own["overall"]),
            number(own["second_judge"]),
            number(own["kappa"], 3),
            number(own["opposing"]["overall"]),
            number(hard.get(method, {}).get("overall")),
            number(own["perplexity_ratio"], 2),
            number(own["repetition"], 4),
            number(own["topic_kept"]),
        )
    return table


def validate(
    context: typer.Context,
    run: RunFolder,
    engine: Engine = "here",
    workers: Workers = None,
    ray_address: RayAddress = None,
) -> None:
    """Ablate and add to the strongest heads and neurons, and ablate the circuits where asked.

    Measured on test contexts beside the weakest components and random ones.
    """
    from circuits.runs.folder import Study
    from circuits.runs.report import refresh_report
    from circuits.runs.stages import at_work
    from circuits.runs.steering import ValidationOptions, read_validation
    from circuits.runs.steering import validate as carry_out

    options = ValidationOptions(**given(context))  # type: ignore[arg-type]
    with finishing_batches(), at_work(engine, workers, ray_address):
        place, study = carry_out(run, options, Bars()), Study(run)
    OUT.print(_drop_table(read_validation(study)[2]))
    OUT.print(f"\nvalidation: {place.resolve()}", soft_wrap=True)
    if refresh_report(study):
        OUT.print(f"report: {(run / 'report.html').resolve()}", soft_wrap=True)


def _drop_table(found: Mapping[str, Any]) -> Table:
    title = "Points of judged expression lost when it is asked for and ablated"
    numbers = ("circuit", "95% interval", "random sets", "largest of them")
    table = table_of(title, ["emotion"], numbers)
    for emotion, own in {"all": found, **found["by_emotion"]}.items():
        table.add_row(
            emotion,
            f"{own['circuit_drop']:.1f}",
            f"{own['low']:.1f} to {own['high']:.1f}",
            f"{own['random_drop']:.1f}",
            f"{own['random_max']:.1f}",
        )
    return table


def say(
    text: Annotated[str, typer.Argument(help="What the model is told.")],
    emotion: Annotated[str, typer.Option(help="Which emotion's circuit is written.")],
    strength: Annotated[
        float, typer.Option(help="1: the model's own difference; negative suppresses.")
    ] = 1.0,
    run: Annotated[
        Path | None, typer.Option(help="A run folder; runs/demo, which demo makes, by default.")
    ] = None,
    circuit: Annotated[
        list[Path] | None,
        typer.Option(
            help="A circuit's JSON file or a file of hooks (.safetensors), instead of a run; "
            "several for a mixture."
        ),
    ] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(metavar="EMOTION[=STRENGTH]", help="Another emotion's circuit as well."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model of the files; by default the one that they name.")
    ] = None,
    any_revision: Annotated[
        bool, typer.Option("--any-revision", help="Take files of other weights of the same sizes.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest reply.")] = 100,
) -> None:
    """Answer one text, with the emotion steered in the model and not asked for in the prompt.

    A circuit's file names parts, not what they do: their differences are measured once, on shipped
    contexts, and kept in the user's cache folder.
    """
    from circuits.runs.folder import Study
    from circuits.runs.steering import generator_of_files, generator_of_run
    from circuits.runs.steering import say as answer

    if run is not None and circuit:
        raise RunError("--run and --circuit: give a run's circuits or files, not both")
    for_files = {"--model": model is not None, "--any-revision": any_revision}
    for option in (name for name, said in for_files.items() if said and not circuit):
        raise RunError(f"{option}: a run has its own model; give {option} with --circuit only")
    wanted = weights(emotion, strength, mix or [])
    if max_new_tokens < 1:
        raise RunError(f"--max-new-tokens: {max_new_tokens} is too few; give 1 or more")
    if circuit:
        generator = generator_of_files(circuit, model, Bars(), any_revision=any_revision)
    else:
        generator = generator_of_run(Study(run or Path("runs/demo")))
    reply = answer(generator, text, wanted, max_new_tokens=max_new_tokens)
    OUT.print(reply, soft_wrap=True)


def weights(emotion: str, strength: float, mix: list[str]) -> dict[str, float]:
    """Emotion -> strength of what is written.

    Raises:
        RunError: a strength is no number, or an emotion is named twice.

    >>> weights("fear", 0.8, ["sadness=0.5", "anger"])
    {'fear': 0.8, 'sadness': 0.5, 'anger': 0.8}
    """
    found = {emotion: strength}
    for word in mix:
        name, mark, value = (part.strip() for part in word.partition("="))
        if name in found or not name:
            raise RunError(f"--mix: {word!r} names no further emotion; write sadness=0.5")
        try:
            found[name] = float(value) if mark else strength
        except ValueError as error:
            raise RunError(f"--mix: {value!r} is no number; write {name}=0.5") from error
    return found
