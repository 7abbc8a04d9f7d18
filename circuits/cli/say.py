"""The command that answers one text in an emotion."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.console import OUT, Bars
from circuits.errors import RunError

__all__ = ["say", "weights"]

_DEMO = Path("runs/demo")


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
    max_new_tokens: Annotated[int, typer.Option(help="Longest reply.")] = 100,
) -> None:
    """Answer one text, the emotion written into the model and not into the prompt.

    A circuit's file names parts, not what they do: their differences are measured once, on shipped
    contexts, and kept in the user's cache folder.
    """
    from circuits.pipeline.saying import say as answer
    from circuits.pipeline.saying import voice_of_files, voice_of_run
    from circuits.pipeline.study import Study

    if run is not None and circuit:
        raise RunError("--run and --circuit: give a run's circuits or files, not both")
    if model is not None and not circuit:
        raise RunError("--model: a run has its own model; give --model with --circuit only")
    wanted = weights(emotion, strength, mix or [])
    if max_new_tokens < 1:
        raise RunError(f"--max-new-tokens: {max_new_tokens} is too few; give 1 or more")
    from_run = Study(run or _DEMO) if not circuit else None
    voice = voice_of_run(from_run) if from_run else voice_of_files(circuit or [], model, Bars())
    reply = answer(voice, text, wanted, max_new_tokens=max_new_tokens)
    OUT.print(reply, markup=False, highlight=False, soft_wrap=True)


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
