"""Plan files: a run described in TOML, checked before anything is loaded or made."""

import ast
import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from circuits.errors import CircuitError, CircuitsError, RunError
from circuits.files import read_text, shipped
from circuits.published.quirks import PRESETS
from circuits.runs import plan as plan_module
from circuits.runs.plan import (
    JUDGES,
    NONE,
    SHIPPED,
    Plan,
    Problem,
    check_judges,
    default_of,
    of_text,
    plain,
    problems,
    schema,
    typed,
    wanted,
)

__all__ = [
    "PLAN_FILE",
    "PlanFile",
    "make_plan",
    "meanings",
    "option_of_text",
    "plan_schema",
    "plan_toml",
    "read_plan",
    "template",
    "values_toml",
]

PLAN_FILE: Final = "plan.toml"
"""In every run folder: the plan that makes the same run again."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def plan_toml(plan: Plan) -> str:
    """The whole plan, commented; `run --plan FILE --out NEW` makes the same run again."""
    return values_toml(plan.to_json())


def values_toml(values: Mapping[str, Any]) -> str:
    """Plain values of options as TOML, each below what its option means."""
    return "\n".join(_option(name, value) for name, value in values.items())


@cache
def meanings() -> Mapping[str, str]:
    """Option, and ``out`` -> what it means, in a line: the text below its field."""
    tree = ast.parse(Path(plan_module.__file__).read_text(encoding="utf-8"))
    (own,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Plan"]
    options = {*Plan.kinds(), "out"}
    return {name: said for name, said in _documented(own.body) if name in options}


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node, below in zip(body, body[1:], strict=False):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield node.target.id, " ".join(str(below.value.value).replace("``", "").split())


def _option(name: str, value: Any) -> str:
    kind = Plan.kinds().get(name)
    takes = f" Takes {wanted(kind)}." if "Literal" in str(kind) else ""
    said = textwrap.fill(f"{meanings()[name]}{takes}", 96, break_long_words=False)
    return f"{textwrap.indent(said, '# ')}\n{name} = {_value(value)}\n"


def _value(value: Any) -> str:
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else _text(str(value))


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(words: str) -> str:
    return json.dumps(words, ensure_ascii=False).replace("\x7f", "\\u007f")


_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
_OWN = ("preset", "out")
"""Keys of a file that are no options of the plan."""
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")


class PlanFile:
    """The options that a file gives, checked.

    Args:
        path: The file; relative paths in it belong to its folder.

    Raises:
        DataError: the file cannot be read.
        RunError: it is no TOML, or an option is unknown or does not take its value; names the
            file, the line, the option, what was found and what it takes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = read_text(path)
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path}: no TOML: {error}") from error
        self.lines = dict(reversed(list(_lines(text))))
        values = {name.replace("-", "_"): value for name, value in values.items()}
        _check_names(values, self)
        kinds = {**Plan.kinds(), "out": Path}
        self.preset = str(values.pop("preset", "default"))
        if self.preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise RunError(f"{self.place('preset')}: found {self.preset!r}; give {known}")
        for problem in problems(kinds, values):
            raise RunError(f"{self.place(problem.option, problem.inner)}: {_said(problem)}")
        self.values: dict[str, Any] = {}
        for name, value in values.items():
            with self.naming():
                self.values[name] = typed(name, kinds[name], value, path.absolute().parent)

    def place(self, option: str, inner: str = "") -> str:
        """``plan.toml, line 12, budget.heads``."""
        keys = [f"{option}.{inner}", option] if inner else [option]
        line = next((self.lines[key] for key in keys if key in self.lines), None)
        return f"{self.path}{f', line {line}' if line else ''}: {keys[0]}"

    @contextmanager
    def naming(self, given: Collection[str] = ()) -> Iterator[None]:
        """Put the file, and the line if an option of it is to blame, before an error.

        Errors of options that were ``given`` beside the file stay as they are.
        """
        try:
            yield
        except CircuitsError as error:
            named = re.match(r"(?:--)?([\w-]+):", str(error))
            option = named[1].replace("-", "_") if named else ""
            if option in given:
                raise
            line = f", line {self.lines[option]}" if option in self.lines else ""
            raise type(error)(f"{self.path}{line}: {error}") from error


def read_plan(
    path: Path | None, given: Mapping[str, Any] | None = None, preset: str | None = None
) -> Plan:
    """The plan that a file and the options beside it describe.

    Args:
        path: A plan file; options alone without one.
        given: Options that go before those of the file.
        preset: Goes before the file's; what the file says itself goes before a preset.

    Raises:
        DataError: the file cannot be read.
        RunError: an option is unknown, missing, or does not take its value.
    """
    file = PlanFile(path) if path else None
    values = {
        **PRESETS[preset or (file.preset if file else "default")],
        **(file.values if file else {}),
        **(given or {}),
    }
    if file is None:
        return make_plan(values)
    named = tuple(name for name in JUDGES if name in file.values and name not in (given or {}))
    with file.naming(given or ()):
        return replace(make_plan(values), judges_of_file=named)


def make_plan(values: Mapping[str, Any]) -> Plan:
    """A plan of these options; scenarios that are not given are the shipped ones.

    Raises:
        RunError: there is no model or no folder, or a value makes no sense.
        JudgeError: there is no such judge.
    """
    for name, what in (("model", "the model that is run"), ("out", "the folder for the results")):
        if values.get(name) is None:
            raise RunError(f"{name}: not given; give --{name}, {what}")
    own = dict(values)
    if "test" not in own:
        own.setdefault("hard", shipped(SHIPPED["hard"]))  # own ones come without harder ones
    for name in ("data", "test"):
        own.setdefault(name, shipped(SHIPPED[name]))
    plan = Plan(**own)
    check_judges(plan)
    return plan


def option_of_text(name: str, text: str) -> Any:
    """The value of an option that a text stands for.

    Raises:
        RunError: no option has the name, or the text is none of those that it takes.
    """
    kinds = Plan.kinds()
    if name not in kinds:
        raise RunError(f"{_no_option(name, kinds)}; options are {', '.join(sorted(kinds))}")
    value = of_text(kinds[name], text)
    try:
        if problems(kinds, {name: value}):
            raise RunError(f"{name}: found {text!r}; give {wanted(kinds[name])}")
        return typed(name, kinds[name], value)
    except CircuitError as error:
        raise RunError(f"{name}: found {text!r}; give {wanted(kinds[name])}") from error


def plan_schema() -> dict[str, Any]:
    """JSON Schema of plan files, made from the fields of :class:`Plan`."""
    options: dict[str, Any] = {"preset": {"enum": list(PRESETS), "default": "default"}}
    for name, kind in {**Plan.kinds(), "out": Path}.items():
        options[name] = {**schema(kind), "description": meanings()[name]}
    for name, value in _defaults().items():
        options[name]["default"] = "none" if value is None else value
    return {
        "$schema": _SCHEMA,
        "title": "Plan of a run of emotion-circuits",
        "type": "object",
        "properties": options,
        "additionalProperties": False,
    }


def template() -> str:
    """A plan file with every option at its default, commented; of the embedded model."""
    head = "# A run: `emotion-circuits run --plan FILE --out FOLDER`.\n"
    head += "# Relative paths belong to this file's folder. What is left out has its default.\n"
    return f"{head}\n{values_toml({'model': 'sev-mini', **_defaults()})}"


def _defaults() -> dict[str, Any]:
    kinds = {own.name: own for own in fields(Plan) if own.name in Plan.kinds()}
    values = {name: default_of(own) for name, own in kinds.items()}
    found = {n: plain(n, kinds[n].type, v) for n, v in values.items() if v is not MISSING}
    order = {**dict.fromkeys(kinds), **found, **dict.fromkeys(SHIPPED, "shipped")}
    return {name: value for name, value in order.items() if name != "model"}


def _check_names(values: Mapping[str, Any], file: PlanFile) -> None:
    known = (*Plan.kinds(), *_OWN)
    for name in values:
        if name not in known:
            line = file.lines.get(name)
            where = f"{file.path}, line {line}" if line else str(file.path)
            raise RunError(
                f"{where}: {_no_option(name, known)}; `emotion-circuits plan` shows all options"
            )


def _no_option(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"no option is called {name!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _said(problem: Problem) -> str:
    found = repr(problem.found)
    return f"found {found if len(found) <= 80 else f'{found[:77]}...'}; give {problem.give}"


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Option, or option and inner key, and the line on which it is given."""
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if found := _TABLE.match(line):
            table = _dotted(found[1])
            yield table, number
        elif found := _KEY.match(line):
            own = _dotted(found[1])
            yield (f"{table}.{own}" if table else own), number
            yield (table or own.partition(".")[0]), number


def _dotted(keys: str) -> str:
    first, mark, rest = keys.partition(".")
    inner = rest.strip().strip("\"'")
    return first.strip().strip("\"'").replace("-", "_") + mark + inner
