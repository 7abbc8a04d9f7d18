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
from circuits.judges.replies import JudgeConfusion
from circuits.neurons.adaptive import Adaptive
from circuits.neurons.select import Association, DepthProfile
from circuits.neurons.steer import CrossSignal, Induction
from circuits.neurons.study import MaskEffects, RangeSweep
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.patching.paths import PathEffects
from circuits.plots.circuits import circuit_graph, faithfulness_curve
from circuits.plots.effects import (
    generality_profile,
    head_map,
    importance_profile,
    neuron_tail,
    similarity_map,
    token_map,
)
from circuits.plots.neurons import (
    association_map,
    change_matrix,
    cross_map,
    depth_lines,
    induction_curves,
    loop_lines,
    range_map,
)
from circuits.plots.patching import patch_map, path_agreement, path_map
from circuits.plots.steering import (
    METHOD_WORDS,
    accuracy_bars,
    confusion_map,
    reply_curves,
    side_effects_map,
    strength_curve,
    valence_bars,
    validation_curves,
)
from circuits.plots.style import EMOTION_COLOURS
from circuits.steering.evaluate import Comparison
from circuits.steering.validation import ReplyValidation, Validation

__all__ = [
    "EMOTION_COLOURS",
    "METHOD_WORDS",
    "accuracy_bars",
    "association_map",
    "change_matrix",
    "circuit_graph",
    "confusion_map",
    "cross_map",
    "depth_lines",
    "draw",
    "faithfulness_curve",
    "generality_profile",
    "head_map",
    "importance_profile",
    "induction_curves",
    "loop_lines",
    "neuron_tail",
    "patch_map",
    "path_agreement",
    "path_map",
    "range_map",
    "reply_curves",
    "side_effects_map",
    "similarity_map",
    "strength_curve",
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
    ReplyValidation: reply_curves,
    JudgeConfusion: confusion_map,
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
