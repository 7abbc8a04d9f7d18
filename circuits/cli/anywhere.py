"""Options of every command, accepted before and after its name."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Final

import typer

__all__ = ["ANYWHERE", "Debug", "Trust", "allowed"]

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code that comes with a model. It can do all that you can."
    ),
]

ANYWHERE: Final = ("--debug", "--trust-remote-code")


def allowed(given: Sequence[str]) -> AbstractContextManager[None]:
    """What the given options allow while a command is at work."""
    if "--trust-remote-code" not in given:
        return nullcontext()
    # Loaded here: the pipeline is heavy, and --help is to be quick.
    from circuits.pipeline.trust import trusting

    return trusting()
