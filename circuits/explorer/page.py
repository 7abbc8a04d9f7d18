"""The explorer's page: one file that asks nobody for anything.

Its scripts are plain files that share one scope, in the order of :data:`SCRIPTS`; each holds one
idea and names what it offers.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

from circuits.pages import allowed, data_text, packaged, script_text, template

__all__ = ["POLICY", "SCRIPTS", "explorer_page"]

_HERE = "circuits.explorer"

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
    script = script_text("\n".join(packaged(_HERE, f"js/{name}.js") for name in SCRIPTS))
    style = packaged(_HERE, "explorer.css")
    data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return template(_HERE, "explorer.html.j2").render(
        title=document["title"],
        policy=POLICY.format(scripts=allowed([script]), styles=allowed([style])),
        style=Markup(style),
        script=Markup(script),
        data=Markup(data_text(data)),
    )
