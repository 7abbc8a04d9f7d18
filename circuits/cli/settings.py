"""``--set option=value``: any option of a plan, by its name."""

from collections.abc import Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from circuits.cli.options import budget, numbers, words
from circuits.errors import CircuitError, RunError
from circuits.graph.budget import Budget

__all__ = ["settings"]

_FLAGS = {"true": True, "false": False}
_PAIRS = tuple[tuple[str, float], ...]


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Options of a plan from texts such as ``diff_prompt=indented``.

    Raises:
        RunError: no option has the name, or the value is none of those that it takes.
    """
    from circuits.pipeline.plan import Plan

    kinds = {field.name: field.type for field in fields(Plan)}
    readable = {name: kind for name, kind in kinds.items() if _wanted(kind)}
    found: dict[str, Any] = {}
    for text in texts:
        name, mark, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not mark:
            raise RunError(f"--set: {text!r} sets nothing; write option=value")
        if name not in readable:
            raise RunError(f"--set: no option is called {name!r}; options are {_list(readable)}")
        try:
            found[name] = _read(readable[name], value)
        except (ValueError, KeyError, RunError, CircuitError) as error:
            wanted = _wanted(readable[name])
            raise RunError(f"--set {name}: found {value!r}; give {wanted}") from error
    return found


def _read(kind: Any, value: str) -> Any:
    """The value that the text stands for; raises ValueError or KeyError if there is none."""
    kind, optional = _without_none(kind)
    if optional and value == "none":
        return None
    if get_origin(kind) is Literal:
        return {word: word for word in get_args(kind)}[value]
    if kind == _PAIRS:
        return _strengths(value)
    if kind is Budget:
        return budget(value)
    if get_origin(kind) is tuple:
        return words(value) if get_args(kind)[0] is str else numbers(value, get_args(kind)[0], "")
    return _FLAGS[value] if kind is bool else kind(value)


def _strengths(value: str) -> tuple[tuple[str, float], ...]:
    pairs = [word.partition("=") for word in words(value)]
    if len(pairs) == 1 and not pairs[0][1]:
        return (("other", float(value)),)
    return tuple((name.strip(), float(number)) for name, _, number in pairs)


def _wanted(kind: Any) -> str:
    """What a text may say, in words; empty for kinds that no text stands for."""
    kind, optional = _without_none(kind)
    ending = " or none" if optional else ""
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind)) + ending
    if kind == _PAIRS:
        return f"a strength, or one for each emotion as in anger=0.8,other=1{ending}"
    if get_origin(kind) is tuple:
        return f"{_NAMES[get_args(kind)[0]]}s with commas between{ending}"
    return _NAMES[kind] + ending if kind in _NAMES else ""


_NAMES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "word",
    Budget: "two shares, of heads and of neurons, as in 0.10,0.02",
}


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    (own,) = [part for part in get_args(kind) if part is not type(None)]
    return own, True


def _list(names: Any) -> str:
    return ", ".join(sorted(names))
