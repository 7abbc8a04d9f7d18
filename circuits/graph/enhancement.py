"""Runs in which many sets of components are enhanced: a plain prompt, and differences on top.

To every head (z) and neuron (post) of a set is added, at the last position of a plain prompt, what
it gives more when an emotion is asked for. The sets run side by side, as copies of the last token
that share what was read before it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.data.prompts import plain_prompts
from circuits.data.sev import Context
from circuits.graph.masks import Masks
from circuits.measure.readouts import Projection
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.edits import Add, edited
from circuits.model.forward import Prefix, branch, prefill_prefix
from circuits.model.halving import halving
from circuits.model.protocol import Model, device_of
from circuits.model.runs import reading

__all__ = ["Begun", "begin_plain", "run_enhanced"]

_COPIES = 64

Begun = tuple[Int[Tensor, "context 1"], Prefix]
"""The last tokens of some prompts, and what was read before them."""


@torch.no_grad()
def begin_plain(model: Model, contexts: Sequence[Context]) -> Begun:
    """Read the plain prompts of some contexts up to their last token."""
    rows = [encode_prompt(model, prompt) for prompt in plain_prompts(contexts)]
    return prefill_prefix(model, pad_left(rows, device_of(model)))


@torch.no_grad()
def run_enhanced(
    model: Model,
    begun: Begun,
    masks: Masks,
    z: Float[Tensor, "layer head d_head"],
    post: Float[Tensor, "layer neuron"],
    readouts: Sequence[Projection],
) -> Float[Tensor, "row context readout"]:
    """The readouts with every set enhanced; an empty set is the plain run.

    Args:
        model: The model.
        begun: Its plain prompts, from :func:`begin_plain`.
        masks: The sets.
        z: What is added to a head that is in the set.
        post: What is added to a neuron that is in the set.
        readouts: What the runs are judged by.
    """
    end = model.cfg.n_layers - 1
    sites = {readout.site: _as_it_is for readout in readouts}

    def enhance(chosen: Sequence[int]) -> Tensor:
        some = masks[list(chosen)]
        edits = _added(some, z, post)
        with edited(model, edits), reading(model, sites, [end]) as table:
            branch(model, *begun, len(some))
        # A context's copies stand together.
        rows = {site: table[site][end].reshape(len(begun[0]), len(some), -1) for site in sites}
        scores = [r.score(rows[r.site].transpose(0, 1).flatten(0, 1)) for r in readouts]
        found = torch.stack(scores, dim=-1).reshape(len(some), len(begun[0]), -1)
        return found.float().cpu()

    parts: list[Tensor] = []
    for first in range(0, len(masks), _COPIES):
        chosen = range(len(masks))[first : first + _COPIES]
        parts += halving(enhance, chosen, lambda row: f"set {row} in all contexts", rows=False)
    return torch.cat(parts)


def _added(
    masks: Masks, z: Float[Tensor, "layer head d_head"], post: Float[Tensor, "layer neuron"]
) -> list[Add]:
    added = [
        Add("z", layer, masks.heads[:, layer, :, None] * z[layer], positions="variant")
        for layer in range(len(z))
        if bool(masks.heads[:, layer].any())
    ]
    return added + [
        Add("post", layer, masks.neurons[:, layer] * post[layer], positions="variant")
        for layer in range(len(post))
        if bool(masks.neurons[:, layer].any())
    ]


def _as_it_is(activation: Tensor) -> Tensor:
    return activation
