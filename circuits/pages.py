"""What a page that opens without a network is made of: scripts, data, and a policy that holds it.

Nothing on a page asks a network for anything, and its content security policy forbids it:
only the page's own scripts run, named by their digests, so that no text of a data set or a
model can become code.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

__all__ = ["allowed", "data_text", "packaged", "script_text", "template"]


def packaged(package: str, name: str) -> str:
    """A text file that comes with a package of ours."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def template(package: str, name: str) -> Template:
    """A template that comes with a package of ours; every text that is filled in is escaped."""
    environment = Environment(
        loader=FunctionLoader(lambda own: packaged(package, own)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def data_text(text: str) -> str:
    """JSON for a script element: it can neither end the element nor open a comment."""
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def script_text(text: str) -> str:
    """A program as a browser reads it: every line end a line feed, and no end of the element."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"</(script)", r"<\\/\1", lines, flags=re.IGNORECASE)


def allowed(texts: Sequence[str]) -> str:
    """The digests by which a policy allows these scripts or styles, and no others."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
