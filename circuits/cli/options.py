"""Options that commands share, and options that are made from the fields of a plan."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich import box
from rich.table import Table
from typer.core import TyperCommand

from circuits.cli.console import OUT
from circuits.errors import RunError

if TYPE_CHECKING:
    from circuits.runs.plan import Stage

__all__ = [
    "ANYWHERE",
    "Debug",
    "Engine",
    "Out",
    "PlanOption",
    "RayAddress",
    "Settings",
    "SomeEmotions",
    "TrustCode",
    "TrustJudge",
    "Workers",
    "allowed",
    "checked_stages",
    "given",
    "options_of",
    "settings",
    "words",
]

PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan file (TOML); command-line options override it."),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="The same as --OPTION VALUE. May be given several times.",
    ),
]
Engine = Annotated[
    Literal["here", "ray"],
    typer.Option(help="Do the work in this process, or on Ray workers (extra 'ray')."),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Ray workers; by default one per GPU, or without GPUs one per core."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="A Ray cluster to join, such as auto; by default one is started here."),
]
SomeEmotions = Annotated[str, typer.Option(help="Emotions, comma-separated; all by default.")]


def options_of(model: str, *only: str) -> type[TyperCommand]:
    """A command with an option for each field of a model, for those that it does not have itself.

    The model is loaded when the command is at work or explains itself: it is heavy, and the help
    of all commands is to be quick.

    Args:
        model: Module and name of a dataclass of pydantic.
        only: Some of its fields; all by default.
    """

    class Command(TyperCommand):
        context_class = typer.Context

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if "--help" in args:
                return super().parse_args(ctx, args)
            ctx.meta["given"], rest = self._split(args)
            return super().parse_args(ctx, rest)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            said = Table(title="Options of the plan", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            said.add_column("option", no_wrap=True)
            said.add_column("what it means")
            for name, text in self.plan_options().items():
                said.add_row(f"--{name.replace('_', '-')}", text)
            OUT.print(said)

        def plan_options(self) -> dict[str, str]:
            """Field -> what it means, of the options that are typed as --FIELD VALUE."""
            from circuits.runs.plan import meanings

            module, _, name = model.partition(":")
            found = meanings(getattr(import_module(module), name))
            own = {opt[2:].replace("-", "_") for param in self.params for opt in param.opts}
            left_out = own | {"trust_remote_code", "judges_of_file"}
            return {n: said for n, said in found.items() if n in (only or {*found} - left_out)}

        def _split(self, args: list[str]) -> tuple[dict[str, str], list[str]]:
            from circuits.runs.plan import no_option

            options, found, rest, place = self.plan_options(), dict[str, str](), list[str](), 0
            own = [opt for param in self.params for opt in param.opts]
            while place < len(args):
                option, mark, value = args[place].partition("=")
                name, place = option[2:].replace("-", "_"), place + 1
                if not option.startswith("--") or option in own or option == "--":
                    rest.append(args[place - 1])
                    if option in own and not mark and not self._is_flag(option):
                        rest += args[place : place + 1]
                        place += 1
                    continue
                if name not in options:
                    known = [*options, *(opt[2:] for opt in own)]
                    raise RunError(f"{option}: {no_option(name, known)}")
                if not mark:
                    if place == len(args) or args[place].startswith("--"):
                        raise RunError(f"{option}: no value; give {option} VALUE: {options[name]}")
                    value, place = args[place], place + 1
                found[name] = value
            return found, rest

        def _is_flag(self, option: str) -> bool:
            return any(option in p.opts and getattr(p, "is_flag", False) for p in self.params)

    return Command


def given(context: typer.Context) -> dict[str, str]:
    """Field -> text, of the options that :func:`options_of` made and that were typed."""
    return context.meta["given"]


def words(text: str) -> tuple[str, ...]:
    """Comma-separated words.

    >>> words("anger, fear")
    ('anger', 'fear')
    """
    return tuple(word.strip() for word in text.split(",") if word.strip())


def checked_stages(text: str) -> "tuple[Stage, ...]":
    """Comma-separated stages; all of them for an empty text.

    Raises:
        RunError: a stage is unknown.
    """
    from circuits.runs.plan import STAGES, no_stage

    wanted = words(text) or STAGES
    for word in wanted:
        if word not in STAGES:
            raise RunError(f"--stages: {no_stage(word)}")
    return tuple(stage for stage in STAGES if stage in wanted)


def settings(texts: Sequence[str]) -> dict[str, str]:
    """Options of a plan from texts such as ``diff_prompt=indented``.

    Raises:
        RunError: a text sets nothing.
    """
    pairs = [[part.strip() for part in text.partition("=")] for text in texts]
    for text, (_, mark, _) in zip(texts, pairs, strict=True):
        if not mark:
            raise RunError(f"--set: {text!r} sets nothing; write option=value")
    return {name.replace("-", "_"): value for name, _, value in pairs}


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
    from circuits.runs.plan import trusting

    code = ("code",) if "--trust-remote-code" in given else ()
    judge = ("judge",) if "--trust-judge" in given else ()
    return trusting(*code, *judge)
