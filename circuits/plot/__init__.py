"""Figures of records: each function takes a result and returns a Plotly figure.

Nothing is computed beyond picking and sorting, nothing is shown, and no global template is set.
:func:`draw` picks the function by the type of the record.
"""

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go

from circuits.control.compare import Comparison
from circuits.control.validation import Validation
from circuits.control.validation_replies import Heard
from circuits.graph.circuit import Circuit
from circuits.measure.directions import Directions
from circuits.measure.generality import Generality
from circuits.measure.heads import HeadEffects
from circuits.measure.hearing import Hearing
from circuits.measure.importance import Importance
from circuits.measure.neurons import NeuronEffects
from circuits.measure.patching import HeadPatches, SitePatches
from circuits.measure.paths import PathEffects
from circuits.measure.trace import TokenTrace
from circuits.plot.control import dial_curve as dial_curve
from circuits.plot.control import price_map as price_map
from circuits.plot.directions import generality_profile as generality_profile
from circuits.plot.directions import similarity_map as similarity_map
from circuits.plot.effects import head_map as head_map
from circuits.plot.effects import neuron_tail as neuron_tail
from circuits.plot.expression import METHOD_WORDS as METHOD_WORDS
from circuits.plot.expression import accuracy_bars as accuracy_bars
from circuits.plot.expression import valence_bars as valence_bars
from circuits.plot.graph import circuit_graph as circuit_graph
from circuits.plot.hearing import hearing_map as hearing_map
from circuits.plot.importance import importance_profile as importance_profile
from circuits.plot.injection import cross_map as cross_map
from circuits.plot.injection import induction_curves as induction_curves
from circuits.plot.patching import patch_map as patch_map
from circuits.plot.path_effects import path_agreement as path_agreement
from circuits.plot.path_effects import path_map as path_map
from circuits.plot.recognition import association_map as association_map
from circuits.plot.recognition import change_matrix as change_matrix
from circuits.plot.recognition import depth_lines as depth_lines
from circuits.plot.recognition import loop_lines as loop_lines
from circuits.plot.recognition import range_map as range_map
from circuits.plot.scores import faithfulness_curve as faithfulness_curve
from circuits.plot.style import EMOTION_COLOURS as EMOTION_COLOURS
from circuits.plot.trace import token_html as token_html
from circuits.plot.trace import token_map as token_map
from circuits.plot.validation import heard_curves as heard_curves
from circuits.plot.validation import validation_curves as validation_curves
from circuits.selective.adaptive import Adaptive
from circuits.selective.cross import CrossSignal
from circuits.selective.evaluation import MaskEffects
from circuits.selective.selection import Association
from circuits.selective.steering import Induction
from circuits.selective.sweeps import DepthProfile, RangeSweep

__all__ = [
    "EMOTION_COLOURS",
    "METHOD_WORDS",
    "accuracy_bars",
    "association_map",
    "change_matrix",
    "circuit_graph",
    "cross_map",
    "depth_lines",
    "dial_curve",
    "draw",
    "faithfulness_curve",
    "generality_profile",
    "head_map",
    "heard_curves",
    "hearing_map",
    "importance_profile",
    "induction_curves",
    "loop_lines",
    "neuron_tail",
    "patch_map",
    "path_agreement",
    "path_map",
    "price_map",
    "range_map",
    "similarity_map",
    "token_html",
    "token_map",
    "valence_bars",
    "validation_curves",
]

_FIGURES: Mapping[type, Callable[[Any], go.Figure]] = {
    Directions: similarity_map,
    Generality: generality_profile,
    HeadEffects: head_map,
    NeuronEffects: neuron_tail,
    Importance: importance_profile,
    Circuit: circuit_graph,
    SitePatches: patch_map,
    HeadPatches: patch_map,
    MaskEffects: change_matrix,
    RangeSweep: range_map,
    DepthProfile: depth_lines,
    Adaptive: loop_lines,
    Association: association_map,
    Induction: induction_curves,
    CrossSignal: cross_map,
    TokenTrace: token_map,
    Validation: validation_curves,
    Heard: heard_curves,
    Hearing: hearing_map,
    PathEffects: path_map,
    Comparison: lambda found: accuracy_bars(found.to_json()),
}


def draw(record: object) -> go.Figure:
    """The figure of a record or a circuit.

    Raises:
        TypeError: there is no figure for this type; lists those that have one.
    """
    for kind, figure in _FIGURES.items():
        if isinstance(record, kind):
            return figure(record)
    known = ", ".join(kind.__name__ for kind in _FIGURES)
    raise TypeError(f"no figure for a {type(record).__name__}; there are figures for {known}")
