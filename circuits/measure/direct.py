"""What every component adds to the emotion readout through the residual stream alone.

The last resid_post is the sum of the embedding and of all sublayers' writes, and those are sums
over heads and neurons. Projected on the reference direction, the difference between an emotion
and the mean of the emotions therefore splits exactly over components (direct effect, before the
final norm). The last token is the same for all emotions, so the embedding's share is zero.
"""

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.measure.directions import Directions
from circuits.measure.means import Differences
from circuits.model.protocol import Model
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
    """
    W_O, W_out = model.W_O.detach().float().cpu(), model.W_out.detach().float().cpu()
    along_O = einsum(
        W_O,
        reference,
        "layer head d_head d_model, emotion d_model -> emotion layer head d_head",
    )
    heads = (between.z * along_O).sum(-1)
    along_out = einsum(
        W_out, reference, "layer neuron d_model, emotion d_model -> emotion layer neuron"
    )
    neurons = between.post * along_out
    last = directions.vectors[:, -1, -1] * directions.norm[:, -1, -1, None]
    return DirectEffects(
        provenance=provenance,
        sublayer_effect=torch.stack([heads.sum(-1), neurons.sum(-1)], dim=1),
        head_effect=heads,
        neuron_effect=neurons,
        total=(last * reference).sum(-1),
        emotion=directions.emotion,
        sublayer=directions.sublayer,
        layer=directions.layer,
        head=between.head,
        neuron=between.neuron,
    )
