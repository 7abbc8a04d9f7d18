"""Directions other than those of the method, to steer along: equally tuned, they are the bar.

Two of them: what the residual stream gains when the emotion is asked for and not merely another
one (emotion minus plain), and the weights by which a linear probe tells the emotion from the plain
prompt (logistic regression, as in Zou et al. 2023, arXiv 2310.01405). Strength 1 of either is the
length of the model's own difference to the plain prompt.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.control.modulation import Along
from circuits.data.prompts import asked_prompts, plain_prompts
from circuits.data.sev import Context
from circuits.errors import DataError
from circuits.measure.directions import Directions, unit
from circuits.measure.neurons import NeuronEffects
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.engine import engine
from circuits.model.generation import Progress, batches
from circuits.model.halving import halving
from circuits.model.protocol import Model, device_of
from circuits.model.runs import capture
from circuits.provenance import Provenance

__all__ = ["other_directions", "residuals", "strongest_neurons"]

_STEPS = 5000
"""Iterations of the probe at most; separable data need many."""


def residuals(
    model: Model,
    contexts: Sequence[Context],
    emotions: Sequence[str],
    *,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> Float[Tensor, "context judged layer d_model"]:
    """Residual streams after every layer at the last prompt position.

    ``judged`` runs over the emotions that the prompts ask for, and last the plain prompt.
    """
    prompts = asked_prompts(contexts, emotions) + plain_prompts(contexts)
    rows = [encode_prompt(model, prompt) for prompt in prompts]
    shape = (len(rows), model.cfg.n_layers, model.cfg.d_model)
    found = torch.zeros(shape)
    together = list(batches(rows, batch_size))
    parts = [[(prompts[i].key, rows[i]) for i in chosen] for chosen in together]
    for place, streams in engine().results(model, _streams, parts):
        found[together[place]] = streams
        if progress:
            progress(len(streams))
    asked = found[: -len(contexts)].reshape(len(contexts), len(emotions), *shape[1:])
    return torch.cat([asked, found[-len(contexts) :, None]], dim=1)


def other_directions(
    streams: Float[Tensor, "context judged layer d_model"],
    emotions: tuple[str, ...],
    provenance: Provenance,
) -> dict[Along, Directions]:
    """Directions after every MLP: emotion minus plain, and those of linear probes.

    Args:
        streams: As :func:`residuals` reads them, of train contexts.
        emotions: Their emotions.
        provenance: Of the results.

    Raises:
        DataError: fewer than two contexts.
    """
    if len(streams) < 2:
        raise DataError(f"directions need two or more contexts, found {len(streams)}")
    plain = streams[:, -1].mean(0)
    vectors, norm = unit(streams[:, :-1].mean(0) - plain)
    weights = torch.stack(
        [_probe(streams[:, :, layer]) for layer in range(streams.shape[2])], dim=1
    )
    found: Mapping[Along, Tensor] = {"plain": vectors, "probe": unit(weights)[0]}
    rms = streams.square().mean(-1).sqrt().mean((0, 1))
    return {
        along: Directions(
            provenance=provenance.child(along=along),
            vectors=own[:, None],
            norm=norm[:, None],
            rms=rms[None],
            emotion=emotions,
            sublayer=("mlp",),
            layer=tuple(range(streams.shape[2])),
            n_contexts=len(streams),
            n_left_out=0,
            read="prompt",
        )
        for along, own in found.items()
    }


def strongest_neurons(
    effects: NeuronEffects, emotion: str, count: int
) -> tuple[tuple[int, int], ...]:
    """(layer, neuron) of the neurons of the whole model with the largest own effects."""
    own = effects.centred[effects.index("emotion", emotion)]
    best = own.flatten().topk(count).indices.tolist()
    return tuple(sorted((i // own.shape[1], i % own.shape[1]) for i in best))


def _probe(
    streams: Float[Tensor, "context judged d_model"],
) -> Float[Tensor, "emotion d_model"]:
    """Weights of each emotion minus those of the plain prompt, in the stream's own units."""
    from sklearn.linear_model import LogisticRegression

    values = streams.flatten(0, 1).double().numpy()
    labels = np.tile(np.arange(streams.shape[1]), len(streams))
    spread = values.std(axis=0) + 1e-6
    probe = LogisticRegression(max_iter=_STEPS)
    probe.fit((values - values.mean(axis=0)) / spread, labels)
    weights = probe.coef_ / spread
    return torch.from_numpy(weights[:-1] - weights[-1]).float()


def _streams(
    model: Model, prompts: Sequence[tuple[str, list[int]]]
) -> Float[Tensor, "prompt layer d_model"]:
    """Of the last positions of prompts, given by their names and tokens."""

    def read(some: Sequence[tuple[str, list[int]]]) -> Tensor:
        tokens = pad_left([ids for _, ids in some], device_of(model))
        return capture(model, tokens, {"resid_post": _last})["resid_post"].cpu()

    return torch.cat(halving(read, prompts, lambda prompt: prompt[0]))


def _last(activation: Tensor) -> Tensor:
    return activation[:, -1]
