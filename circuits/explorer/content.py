"""What the explorer is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from circuits.graph.circuit import Circuit
from circuits.graph.scores import CircuitScores
from circuits.measure.direct import DirectEffects
from circuits.measure.examples import NodeExamples
from circuits.measure.heads import HeadEffects
from circuits.measure.importance import Importance
from circuits.measure.lens import TokenLens
from circuits.measure.neurons import NeuronEffects
from circuits.measure.patterns import HeadPatterns
from circuits.measure.totals import TotalEstimates

__all__ = ["ExplorerContent"]


@dataclass(frozen=True, eq=False)
class ExplorerContent:
    """Every result of a run that the page shows; the page only lays out.

    Without the records of a measurement (imported results have none) a node shows what its
    circuits say of it.
    """

    title: str
    model: Mapping[str, Any]
    """Name, revision and sizes."""
    circuits: Mapping[str, Circuit]
    """Emotion -> its circuit."""
    effect: Literal["centred", "mean"] = "centred"
    """Which effect of heads and neurons the circuits were made from."""
    heads: HeadEffects | None = None
    neurons: NeuronEffects | None = None
    importance: Importance | None = None
    direct: DirectEffects | None = None
    totals: TotalEstimates | None = None
    scores: Mapping[str, CircuitScores] = field(default_factory=dict)
    """Emotion -> scores of its circuit on held-out contexts."""
    lens: TokenLens | None = None
    examples: NodeExamples | None = None
    patterns: HeadPatterns | None = None
    notes: tuple[str, ...] = ()
    """What the page lacks, and how to come by it."""
