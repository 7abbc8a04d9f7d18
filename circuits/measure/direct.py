"""What every component adds to the emotion readout through the residual stream alone.

The last resid_post is the sum of the embedding and of all sublayers' writes, and those are sums
over heads and neurons. Projected on the reference direction, the difference between an emotion
and the mean of the emotions therefore splits exactly over components (direct effect, before the
final norm). The last token is the same for all emotions, so the embedding's share is zero.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.measure.directions import Directions
from circuits.measure.means import Differences
from circuits.model.identities import needs
from circuits.model.protocol import Model
from circuits.model.weights import along_heads, along_neurons
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["DirectEffects", "direct_effects"]


@dataclass(frozen=True, eq=False)
class DirectEffects(Record):
    """Direct effects on the readout, emotion minus mean of the emotions, at the last position.

    Positive: towards the emotion. Unit: length in the residual stream. The effects of all
    sublayers of an emotion add up to ``total``.
    """

    sublayer_effect: Float[Tensor, "emotion sublayer layer"]
    head_effect: Float[Tensor, "emotion layer head"]
    neuron_effect: Float[Tensor, "emotion layer neuron"]
    total: Float[Tensor, " emotion"]
    """Readout of the emotion minus the mean readout, measured on the last resid_post."""

    emotion: tuple[str, ...]
    sublayer: tuple[str, ...]
    layer: tuple[int, ...]
    head: tuple[int, ...]
    neuron: tuple[int, ...]


def direct_effects(
    model: Model,
    between: Differences,
    directions: Directions,
    reference: Float[Tensor, "emotion d_model"],
    provenance: Provenance,
) -> DirectEffects:
    """Split the readout's difference over components; costs no pass.

    Args:
        model: Gives the output weights.
        between: Differences relative to the mean over the emotions.
        directions: Their last layer gives the total.
        reference: The directions that the readout projects on.
        provenance: Of the result.

    Raises:
        ModelError: heads or neurons do not add up to what is written.
    """
    needs(model, "direct effects", "attention", "mlp", "heads")
    everywhere = reference[:, None].expand(-1, len(directions.layer), -1)
    heads = (between.z * along_heads(model, everywhere)).sum(-1)
    streams = torch.einsum(
        "eslw,ew->esl", directions.vectors * directions.norm[..., None], reference
    )
    if between.post.shape[-1]:
        needs(model, "direct effects", "neurons")
        neurons = between.post * along_neurons(model, everywhere)
        mlps = neurons.sum(-1)
    else:
        # Experts are no sum over neurons; what they write is what the stream gains.
        neurons, mlps = between.post, streams[:, 1] - streams[:, 0]
    return DirectEffects(
        provenance=provenance,
        sublayer_effect=torch.stack([heads.sum(-1), mlps], dim=1),
        head_effect=heads,
        neuron_effect=neurons,
        total=streams[:, -1, -1],
        emotion=directions.emotion,
        sublayer=directions.sublayer,
        layer=directions.layer,
        head=between.head,
        neuron=between.neuron,
    )
