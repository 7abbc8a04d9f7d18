"""Figures of records: each function takes a result and returns a Plotly figure.

Nothing is computed beyond picking and sorting, nothing is shown, and no global template is set.
:func:`draw` picks the function by the type of the record.
"""

from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go

from circuits.circuit.circuit import Circuit
from circuits.effects.directions import Directions, Generality
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.inspection import TokenTrace
from circuits.effects.neurons import NeuronEffects
from circuits.judges.replies import Hearing
from circuits.neurons.adaptive import Adaptive
from circuits.neurons.recognition import DepthProfile, MaskEffects, RangeSweep
from circuits.neurons.select import Association
from circuits.neurons.steer import CrossSignal, Induction
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.patching.paths import PathEffects
from circuits.plots.circuits import circuit_graph as circuit_graph
from circuits.plots.circuits import faithfulness_curve as faithfulness_curve
from circuits.plots.effects import generality_profile as generality_profile
from circuits.plots.effects import head_map as head_map
from circuits.plots.effects import importance_profile as importance_profile
from circuits.plots.effects import neuron_tail as neuron_tail
from circuits.plots.effects import similarity_map as similarity_map
from circuits.plots.effects import token_html as token_html
from circuits.plots.effects import token_map as token_map
from circuits.plots.neurons import association_map as association_map
from circuits.plots.neurons import change_matrix as change_matrix
from circuits.plots.neurons import cross_map as cross_map
from circuits.plots.neurons import depth_lines as depth_lines
from circuits.plots.neurons import induction_curves as induction_curves
from circuits.plots.neurons import loop_lines as loop_lines
from circuits.plots.neurons import range_map as range_map
from circuits.plots.patching import patch_map as patch_map
from circuits.plots.patching import path_agreement as path_agreement
from circuits.plots.patching import path_map as path_map
from circuits.plots.steering import METHOD_WORDS as METHOD_WORDS
from circuits.plots.steering import accuracy_bars as accuracy_bars
from circuits.plots.steering import dial_curve as dial_curve
from circuits.plots.steering import heard_curves as heard_curves
from circuits.plots.steering import hearing_map as hearing_map
from circuits.plots.steering import price_map as price_map
from circuits.plots.steering import valence_bars as valence_bars
from circuits.plots.steering import validation_curves as validation_curves
from circuits.plots.style import EMOTION_COLOURS as EMOTION_COLOURS
from circuits.steering.evaluate import Comparison
from circuits.steering.validation import Heard, Validation

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
