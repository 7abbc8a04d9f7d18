"""What a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from circuits.control.validation import Validation
from circuits.control.validation_replies import Heard
from circuits.data.replies import Judged
from circuits.graph.circuit import Circuit
from circuits.graph.scores import CircuitScores
from circuits.measure.directions import Directions
from circuits.measure.generality import Generality
from circuits.measure.heads import HeadEffects
from circuits.measure.importance import Importance
from circuits.measure.neurons import NeuronEffects
from circuits.measure.patching import HeadPatches, SitePatches
from circuits.provenance import Provenance

__all__ = ["ReportContent"]


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Every result of a run that the page shows; the page computes nothing itself."""

    title: str
    directions: Directions
    generality: Generality
    heads: HeadEffects
    neurons: NeuronEffects
    importance: Importance
    circuits: Mapping[str, Circuit]
    """Emotion -> its circuit."""
    scores: Mapping[str, CircuitScores]
    """Emotion -> scores of its circuit on held-out contexts."""
    elicitation: Mapping[str, Any]
    """``overall``, ``by_emotion`` and ``by_valence``, each with its number of replies
    (``total_samples`` or ``total``), ``accepted``, ``rejected`` and ``accuracy`` in percent."""
    control: Mapping[str, Any]
    """``methods`` and ``controls``: name -> ``n``, ``overall``, ``low`` and ``high``,
    ``by_emotion``, ``by_valence`` (percent), ``perplexity_ratio`` and ``repetition``; and
    ``judge``: what is known of the judge, such as its name and measured error. Optional:
    ``settings``, method -> how strongly and when it writes."""
    replies: Mapping[str, Sequence[Judged]]
    """Method -> judged replies on test contexts; a sample is shown."""
    receipts: Mapping[str, Mapping[str, int]]
    """Stage -> ``passes``, ``steps``, ``token_layers``."""
    provenance: Provenance
    patches: Mapping[str, Sequence[SitePatches | HeadPatches]] = field(default_factory=dict)
    """Contrast -> patching maps, if any were made."""
    validation: Sequence[Validation] = ()
    """What the components ranked first do to the readouts, if it was measured."""
    heard: Sequence[Heard] = ()
    """And to judged replies."""
    ablation: Mapping[str, Any] = field(default_factory=dict)
    """What of judged expression the circuits carry where it is asked for, if it was measured."""
