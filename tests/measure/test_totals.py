"""Estimated total effects: beside a plain computation, and what they cost."""

from functools import partial
from typing import Any

import pytest
import torch

from circuits.effects.importance import sublayer_importance
from circuits.errors import DataError
from circuits.names import hook
from circuits.patching.pairs import make_pairs
from circuits.patching.totals import ranked_first, total_estimates

COUNTS = (3, 9)


@pytest.fixture(scope="module")
def importance(llama, grid, directions):
    return sublayer_importance(llama, grid, directions, stable=(1, 2), doses=(0.1,))[0]


@pytest.fixture(scope="module")
def totals(llama, contexts, importance):
    return total_estimates(llama, contexts[:3], importance, COUNTS)


def plain_gradients(model, tokens, vector, inside, corrupt):
    """Values and gradients at the last position in one whole pass with autograd."""
    held = {}

    def take(activation, hook, *, site, layer):
        if inside is not None:
            keep = inside[site][layer]
            keep = keep[:, None] if site == "z" else keep
            new = activation.clone()
            new[:, -1] = torch.where(keep, activation[:, -1], corrupt[site, layer])
            activation = new
        held[site, layer] = activation
        return activation

    end = {}
    places = [(site, i) for site in ("z", "post") for i in range(model.cfg.n_layers)]
    hooks: list[Any] = [
        (hook(*place), partial(take, site=place[0], layer=place[1])) for place in places
    ]
    hooks.append((hook("resid_post", model.cfg.n_layers - 1), lambda a, hook: end.update(x=a)))
    with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
        model(tokens.ids, attention_mask=tokens.mask.long())
        grads = torch.autograd.grad((end["x"][:, -1] @ vector).sum(), list(held.values()))
    values = {place: value[:, -1].detach() for place, value in held.items()}
    return values, {place: g[:, -1] for place, g in zip(held, grads, strict=True)}


def test_estimates_are_difference_times_mean_gradient_of_both_runs(
    llama, contexts, importance, totals
):
    e = importance.index("emotion", "fear")
    pairs, vector = make_pairs(llama, contexts[:3], "fear"), importance.reference[e]
    corrupt, _ = plain_gradients(llama, pairs.corrupt, vector, None, None)
    clean, first = plain_gradients(llama, pairs.clean, vector, None, None)

    def effects(gradients):
        found = {}
        for site in ("z", "post"):
            places = [(site, i) for i in range(llama.cfg.n_layers)]
            products = [(gradients[place] * (clean[place] - corrupt[place])) for place in places]
            rows = [p.sum(-1) if site == "z" else p for p in products]
            found[site] = torch.stack([row.mean(0) for row in rows])
        return found

    alone = effects(first)
    inside = {"z": ranked_first(alone["z"], 3), "post": ranked_first(alone["post"], 9)}
    _, second = plain_gradients(llama, pairs.clean, vector, inside, corrupt)
    together = effects(second)
    for site, found in (("z", totals.head_effect[e]), ("post", totals.neuron_effect[e])):
        expected = (alone[site] + together[site]) / 2
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_no_context_is_refused(llama, importance):
    with pytest.raises(DataError, match="give one or more"):
        total_estimates(llama, (), importance, COUNTS)
