"""A self-contained HTML page: a template filled with tables, figures and the code that draws them.

Nothing on a page asks a network for anything, and its content security policy forbids it:
only the page's own scripts run, named by their digests, so that no text of a data set or a
model can become code.
"""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from circuits.pages import allowed, data_text, packaged, script_text, template

__all__ = ["render"]

_HERE = "circuits.report"


def render(page: str, figures: Mapping[str, go.Figure], words: Mapping[str, Any]) -> str:
    """What the template ``page`` makes of figures and words."""
    scripts = [script_text(get_plotlyjs()), script_text(packaged(_HERE, "report.js"))]
    return template(_HERE, page).render(
        policy=_policy(scripts),
        style=Markup(packaged(_HERE, "report.css")),
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
