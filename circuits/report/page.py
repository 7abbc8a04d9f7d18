"""The page itself: a template filled with tables, figures and the code that draws them.

Nothing on the page asks a network for anything, and its content security policy forbids it:
only the page's own scripts run, named by their digests, so that no text of a data set or a
model can become code.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from circuits import plot
from circuits.files import write_text
from circuits.graph.scores import SCORES
from circuits.report import score_tables, tables
from circuits.report.content import ReportContent
from circuits.report.samples import sample_replies

__all__ = ["write_report"]


def write_report(content: ReportContent, path: Path) -> None:
    """Write the report as one HTML file, whole or not at all.

    Raises:
        DataError: the file cannot be written, or there is no method to compare.
    """
    write_text(path, _render(content))


def _render(content: ReportContent) -> str:
    environment = Environment(
        loader=FunctionLoader(_packaged),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_script(get_plotlyjs()), _script(_packaged("report.js"))]
    figures = {name: _embedded(figure) for name, figure in _figures(content).items()}
    return environment.get_template("report.html.j2").render(
        content=content,
        policy=_policy(scripts),
        style=Markup(_packaged("report.css")),
        plotly=Markup(scripts[0]),
        script=Markup(scripts[1]),
        figures=figures,
        **_words(content),
    )


def _words(content: ReportContent) -> dict[str, Any]:
    judge = content.accuracy.get("judge") or {}
    chosen = content.accuracy.get("settings") or {}
    settings = {method: how for method, how in chosen.items() if method != "tried"}
    return {
        "emotions": content.directions.emotion,
        "facts": tables.facts(content),
        "headline": tables.headline(content),
        "headline_table": tables.headline_table(content),
        "meanings": _meanings(content),
        "judge": list(tables.flat(judge)),
        "settings": list(tables.flat(settings)),
        "samples": sample_replies(
            content.replies,
            content.directions.emotion,
            without=tuple(content.accuracy.get("controls", {})),
        ),
        "elicitation": tables.elicitation_table(content),
        "circuits": {
            emotion: tables.component_tables(circuit)
            for emotion, circuit in content.circuits.items()
        },
        "circuit_scores": {
            # What was measured on held-out contexts has a section of its own.
            emotion: [
                (name, value)
                for name, value in tables.flat(circuit.scores)
                if not name.startswith(tuple(SCORES))
            ]
            for emotion, circuit in content.circuits.items()
        },
        "scores": score_tables.score_table(content.scores),
        "failures": score_tables.failures(content.scores),
        "cost": tables.cost_table(content),
        "provenance": [
            *tables.flat(content.provenance.to_json()),
            ("fingerprint", content.provenance.fingerprint()),
        ],
    }


def _meanings(content: ReportContent) -> list[tuple[str, str]]:
    methods = [*content.accuracy.get("methods", {}), *content.accuracy.get("controls", {})]
    return [
        (plot.METHOD_WORDS.get(method, method), tables.METHOD_MEANINGS[method])
        for method in methods
        if method in tables.METHOD_MEANINGS
    ]


def _figures(content: ReportContent) -> Mapping[str, go.Figure]:
    figures = {
        "accuracy": plot.accuracy_bars(content.accuracy),
        "valence": plot.valence_bars(content.accuracy),
        "similarity": plot.similarity_map(content.directions),
        "generality": plot.generality_profile(content.generality),
        "heads": plot.head_map(content.heads),
        "neurons": plot.neuron_tail(content.neurons),
        "scores": plot.faithfulness_curve(content.scores),
        "importance": plot.importance_profile(content.importance),
    }
    for number, maps in enumerate(content.patches.values()):
        figures |= {f"patch-{number}-{i}": plot.patch_map(one) for i, one in enumerate(maps)}
    circuits = enumerate(content.circuits.values())
    return figures | {f"circuit-{i}": plot.circuit_graph(circuit) for i, circuit in circuits}


def _embedded(figure: go.Figure) -> Markup:
    # JSON in a script element must not be able to end it, nor to open a comment.
    text = figure.to_json() or "{}"
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _script(text: str) -> str:
    # Digests are taken of what a browser reads, in which every line end is a line feed.
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"</(script)", r"<\\/\1", lines, flags=re.IGNORECASE)


def _policy(scripts: list[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    # Plotly writes style attributes, and saves pictures by way of data: and blob: addresses.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _packaged(name: str) -> str:
    return resources.files("circuits.report").joinpath(name).read_text(encoding="utf-8")
