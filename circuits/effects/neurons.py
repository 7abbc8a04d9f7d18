"""What every neuron adds along the emotion directions, and direct effects on the readout.

An MLP's write is ``post @ W_out`` (plus a bias), so along a direction v it is the sum over
neurons of ``post[n] * (W_out[n] . v)``: exact, without another pass. Wang et al. 2025 (arXiv
2510.11328, stage 4.1) rank by this quantity. It is not centred: a neuron that is as active for
every emotion ranks high if its weight is large. ``centred`` takes the mean over the emotions of the
same context off, so that only what differs between emotions counts; the circuits are made from it
by default.

The last resid_post is the sum of the embedding and of all sublayers' writes, and those are sums
over heads and neurons. Projected on the reference direction, the difference between an emotion
and the mean of the emotions therefore splits exactly over components (direct effect, before the
final norm). The last token is the same for all emotions, so the embedding's share is zero.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.activations import (
    Activations,
    Differences,
    PromptsByEmotion,
    as_activations,
    mean_stderr,
    mean_stderr_by_emotion,
)
from circuits.effects.directions import Directions
from circuits.effects.heads import QUANTILE, random_directions
from circuits.models.families import along_heads, along_neurons, needs, neuron_weights
from circuits.models.protocol import Model
from circuits.records import Record

__all__ = ["DirectEffects", "NeuronEffects", "direct_effects", "neuron_effects", "without_neurons"]


@dataclass(frozen=True, eq=False)
class NeuronEffects(Record):
    """Direct effect of every neuron on its layer's emotion direction, at the last prompt position.

    Positive: the neuron pushes towards the emotion. Unit: length in the residual stream.
    """

    mean: Float[Tensor, "emotion layer neuron"]
    """Effect in prompts that ask for the emotion, averaged over contexts."""
    stderr: Float[Tensor, "emotion layer neuron"]
    """Standard error of ``mean`` over contexts."""
    centred: Float[Tensor, "emotion layer neuron"]
    """Effect minus its mean over the emotions of the same context."""
    centred_stderr: Float[Tensor, "emotion layer neuron"]
    """Standard error of ``centred`` over contexts."""
    positive: Float[Tensor, "emotion layer neuron"]
    """Mean of the effect's positive part."""
    negative: Float[Tensor, "emotion layer neuron"]
    """Mean of the effect's negative part, as a positive number."""
    weight: Float[Tensor, "emotion layer neuron"]
    """Projection of the neuron's output weights on the direction (beta)."""
    activation: Float[Tensor, "emotion layer neuron"]
    """Mean activation (post)."""
    random_baseline: Float[Tensor, "emotion layer"]
    """99th percentile of |centred effect| of the layer's neurons along random directions."""

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    neuron: tuple[int, ...]
    n_contexts: tuple[int, ...]
    """Contexts per emotion behind ``mean``."""


def neuron_effects(
    model: Model,
    prompts: Activations | PromptsByEmotion,
    directions: Directions,
    *,
    draws: int = 20,
) -> NeuronEffects:
    """Effects of all neurons on prompts of several emotions, or on their activations.

    The direction is a constant factor, so the mean and the standard error of the effect are
    those of the activation times its weight, and so for the positive and the negative part.

    Raises:
        ModelError: the model has no neurons, or they do not add up to what is written.
    """
    needs(model, "effects of neurons", "mlp", "neurons")
    found = as_activations(model, prompts)
    present, whole = found.present, found.complete
    random, layers = random_directions(draws, model.cfg.d_model), list[dict[str, Tensor]]()
    vectors = directions.sel(sublayer="mlp").vectors[:, 0]
    for layer, W_out in enumerate(neuron_weights(model)):
        post = found.post[:, :, layer]
        mean, stderr = mean_stderr_by_emotion(post, present)
        centred, centred_stderr = mean_stderr(post[whole] - post[whole].mean(1, keepdim=True))
        drawn = ((random @ W_out.T) * centred[:, None]).abs().flatten(1)
        # torch.quantile refuses more than 16 million values: a large model's neurons x draws.
        place = round(QUANTILE * (drawn.shape[1] - 1)) + 1
        own = {"beta": vectors[:, layer] @ W_out.T, "mean": mean, "stderr": stderr}
        own |= {"centred": centred, "centred_stderr": centred_stderr}
        own |= {"above": mean_stderr_by_emotion(post.clamp_min(0), present)[0]}
        layers.append({**own, "drawn": drawn.kthvalue(place, dim=1).values})
    every = {name: torch.stack([own[name] for own in layers], dim=1) for name in layers[0]}
    beta, above, below = every["beta"], every["above"], every["above"] - every["mean"]
    return NeuronEffects(
        mean=beta * every["mean"],
        stderr=beta.abs() * every["stderr"],
        centred=beta * every["centred"],
        centred_stderr=beta.abs() * every["centred_stderr"],
        positive=beta.abs() * torch.where(beta > 0, above, below),
        negative=beta.abs() * torch.where(beta > 0, below, above),
        weight=beta,
        activation=every["mean"],
        random_baseline=every["drawn"],
        emotion=directions.emotion,
        layer=directions.layer,
        neuron=tuple(range(beta.shape[2])),
        n_contexts=tuple(present.sum(0).tolist()),
    )


def without_neurons(activations: Activations, directions: Directions) -> NeuronEffects:
    """The record of a model that has no neurons, such as a mixture of experts: of width zero."""
    shape = (len(directions.emotion), len(directions.layer))
    names = ("mean", "stderr", "centred", "centred_stderr", "positive", "negative")
    own: dict[str, Any] = dict.fromkeys((*names, "weight", "activation"), torch.zeros(*shape, 0))
    return NeuronEffects(
        **own,
        random_baseline=torch.zeros(shape),
        emotion=directions.emotion,
        layer=directions.layer,
        neuron=(),
        n_contexts=tuple(activations.present.sum(0).tolist()),
    )


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
) -> DirectEffects:
    """Split the readout's difference over components; costs no pass.

    Args:
        model: Gives the output weights.
        between: Differences relative to the mean over the emotions.
        directions: Their last layer gives the total.
        reference: The directions that the readout projects on.

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
