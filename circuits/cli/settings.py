"""``--set option=value``, and the other options that were typed, as options of a plan."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuits.errors import RunError

if TYPE_CHECKING:
    import typer

__all__ = ["given_options", "settings"]

_TEXTS = ("emotions", "doses", "stable_layers", "budget")


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Options of a plan from texts such as ``diff_prompt=indented``.

    Raises:
        RunError: no option has the name, or the value is none of those that it takes.
    """
    from circuits.pipeline.plan_files import option_of_text

    found: dict[str, Any] = {}
    for text in texts:
        name, mark, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not mark:
            raise RunError(f"--set: {text!r} sets nothing; write option=value")
        try:
            found[name] = option_of_text(name, value)
        except RunError as error:
            before = " " if str(error).startswith(f"{name}:") else ": "
            raise RunError(f"--set{before}{error}") from error
    return found


def given_options(context: "typer.Context", names: Sequence[str]) -> dict[str, Any]:
    """Those of the named options that were typed, not left at their defaults.

    Raises:
        RunError: a list or a budget cannot be read.
    """
    from circuits.pipeline.plan_files import option_of_text

    found: dict[str, Any] = {}
    for name in names:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if name in _TEXTS:
            try:
                value = option_of_text(name, value)
            except RunError as error:
                raise RunError(f"--{str(error).replace('_', '-', 1)}") from error
        found[name] = value
    return found
