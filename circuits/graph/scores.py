"""Scores of a circuit on contexts it was not made from, beside random circuits of its size.

With f(C) = (m(C) - m(empty)) / (m(model) - m(empty)), where m is the mean readout over contexts
and the empty circuit is the run with every head and neuron ablated (as MIB does; under resample
ablation at the last position it equals the corrupt run):

* faithfulness: f(circuit); 1 is the whole model.
* completeness: mean over random halves K of the circuit of
  |f(circuit without K) - f(model without K)|; lower is better (Wang et al. 2022, arXiv 2211.00593).
* minimality: what f loses per node that leaves, mean over the same halves; what it loses when a
  node leaves alone is listed node by node.
* specificity: f(circuit) minus the mean of f over the circuits of the other emotions, all in runs
  and by the readout of this emotion. Readouts of other emotions are no measure of it: their
  directions are relative to each other, so that they move without any part being shared.
* cpr, cmd: areas over circuit size, see :mod:`circuits.graph.areas`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from circuits.graph.circuit import Circuit

__all__ = ["LOWER_IS_BETTER", "SCORES", "CircuitScores", "Score", "with_scores"]

SCORES = ("faithfulness", "completeness", "minimality", "specificity", "cpr", "cmd")
LOWER_IS_BETTER = frozenset({"completeness", "cmd"})


@dataclass(frozen=True)
class Score:
    """A score, its 95% interval over contexts, and what random circuits reach."""

    value: float
    low: float
    high: float
    control_p99: float
    """What 99% of the random circuits do not better: their 99th percentile, or the 1st where
    lower is better."""
    p: float
    """(1 + random circuits that are at least as good) / (1 + random circuits)."""


@dataclass(frozen=True)
class CircuitScores:
    """The scores of one emotion's circuit."""

    emotion: str
    scores: Mapping[str, Score]
    heads_fraction: float
    neurons_fraction: float
    size: float
    """Share of all components, heads and neurons together."""
    needed_share: float
    """Share of the nodes without which, one at a time, faithfulness is lower."""
    worst_gap: float
    """Largest completeness gap over random, single-node and greedy subsets."""
    log_area: float
    """Mean faithfulness over the logarithm of the size."""
    size_at_80: float
    """Smallest size from which on faithfulness is at least 0.8."""
    sizes: tuple[float, ...]
    curve: tuple[float, ...]
    """Faithfulness at every size."""
    curve_low: tuple[float, ...]
    """2.5th percentile of random rankings."""
    curve_high: tuple[float, ...]
    """97.5th percentile of random rankings."""
    loses: Mapping[str, float] = field(default_factory=dict)
    """Node -> what faithfulness loses when it leaves."""
    n_contexts: int = 0
    n_controls: int = 0
    ablation: str = "resample"
    positions: str = "last"

    def beats_controls(self, name: str) -> bool:
        """Is the score better than the 99th percentile of random circuits?"""
        score = self.scores[name]
        if name in LOWER_IS_BETTER:
            return score.value < score.control_p99
        return score.value > score.control_p99

    @property
    def failures(self) -> tuple[str, ...]:
        """Scores in which the circuit does not beat random circuits."""
        return tuple(name for name in self.scores if not self.beats_controls(name))

    def summary(self) -> dict[str, Any]:
        """The scores and sizes alone, as ``scores.json`` holds them."""
        return {
            **{name: asdict(score) for name, score in self.scores.items()},
            "heads_fraction": self.heads_fraction,
            "neurons_fraction": self.neurons_fraction,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CircuitScores":
        """Read what :meth:`to_json` gave."""
        scores = {name: Score(**score) for name, score in values["scores"].items()}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "scores": scores})


def with_scores(circuit: Circuit, found: CircuitScores) -> Circuit:
    """The circuit with its scores: ``cpr``, ``cpr_low``, ..., ``cpr_beats_controls`` (1 or 0)."""
    flat: dict[str, float] = {}
    for name, score in found.scores.items():
        values = asdict(score)
        flat[name] = values.pop("value")
        flat |= {f"{name}_{what}": value for what, value in values.items()}
        flat[f"{name}_beats_controls"] = float(found.beats_controls(name))
    return circuit.with_scores(
        **flat,
        needed_share=found.needed_share,
        completeness_worst=found.worst_gap,
        log_area=found.log_area,
        size_at_80=found.size_at_80,
    )
