"""The command that answers one text in an emotion."""

from pathlib import Path
from typing import Annotated

import typer

from circuits.cli.console import OUT, Bars
from circuits.errors import RunError

__all__ = ["say", "weights"]

_DEMO = Path("runs/demo")


_Circuit = Annotated[
    list[Path] | None,
    typer.Option(
        help="A circuit's JSON file or a file of hooks (.safetensors), instead of a run; "
        "several for a mixture."
    ),
]
_AnyRevision = Annotated[
    bool, typer.Option("--any-revision", help="Take files of other weights of the same sizes.")
]


def say(
    text: Annotated[str, typer.Argument(help="What the model is told.")],
    emotion: Annotated[str, typer.Option(help="Which emotion's circuit is written.")],
    strength: Annotated[
        float, typer.Option(help="1: the model's own difference; negative suppresses.")
    ] = 1.0,
    run: Annotated[
        Path | None, typer.Option(help="A run folder; runs/demo, which demo makes, by default.")
    ] = None,
    circuit: _Circuit = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(metavar="EMOTION[=STRENGTH]", help="Another emotion's circuit as well."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model of the files; by default the one that they name.")
    ] = None,
    any_revision: _AnyRevision = False,
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
    _check_alone(model, any_revision, circuit)
    wanted = weights(emotion, strength, mix or [])
    if max_new_tokens < 1:
        raise RunError(f"--max-new-tokens: {max_new_tokens} is too few; give 1 or more")
    from_run = Study(run or _DEMO) if not circuit else None
    voice = (
        voice_of_run(from_run)
        if from_run
        else voice_of_files(circuit or [], model, Bars(), any_revision=any_revision)
    )
    reply = answer(voice, text, wanted, max_new_tokens=max_new_tokens)
    OUT.print(reply, markup=False, highlight=False, soft_wrap=True)


def _check_alone(model: str | None, any_revision: bool, circuit: list[Path] | None) -> None:
    """Options that are for files only; a run has its own model."""
    given = {"--model": model is not None, "--any-revision": any_revision}
    for option in (name for name, said in given.items() if said and not circuit):
        raise RunError(f"{option}: a run has its own model; give {option} with --circuit only")


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
