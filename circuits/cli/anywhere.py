"""Options of every command, accepted before and after its name."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Final

import typer

__all__ = ["ANYWHERE", "Debug", "TrustCode", "TrustJudge", "allowed"]

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

ANYWHERE: Final = ("--debug", "--trust-remote-code", "--trust-judge")


def allowed(given: Sequence[str]) -> AbstractContextManager[None]:
    """What the given options allow while a command is at work."""
    if not {"--trust-remote-code", "--trust-judge"} & {*given}:
        return nullcontext()
    # Loaded here: the pipeline is heavy, and --help is to be quick.
    from circuits.pipeline.trust import trusting

    code = ("code",) if "--trust-remote-code" in given else ()
    judge = ("judge",) if "--trust-judge" in given else ()
    return trusting(*code, *judge)
