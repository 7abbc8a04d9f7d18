"""The explorer's page: one file that asks nobody for anything.

Its scripts are plain files that share one scope, in the order of :data:`SCRIPTS`; each holds one
idea and names what it offers.
"""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from circuits.pages import allowed, data_text, script_text

__all__ = ["POLICY", "SCRIPTS", "explorer_page"]

SCRIPTS: Final = (
    "dom", "data", "state", "theme", "layout", "marks", "draw", "camera", "charts", "attention",
    "edges", "panel", "summary", "search", "save", "controls", "keyboard", "legend", "main",
)  # fmt: skip
"""Names of the files in ``js/``."""

POLICY: Final = (
    "default-src 'none'; script-src {scripts}; style-src {styles}; img-src data: blob:; "
    "connect-src 'none'; base-uri 'none'; form-action 'none'"
)


def explorer_page(document: Mapping[str, Any]) -> str:
    """The page that shows a document."""
    script = script_text("\n".join(_packaged(f"js/{name}.js") for name in SCRIPTS))
    style = _packaged("explorer.css")
    environment = Environment(
        loader=FunctionLoader(_packaged),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return environment.get_template("explorer.html.j2").render(
        title=document["title"],
        policy=POLICY.format(scripts=allowed([script]), styles=allowed([style])),
        style=Markup(style),
        script=Markup(script),
        data=Markup(data_text(data)),
    )


def _packaged(name: str) -> str:
    return resources.files("circuits.explorer").joinpath(name).read_text(encoding="utf-8")
