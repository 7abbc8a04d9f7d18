"""Figures of results as Plotly figures; nothing is computed beyond picking and sorting.

:func:`draw` picks the figure by the type of the record. Nothing is shown, and no global template
is set.
"""

import plotly.graph_objects as go

from circuits.plots import effects, neurons  # noqa: F401  # their figures are found by type
from circuits.plots.circuits import circuit_graph, faithfulness_curve
from circuits.plots.patching import path_agreement, path_map
from circuits.plots.steering import METHOD_WORDS, accuracy_bars, side_effects_map, strength_curve
from circuits.plots.style import EMOTION_COLOURS, figure_of

__all__ = [
    "EMOTION_COLOURS",
    "METHOD_WORDS",
    "accuracy_bars",
    "circuit_graph",
    "draw",
    "faithfulness_curve",
    "path_agreement",
    "path_map",
    "side_effects_map",
    "strength_curve",
]


def draw(record: object) -> go.Figure:
    """The figure of a record or a circuit.

    Raises:
        TypeError: there is no figure for this type; lists those that have one.
    """
    return figure_of(record)
