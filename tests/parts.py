"""Circuits by place, and plain passes as oracles, for tests of circuits and steering."""

from functools import partial
from typing import Any

import torch

from circuits.circuit.circuit import Circuit, Node
from circuits.effects.activations import NeutralMeans
from circuits.models.run import capture
from circuits.models.tokens import encode, pad_left
from circuits.names import head_name, hook, neuron_name
from circuits.provenance import Provenance


def circuit_of(emotion, heads=(), neurons=()):
    """A circuit of these (layer, head) and (layer, neuron), without edges."""
    nodes = [Node(head_name(*place), "head", place[0], effect=1.0) for place in heads]
    nodes += [Node(neuron_name(*place), "neuron", place[0], effect=1.0) for place in neurons]
    return Circuit(emotion, tuple(nodes), ())


def axes_of(z, post):
    """The labels of layers, heads and neurons of ``[layer head d_head]`` and ``[layer neuron]``."""
    sizes = {"layer": len(z), "head": z.shape[1], "neuron": post.shape[1]}
    return {name: tuple(range(size)) for name, size in sizes.items()}


def means_of(z, post):
    """Neutral means with these values."""
    return NeutralMeans(provenance=Provenance(), z=z, post=post, n_contexts=1, **axes_of(z, post))


def at_end(model, prompts):
    """z and post at the last position of every prompt, in one batch."""
    rows = [encode(model, prompt) for prompt in prompts]
    picks: Any = dict.fromkeys(("z", "post"), lambda activation: activation[:, -1])
    return capture(model, pad_left(rows, torch.device("cpu")), picks)


@torch.no_grad()
def plain_values(model, ids):
    """z and post of every layer and position of one plain pass: (site, layer) -> ``[pos ...]``."""
    seen = {}

    def keep(activation, hook, *, place):
        seen[place] = activation[0].clone()

    places = [(site, layer) for site in ("z", "post") for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[(hook(*place), partial(keep, place=place)) for place in places]):
        model(torch.tensor([ids]))
    return seen


@torch.no_grad()
def plainly(model, ids, readouts, change: Any = None, back=1):
    """Readouts of one pass of one prompt, one component changed after the other.

    ``change`` gives the new value of a site's part in a layer, ``-1`` being the last position; only
    the last ``back`` positions are changed.
    """
    seen, last = {}, model.cfg.n_layers - 1

    def see(activation, hook):
        seen["last"] = activation[:, -1]

    def put(activation, hook, *, site, layer):
        activation = activation.clone()
        for place in range(-back, 0):
            for part in range(activation.shape[2]):
                value = activation[0, place, part]
                activation[0, place, part] = change(site, layer, part, place, value)
        return activation

    places = [(site, i) for site in ("z", "post") for i in range(last + 1)] if change else []
    hooks = [(hook(site, i), partial(put, site=site, layer=i)) for site, i in places]
    with model.hooks(fwd_hooks=[*hooks, (hook("resid_post", last), see)]):
        logits = model(torch.tensor([ids]), return_type="logits")
    read = {"logits": logits[:, -1]}
    return torch.stack([own.score(read.get(own.site, seen["last"]))[0] for own in readouts])
