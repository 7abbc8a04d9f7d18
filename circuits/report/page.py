"""The report of a run: which tables and figures stand on its page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from circuits import plot
from circuits.files import write_text
from circuits.graph.scores import SCORES
from circuits.report import score_tables, tables
from circuits.report.content import ReportContent
from circuits.report.html import render
from circuits.report.samples import sample_replies

__all__ = ["write_report"]


def write_report(content: ReportContent, path: Path) -> None:
    """Write the report as one HTML file, whole or not at all.

    Raises:
        DataError: the file cannot be written, or there is no method to compare.
    """
    write_text(path, render("report.html.j2", _figures(content), _words(content)))


def _words(content: ReportContent) -> dict[str, Any]:
    judge = content.control.get("judge") or {}
    return {
        "content": content,
        "emotions": content.directions.emotion,
        "facts": tables.facts(content),
        "headline": tables.headline(content),
        "headline_table": tables.headline_table(content),
        "price_table": tables.price_table(content),
        "meanings": _meanings(content),
        "judge": list(tables.flat(judge)),
        "settings": _settings(content),
        "samples": sample_replies(
            content.replies,
            content.directions.emotion,
            without=tuple(content.control.get("controls", {})),
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
        "ablation": score_tables.ablation_table(content.ablation) if content.ablation else None,
        "provenance": [
            *tables.flat(content.provenance.to_json()),
            ("fingerprint", content.provenance.fingerprint()),
        ],
    }


def _settings(content: ReportContent) -> list[tuple[str, str]]:
    """One line per method."""
    chosen = content.control.get("settings") or {}
    return [
        (
            plot.METHOD_WORDS.get(method, method),
            "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in tables.flat(how)),
        )
        for method, how in chosen.items()
        if method != "tried"
    ]


def _meanings(content: ReportContent) -> list[tuple[str, str]]:
    methods = [*content.control.get("methods", {}), *content.control.get("controls", {})]
    return [
        (plot.METHOD_WORDS.get(method, method), tables.METHOD_MEANINGS[method])
        for method in methods
        if method in tables.METHOD_MEANINGS
    ]


def _figures(content: ReportContent) -> Mapping[str, go.Figure]:
    figures = {
        "accuracy": plot.accuracy_bars(content.control),
        "valence": plot.valence_bars(content.control),
        "price": plot.price_map(content.control),
        "similarity": plot.similarity_map(content.directions),
        "generality": plot.generality_profile(content.generality),
        "heads": plot.head_map(content.heads),
        "neurons": plot.neuron_tail(content.neurons),
        "scores": plot.faithfulness_curve(content.scores),
        "importance": plot.importance_profile(content.importance),
    }
    if content.control.get("dial"):
        figures["dial"] = plot.dial_curve(content.control)
    for number, maps in enumerate(content.patches.values()):
        figures |= {f"patch-{number}-{i}": plot.patch_map(one) for i, one in enumerate(maps)}
    proofs = enumerate((*content.validation, *content.heard))
    figures |= {f"validation-{i}": plot.draw(record) for i, record in proofs}
    circuits = enumerate(content.circuits.values())
    return figures | {f"circuit-{i}": plot.circuit_graph(circuit) for i, circuit in circuits}
