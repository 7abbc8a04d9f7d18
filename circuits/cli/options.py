"""Options that commands share, and options that are made from the fields of a plan."""

from collections.abc import Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.table import Table
from typer.core import TyperCommand

from circuits.cli.console import OUT
from circuits.errors import RunError

if TYPE_CHECKING:
    from circuits.runs.plan import Stage

__all__ = [
    "Engine",
    "Out",
    "PlanOption",
    "RayAddress",
    "RunFolder",
    "Settings",
    "SomeEmotions",
    "Workers",
    "checked_stages",
    "given",
    "options_of",
    "settings",
    "words",
]

RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
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
            if "--help" not in args:
                ctx.meta["given"], args = self._split(args)
            return super().parse_args(ctx, args)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            said = Table(title="Options of the plan", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            said.add_column("option", no_wrap=True)
            said.add_column("what it means")
            for name, text in self.plan_options().items():
                said.add_row(_typed(name), text)
            OUT.print(said)

        def plan_options(self) -> dict[str, str]:
            """Field -> what it means, of the options that are typed as --FIELD VALUE."""
            from circuits.runs.plan import meanings

            module, _, name = model.partition(":")
            found = meanings(getattr(import_module(module), name))
            own = {opt for param in self.params for opt in param.opts}
            left_out = {"--trust-remote-code", "--judges-of-file", *own}
            wanted = only or [name for name in found if _typed(name) not in left_out]
            return {name: said for name, said in found.items() if name in wanted}

        def _split(self, args: list[str]) -> tuple[dict[str, str], list[str]]:
            from circuits.runs.plan import no_option

            options = {_typed(name): name for name in self.plan_options()}
            own = {opt: not getattr(p, "is_flag", False) for p in self.params for opt in p.opts}
            found, rest, typed = dict[str, str](), list[str](), iter(args)
            for word in typed:
                option, mark, value = word.partition("=")
                if not option.startswith("--") or option in own or option == "--":
                    rest += [word, *(islice(typed, 1) if own.get(option) and not mark else ())]
                    continue
                name = options.get(option)
                if name is None:
                    known = [opt[2:].replace("-", "_") for opt in (*options, *own)]
                    raise RunError(f"{option}: {no_option(option[2:].replace('-', '_'), known)}")
                value = value if mark else next(typed, "--")
                if not mark and value.startswith("--"):
                    told = self.plan_options()[name]
                    raise RunError(f"{option}: no value; give {option} VALUE: {told}")
                found[name] = value
            return found, rest

    return Command


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def given(context: typer.Context) -> dict[str, Any]:
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
    found = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark:
            raise RunError(f"--set: {text!r} sets nothing; write option=value")
        found[name.strip().replace("-", "_")] = value.strip()
    return found
