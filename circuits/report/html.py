"""A self-contained HTML page: a template filled with tables, figures and the code that draws them.

Nothing on a page asks a network for anything, and its content security policy forbids it:
only the page's own scripts run, named by their digests, so that no text of a data set or a
model can become code.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from circuits.pages import allowed, data_text, script_text

__all__ = ["render"]


def render(template: str, figures: Mapping[str, go.Figure], words: Mapping[str, Any]) -> str:
    """The page that ``template`` makes of figures and words."""
    environment = Environment(
        loader=FunctionLoader(_packaged),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [script_text(get_plotlyjs()), script_text(_packaged("report.js"))]
    return environment.get_template(template).render(
        policy=_policy(scripts),
        style=Markup(_packaged("report.css")),
        plotly=Markup(scripts[0]),
        script=Markup(scripts[1]),
        figures={name: _embedded(figure) for name, figure in figures.items()},
        **words,
    )


def _embedded(figure: go.Figure) -> Markup:
    return Markup(data_text(figure.to_json() or "{}"))


def _policy(scripts: list[str]) -> str:
    # Plotly writes style attributes, and saves pictures by way of data: and blob: addresses.
    return (
        f"default-src 'none'; script-src {allowed(scripts)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _packaged(name: str) -> str:
    return resources.files("circuits.report").joinpath(name).read_text(encoding="utf-8")
