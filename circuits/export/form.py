"""Does JSON have the form of a saved circuit? And if not: where, what was found, what to do.

The form is the JSON Schema that ships with the package. What a schema cannot say, such as that
every edge ends in a node, :class:`~circuits.graph.circuit.Circuit` checks.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from circuits.assets import shipped
from circuits.errors import DataError
from circuits.files import read_json
from circuits.graph.circuit import FORMAT

__all__ = ["check_form", "check_form_of", "check_values"]

Steps = Sequence[str | int]


def check_form(values: Any) -> None:
    """Check the format's version, the single values, and the schema.

    Raises:
        DataError: the first thing that is wrong, with its JSON path (``nodes[3].layer``).
    """
    _check_version(values)
    check_form_of(values, "circuit.schema.json")


def check_form_of(values: Any, schema: str) -> None:
    """Check the single values, and the schema that ships with the package under this name.

    Raises:
        DataError: the first thing that is wrong, with its JSON path.
    """
    check_values(values)
    error = best_match(_validator(schema).iter_errors(values))
    if error is not None:
        raise DataError(_explain(error, values))


def check_values(values: Any) -> None:
    """Check that every number is finite and every value one that JSON can hold.

    Raises:
        DataError: the first value that is not, with its JSON path.
    """
    for path, value in _leaves(values):
        wrong = _wrong(value)
        if wrong is not None:
            raise DataError(f"{_spell(path, values)} is {wrong}")


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(read_json(shipped(schema)))


def _check_version(values: Any) -> None:
    if not isinstance(values, dict):
        raise DataError(f"expected a circuit, found {_found(values)}; give a file in {FORMAT} form")
    found = values.get("format")
    if found == FORMAT:
        return
    name = FORMAT.split("/")[0]
    if isinstance(found, str) and found.startswith(f"{name}/"):
        raise DataError(
            f"format {found!r} is not the version that is read here, {FORMAT!r}; read it with "
            "the version of emotion-circuits that wrote it, or update this one"
        )
    raise DataError(
        f"format is {_found(found)}, not {FORMAT!r}; this is no saved circuit"
        if "format" in values
        else f"'format' is missing; this is no saved circuit, which says {FORMAT!r} there"
    )


def _leaves(values: Any) -> Iterator[tuple[Steps, Any]]:
    # A stack instead of recursion: the options of a provenance may be nested to any depth.
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), values)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [((*path, key), inner) for key, inner in reversed(value.items())]
            yield from ((path, key) for key in value)
        elif isinstance(value, list):
            waiting += [((*path, i), value[i]) for i in reversed(range(len(value)))]
        else:
            yield path, value


def _wrong(value: Any) -> str | None:
    """What keeps a value out of a file that every JSON reader accepts."""
    if isinstance(value, str):
        # Only an unpaired surrogate cannot be encoded.
        whole = value.isascii() or value.encode(errors="ignore").decode() == value
        return None if whole else f"{value!r}, which UTF-8 cannot hold; remove the lone surrogate"
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int | float):
        return f"a {type(value).__name__}, which JSON cannot hold; make it a number or a text"
    try:
        finite = math.isfinite(value)
    except OverflowError:
        return "too large a number; write one below 1e308"
    return None if finite else f"{value}, not a finite number; leave out what was not measured"


def _explain(error: ValidationError, values: Any) -> str:
    instance: Any = error.instance
    where, found = _spell(list(error.absolute_path), values), _found(instance)
    rule: Any = error.validator_value
    schema: Any = error.schema
    meaning = schema.get("description") if isinstance(schema, dict) else None
    match error.validator:
        case "required":
            text = f"lacks {_listed(name for name in rule if name not in instance)}; add it"
            meaning = None
        case "additionalProperties":
            known = schema["properties"]
            extra = _listed(name for name in instance if name not in known)
            text = f"has {extra}, which the form lacks; remove it. Fields are {_listed(known)}"
            meaning = None
        case "enum":
            text = f"is {found}; write one of {_listed(rule)}"
        case "const":
            text = f"is {found}; write {json.dumps(rule)}"
        case "type":
            text = f"is {found}; write {_article(rule)}"
        case "minimum":
            text = f"is {found}; write a number of at least {rule}"
        case "maximum":
            text = f"is {found}; write a number of at most {rule}"
        case "pattern":
            text = f"is {found}, which does not have the right form"
        case "not":
            # In this schema: a field that the kind of the node or edge rules out.
            text = f"is {found} but must be absent; remove it"
        case _:
            text = error.message
    return f"{where} {text}" + (f". {meaning}" if meaning else "")


def _spell(path: Steps, values: Any) -> str:
    """``nodes[3].layer (node 'L3H5')``: a JSON path and the node or edge that it lies in."""
    text = ""
    for part in path:
        if isinstance(part, str) and part.isidentifier():
            text += f".{part}"
        else:
            text += f"[{part!r}]"
    text = text.removeprefix(".") or "the circuit"
    if len(path) < 2 or path[0] not in ("nodes", "edges") or not isinstance(path[1], int):
        return text
    own = values[path[0]][path[1]]
    if not isinstance(own, dict):
        return text
    if path[0] == "nodes":
        return f"{text} (node {_found(own.get('id'))})"
    return f"{text} (edge {_found(own.get('source'))} -> {_found(own.get('target'))})"


def _found(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None:
        return "null"
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)


def _article(kind: str) -> str:
    return f"an {kind}" if re.match("[aeiou]", kind) else f"a {kind}"
