"""Records with just the quantities of the published files (Wang et al. 2025, arXiv 2510.11328).

Tables keep every number in double precision, as it was written. ``row`` is the place of a cell
in its file, counted from 0, so that a table is written in the order in which it was read.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from circuits.records import Record

__all__ = [
    "AllocationLog",
    "Contributions",
    "DifferenceVectors",
    "HeadImportance",
    "MeanImportance",
    "ReferenceDirection",
    "Sigma",
    "SublayerImportance",
    "UnitDirections",
]


@dataclass(frozen=True, eq=False)
class UnitDirections(Record):
    """Unit directions after one kind of sublayer (stage 2.2), single precision."""

    vectors: Float[Tensor, "emotion layer d_model"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    sublayer: str


@dataclass(frozen=True, eq=False)
class Contributions(Record):
    """Neurons' contributions along the emotion's direction (stage 4.1)."""

    mean: Float[Tensor, "emotion layer neuron"]
    positive: Float[Tensor, "emotion layer neuron"]
    negative: Float[Tensor, "emotion layer neuron"]
    weight: Float[Tensor, "emotion layer neuron"]
    activation: Float[Tensor, "emotion layer neuron"]
    row: Int[Tensor, "emotion layer neuron"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    neuron: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class HeadImportance(Record):
    """Importance of heads by ablation, read after the next norm (stage 4.2)."""

    mean: Float[Tensor, "emotion layer head"]
    std: Float[Tensor, "emotion layer head"]
    """Standard deviation over samples (ddof 0)."""
    samples: Float[Tensor, "emotion layer head"]
    baseline: Float[Tensor, "emotion layer head"]
    row: Int[Tensor, "emotion layer head"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SublayerImportance(Record):
    """Responses to injected doses (stage 6.3); NaN where a column is blank."""

    sigma: Float[Tensor, "emotion dose sublayer layer"]
    length: Float[Tensor, "emotion dose sublayer layer"]
    base_final: Float[Tensor, "emotion dose sublayer layer"]
    final: Float[Tensor, "emotion dose sublayer layer"]
    change_final: Float[Tensor, "emotion dose sublayer layer"]
    response_final: Float[Tensor, "emotion dose sublayer layer"]
    base_anchor: Float[Tensor, "emotion dose sublayer layer"]
    anchor: Float[Tensor, "emotion dose sublayer layer"]
    change_anchor: Float[Tensor, "emotion dose sublayer layer"]
    response_anchor: Float[Tensor, "emotion dose sublayer layer"]
    samples: Float[Tensor, "emotion dose sublayer layer"]
    row: Int[Tensor, "emotion dose sublayer layer"]

    emotion: tuple[str, ...]
    dose: tuple[float, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class MeanImportance(Record):
    """Responses averaged over doses, and their share within the emotion (stage 6.4)."""

    response: Float[Tensor, "emotion sublayer layer"]
    share: Float[Tensor, "emotion sublayer layer"]
    row: Int[Tensor, "emotion sublayer layer"]

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class AllocationLog(Record):
    """How places were dealt out to layers (stage 6.5); NaN where a column is blank."""

    weight: Float[Tensor, "emotion sublayer layer"]
    share: Float[Tensor, "emotion sublayer layer"]
    base: Float[Tensor, "emotion sublayer layer"]
    added: Float[Tensor, "emotion sublayer layer"]
    assigned: Float[Tensor, "emotion sublayer layer"]
    available: Float[Tensor, "emotion sublayer layer"]
    cap: Float[Tensor, "emotion sublayer layer"]
    used: Float[Tensor, "emotion sublayer layer"]
    row: Int[Tensor, "emotion sublayer layer"]

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sigma(Record):
    """Root mean square of the residual stream after every sublayer (stage 6.2)."""

    rms: Float[Tensor, "sublayer layer"]

    sublayer: tuple[str, ...]
    layer: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DifferenceVectors(Record):
    """What heads (all of a layer side by side) or neurons do differently (stage 5)."""

    value: Float[Tensor, "layer width"]

    emotion: str
    sublayer: str
    layer: tuple[int, ...]
    stem: str
    """``L`` or ``layer``: how the file of a layer is called."""


@dataclass(frozen=True, eq=False)
class ReferenceDirection(Record):
    """The unit vector that the readout projects on (stage 6.3)."""

    vector: Float[Tensor, " d_model"]

    emotion: str
