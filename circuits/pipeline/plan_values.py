"""Values of a plan's options: out of texts and plain values of a file, checked, and back.

The kind of an option is the type of its field; there is no other list of what options take.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from circuits.assets import shipped
from circuits.errors import RunError
from circuits.files import exists, is_folder
from circuits.graph.budget import Budget
from circuits.model.loading import EMBEDDED as MODELS

__all__ = [
    "NONE",
    "SHIPPED",
    "Problem",
    "default_of",
    "of_text",
    "plain",
    "problems",
    "schema",
    "typed",
    "wanted",
]

NONE = "none"
"""What a text or a file says for an option that is not to be set."""
SHIPPED: Mapping[str, str] = {
    "data": "sev/train.jsonl",
    "test": "sev/test.jsonl",
    "hard": "sev/hard.jsonl",
}
"""Files that come with the package; ``shipped`` stands for them."""
JUDGES = ("judge", "second_judge")
"""Options that name a judge."""

_FLAGS = {"true": True, "false": False}
_PAIRS = tuple[tuple[str, float], ...]
_TEXTS = tuple[tuple[str, str], ...]
_NUMBERS = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}
_NAMES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "word",
    Path: "path of a file",
    Budget: "two shares, of heads and of neurons, as in 0.10,0.02",
}


@dataclass(frozen=True)
class Problem:
    """A value that an option does not take."""

    option: str
    inner: str
    """The key inside a table such as ``budget``; empty for the option itself."""
    found: Any
    give: str


def typed(name: str, kind: Any, value: Any, base: Path | None = None) -> Any:
    """The option's value for a plain one that :func:`problems` finds nothing wrong with.

    Args:
        name: The option.
        kind: Its type.
        value: What a file or :func:`of_text` gave.
        base: Folder to which relative paths belong; by default the current one.

    Raises:
        CircuitError: a budget is none.
        RunError: a number is too large to be one.
    """
    try:
        return _typed(name, kind, value, base)
    except OverflowError as error:
        raise RunError(f"{name}: found a number that is too large; give {wanted(kind)}") from error


def _typed(name: str, kind: Any, value: Any, base: Path | None) -> Any:
    own, optional = _without_none(kind)
    if value is None or (optional and value == NONE):
        return None
    if name in JUDGES:
        return _judge_at(value, base)
    if name == "model":
        near = (base or Path()) / value
        # What looks like a path is one; other words may be names on the hub.
        return str(near) if base and (is_folder(near) or value.startswith(".")) else value
    if own is Path:
        if value == "shipped" and name in SHIPPED:
            return shipped(SHIPPED[name])
        return (base or Path()) / value
    if own is Budget:
        # To a schema 1 is a number and 1.0 an integer.
        kinds: dict[str, Any] = {"min_per_layer": int}
        return Budget(**{key: kinds.get(key, float)(found) for key, found in value.items()})
    if own == _PAIRS:
        pairs = value.items() if isinstance(value, Mapping) else [("other", value)]
        return tuple((emotion, float(strength)) for emotion, strength in pairs)
    if own == _TEXTS:
        return tuple(value.items())
    if get_origin(own) is tuple:
        return tuple(get_args(own)[0](item) for item in value)
    return own(value) if own in (int, float) else value


def _judge_at(spec: str, base: Path | None) -> str:
    """The judge, with the path of its file where it has one beside the plan file."""
    kind, mark, rest = spec.partition(":")
    near = (base or Path()) / rest
    return f"{kind}{mark}{near}" if base and kind != "http" and rest and exists(near) else spec


def plain(name: str, kind: Any, value: Any) -> Any:
    """The value as JSON and TOML have it; :func:`typed` gives it back. Paths become absolute."""
    if name == "model":
        if is_folder(value):
            own = [own for own in MODELS if shipped(own) == Path(value)]
            return own[0] if own else str(Path(value).absolute())
        return value
    if isinstance(value, Path):
        if name in SHIPPED and value == shipped(SHIPPED[name]):
            return "shipped"
        return str(value.absolute())
    if isinstance(value, Budget):
        return asdict(value)
    if value is not None and _without_none(kind)[0] in (_PAIRS, _TEXTS):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def of_text(kind: Any, text: str) -> Any:
    """The plain value that a text stands for; the text itself where it stands for none."""
    own, optional = _without_none(kind)
    if optional and text == NONE:
        return NONE
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        if own is Budget:
            return dict(zip(("heads", "neurons"), map(float, words), strict=True))
        if own == _PAIRS:
            return _strengths(words)
        if own == _TEXTS:
            return dict(_pair(word) for word in words)
        if get_origin(own) is tuple:
            return [get_args(own)[0](word) for word in words]
        if own is bool:
            return _FLAGS[text]
        return own(text) if own in (int, float) else text
    except (ValueError, KeyError):
        return text


def _strengths(words: list[str]) -> float | dict[str, float]:
    pairs = [word.partition("=") for word in words]
    if len(pairs) == 1 and not pairs[0][1]:
        return float(pairs[0][0])
    return {name.strip(): float(number) for name, _, number in pairs}


def _pair(word: str) -> tuple[str, str]:
    name, mark, text = word.partition("=")
    if not mark:
        raise ValueError(word)
    return name.strip(), text.strip()


def schema(kind: Any) -> dict[str, Any]:
    """What an option of that type takes, as JSON Schema."""
    own, optional = _without_none(kind)
    if optional:
        return {"anyOf": [schema(own), {"const": NONE}]}
    if get_origin(own) is Literal:
        return {"enum": list(get_args(own))}
    if own == _PAIRS:
        number = {"type": "number"}
        return {"anyOf": [number, {"type": "object", "additionalProperties": number}]}
    if own == _TEXTS:
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if get_origin(own) is tuple:
        return {"type": "array", "items": schema(get_args(own)[0])}
    if own is Budget:
        inner = {field.name: schema(field.type) for field in fields(Budget)}
        return {"type": "object", "properties": inner, "additionalProperties": False}
    return {"type": _NUMBERS[own]}


def problems(kinds: Mapping[str, Any], values: Mapping[str, Any]) -> list[Problem]:
    """Values that their options do not take; all names must be options."""
    from jsonschema import Draft202012Validator

    found = []
    for name, value in values.items():
        if value is None and _without_none(kinds[name])[1]:
            continue
        for error in Draft202012Validator(schema(kinds[name])).iter_errors(value):
            inner = ".".join(str(part) for part in error.absolute_path if isinstance(part, str))
            give = wanted(kinds[name])
            if error.validator == "additionalProperties":
                give = f"{', '.join(error.schema['properties'])} in it"
            elif inner:
                give = wanted(_inner_kind(kinds[name], inner))
            found.append(Problem(name, inner, error.instance, give))
    return found


def wanted(kind: Any) -> str:
    """What an option takes, in words."""
    own, optional = _without_none(kind)
    ending = f" or {NONE}" if optional else ""
    if get_origin(own) is Literal:
        return ", ".join(get_args(own)) + ending
    if own == _PAIRS:
        return f"a strength, or one for each emotion as in anger=0.8,other=1{ending}"
    if own == _TEXTS:
        return f"a text for each as in envy=wanting what others have{ending}"
    if get_origin(own) is tuple:
        return f"{_NAMES[get_args(own)[0]]}s with commas between{ending}"
    return _NAMES[own] + ending


def default_of(field: "Field[Any]") -> Any:
    """The default of a field; MISSING if it has none."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _inner_kind(kind: Any, inner: str) -> Any:
    own, _ = _without_none(kind)
    kinds = {field.name: field.type for field in fields(Budget)} if own is Budget else {}
    return kinds.get(inner, str if own == _TEXTS else float)


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    (own,) = [part for part in get_args(kind) if part is not type(None)]
    return own, True
