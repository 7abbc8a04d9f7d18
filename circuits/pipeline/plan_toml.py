"""A plan as TOML text, every option with what it means."""

import ast
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from circuits.pipeline import plan as plan_module
from circuits.pipeline.plan import Plan
from circuits.pipeline.plan_values import NONE, wanted

__all__ = ["PLAN_FILE", "meanings", "plan_toml", "values_toml"]

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
