"""An estimate of what every head and neuron does to the readout in all, downstream included.

Injections say how far the readout moves per unit added along a sublayer's emotion direction.
What a component adds along that direction, compared with the plain prompt, times this response
is what its sublayer would pass on if it passed everything on as it does the direction. It is an
estimate (first order, one direction per sublayer), and is used to rank, not to prove.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuits.measure.directions import Directions
from circuits.measure.importance import Importance
from circuits.measure.means import Differences
from circuits.model.protocol import Model
from circuits.model.weights import along_heads, along_neurons
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["TotalEstimates", "total_estimates"]


@dataclass(frozen=True, eq=False)
class TotalEstimates(Record):
    """Estimated total effect on the readout; positive pushes towards the emotion."""

    head_effect: Float[Tensor, "emotion layer head"]
    neuron_effect: Float[Tensor, "emotion layer neuron"]

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]


def total_estimates(
    model: Model,
    difference: Differences,
    directions: Directions,
    importance: Importance,
    provenance: Provenance,
) -> TotalEstimates:
    """Direct effects along the sublayers' directions times the sublayers' importance.

    Args:
        model: Gives the output weights.
        difference: What components do differently; by default relative to plain prompts.
        directions: Directions after every sublayer.
        importance: Responses per unit injected; negative ones count as zero.
        provenance: Of the result.
    """
    heads = along_heads(model, directions.vectors[:, 0])
    neurons = along_neurons(model, directions.vectors[:, 1])
    response = importance.slope.clamp_min(0)[..., None]
    return TotalEstimates(
        provenance=provenance,
        head_effect=(difference.z * heads).sum(-1) * response[:, 0],
        neuron_effect=difference.post * neurons * response[:, 1],
        emotion=directions.emotion,
        layer=directions.layer,
        head=difference.head,
        neuron=difference.neuron,
    )
