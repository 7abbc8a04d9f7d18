"""The page about class-selective neurons: what stands on it, and how it is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from circuits import plot
from circuits.files import write_text
from circuits.provenance import Provenance
from circuits.report import neuron_tables
from circuits.report.html import render
from circuits.report.neuron_results import SetResults
from circuits.report.tables import flat
from circuits.selective.cross import CrossSignal
from circuits.selective.evaluation import MaskEffects
from circuits.selective.selection import Association

__all__ = ["NeuronPage", "write_neuron_page"]


@dataclass(frozen=True, eq=False)
class NeuronPage:
    """Everything on the page."""

    title: str
    sets: Sequence[SetResults]
    association: Sequence[Association]
    """Classes of every set with each other, and of the first set with those of the others."""
    cross: CrossSignal | None
    circuit_overlap: Sequence[tuple[str, str, int, int, int]]
    """Emotion, selector, neurons of the circuit, of the selector, of both."""
    models: Mapping[str, Sequence[MaskEffects]]
    """Model -> its main results, where several were measured."""
    receipts: Mapping[str, Mapping[str, int]]
    provenance: Provenance
    options: Mapping[str, Any] = field(default_factory=dict)


def write_neuron_page(page: NeuronPage, path: Path) -> None:
    """Write the page as one HTML file, whole or not at all."""
    figures: dict[str, go.Figure] = {
        f"association-{i}": plot.association_map(own) for i, own in enumerate(page.association)
    }
    if page.cross is not None:
        figures["cross"] = plot.cross_map(page.cross)
    for own in page.sets:
        figures |= {
            f"{own.name}-matrix": plot.change_matrix(own.effects),
            f"{own.name}-range": plot.range_map(own.sweep),
            f"{own.name}-depth": plot.depth_lines(own.depth),
            f"{own.name}-loop": plot.loop_lines(own.adaptive),
            f"{own.name}-induction": plot.induction_curves(own.induction),
        }
    write_text(path, render("neurons.html.j2", figures, _words(page)))


_OF_SET: Mapping[str, Callable[[SetResults], Any]] = {
    "main": neuron_tables.main_table,
    "verdicts": neuron_tables.verdicts,
    "masks": neuron_tables.mask_table,
    "selectors": neuron_tables.selector_table,
    "histograms": neuron_tables.histogram,
    "halves": neuron_tables.halves_table,
    "null": lambda own: neuron_tables.null_sentence(own.null),
    "loops": neuron_tables.loop_table,
    "paired": neuron_tables.paired_table,
    "naming": neuron_tables.naming_table,
}


def _words(page: NeuronPage) -> dict[str, Any]:
    overlap = page.circuit_overlap
    return {
        "page": page,
        **{name: {own.name: make(own) for own in page.sets} for name, make in _OF_SET.items()},
        "models": neuron_tables.model_table(page.models) if len(page.models) > 1 else None,
        "overlap": neuron_tables.overlap_table(overlap) if overlap else None,
        "cost": neuron_tables.cost_table(page.receipts),
        "provenance": [
            *flat({"options": dict(page.options)}),
            *flat(page.provenance.to_json()),
            ("fingerprint", page.provenance.fingerprint()),
        ],
    }
