"""Patching, paths and attribution, held against whole runs of single, unpadded prompts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families.models import N_HEADS, N_LAYERS, Evaluator
from torch import Tensor

from circuits.models.run import trace
from circuits.models.tokens import pad_left
from circuits.names import hook
from circuits.patching.attribution import attribute, relevance_rules
from circuits.patching.patch import patch_components, patch_heads, patch_sites
from circuits.patching.paths import exact_paths, path_effects

LAYERS = range(N_LAYERS)
_END = hook("resid_post", N_LAYERS - 1)


def _readout(evaluator: Evaluator, ids: Any, hooks: Any = ()) -> Tensor:
    return evaluator.plainly(ids, [_END], hooks)[_END][-1] @ evaluator.readout.vector


def _patched(evaluator: Evaluator, site: str, layer: int, unit: int | None = None) -> Tensor:
    """Mean readout of corrupt runs with clean values, minus that without."""
    return _moved(evaluator, site, layer, unit, 1.0)


def _moved(evaluator: Evaluator, site: str, layer: int, unit: int | None, share: float) -> Tensor:
    """The same with a share of the way from the corrupt to the clean value gone."""
    name, effects = hook(site, layer), []
    for pair in evaluator.pairs:
        ends = [evaluator.plainly(side.ids, [name])[name] for side in (pair.clean, pair.corrupt)]
        n = pair.matched
        by = torch.zeros_like(ends[1])
        by[-n:] = ends[0][-n:] - ends[1][-n:]
        if unit is not None:
            by[:, [i for i in range(by.shape[1]) if i != unit]] = 0
        changed = _readout(evaluator, pair.corrupt.ids, [(name, _adding(share * by))])
        effects.append(changed - _readout(evaluator, pair.corrupt.ids))
    return torch.stack(effects).mean()


def _adding(by: Tensor) -> Callable[..., Tensor]:
    return lambda x, hook: x + by


def _slope(evaluator: Evaluator, site: str, layer: int, unit: int | None = None) -> Tensor:
    step = 1e-2
    up, down = (_moved(evaluator, site, layer, unit, share) for share in (step, -step))
    return (up - down) / (2 * step)


def _near(found: Tensor, wanted: Tensor, size: Tensor, *, to: float = 2e-4) -> None:
    assert size > 1e-3, "nothing to compare"
    torch.testing.assert_close(found, wanted, rtol=0, atol=to * float(size))


def patched_sublayers(evaluator: Evaluator) -> None:
    names = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    found = patch_sites(evaluator.pairs, evaluator.readout, sites=names, by="all")
    size = found.effect.abs().max()
    for s, site in enumerate(names):
        for layer in LAYERS:
            _near(found.effect[s, layer, 0], _patched(evaluator, site, layer), size)


def patched_middle(evaluator: Evaluator) -> None:
    """The stream between the sublayers of layer 0 holds all that differs, and so the whole gap."""
    found = patch_sites(evaluator.pairs, evaluator.readout, sites=("resid_mid",), by="all")
    _near(found.effect[0, 0, 0], found.gap[0] - found.gap[1], found.effect.abs().max())


def patched_heads(evaluator: Evaluator) -> None:
    found = patch_heads(evaluator.pairs, evaluator.readout, by="all").effect
    for layer, head in ((0, 0), (1, N_HEADS - 1)):
        _near(found[layer, head, 0], _patched(evaluator, "z", layer, head), found.abs().max())


def patched_inside_heads(evaluator: Evaluator) -> None:
    """Queries of heads; keys and values of their groups."""
    for site, layer, unit in (("q", 1, 2), ("k", 1, 0), ("v", 0, 0)):
        found = patch_heads(evaluator.pairs, evaluator.readout, site=site, by="all")
        wanted = _patched(evaluator, site, layer, unit)
        _near(found.effect[layer, unit, 0], wanted, found.effect.abs().max())


def patched_parts(evaluator: Evaluator) -> None:
    places = [("L0H1", "z", 0, 1), ("L1.mlp", "mlp_out", 1, None), ("L0.attn", "attn_out", 0, None)]
    if evaluator.has_neurons:
        places.append(("L0N5", "post", 0, 5))
    names = [place[0] for place in places]
    found = patch_components(evaluator.pairs, evaluator.readout, names).mean(0)
    for own, (_, site, layer, unit) in zip(found, places, strict=True):
        _near(own, _patched(evaluator, site, layer, unit), found.abs().max())


def paths(evaluator: Evaluator) -> None:
    """Paths add up to their senders; the direct ones are exact; an MLP's neurons to the MLP."""
    model, edges = evaluator.model, [("embed", "readout"), ("L0H0", "readout")]
    every = [(1, neuron) for neuron in range(model.cfg.d_mlp)]
    found = path_effects(evaluator.pairs, evaluator.readout, neurons=every)
    assert found.gap < 1e-4
    own = torch.tensor([name.startswith("L1N") for name in found.receiver])
    if evaluator.has_neurons:
        whole = found.mean[:, found.index("receiver", "L1.mlp")]
        _near(found.mean[:, own].sum(1), whole, found.mean.abs().max())
    exact = exact_paths(evaluator.pairs, evaluator.readout, edges)
    straight = [found.at("mean", sender=s, receiver=r) for s, r in edges]
    assert exact.mean.tolist() == pytest.approx(straight, rel=1e-3, abs=1e-4)


def exact_paths_through_heads(evaluator: Evaluator) -> None:
    """A head's query that sees another embedding; the oracle puts the query of such a stream."""
    edge = ("L0H0", "L1H1.q")
    found = exact_paths(evaluator.pairs, evaluator.readout, [edge])
    wanted = [_query_path(evaluator, pair) for pair in evaluator.pairs]
    size = torch.stack(wanted).abs().max().clamp_min(1e-2)
    _near(found.effect[:, 0], torch.stack(wanted), size, to=1e-3)


def _query_path(evaluator: Evaluator, pair: Any) -> Tensor:
    z, stream, query = hook("z", 0), hook("resid_pre", 1), hook("q", 1)
    clean, corrupt = (evaluator.plainly(s.ids, [z, stream])[z] for s in (pair.clean, pair.corrupt))
    n = pair.matched
    write = evaluator.model.blocks[0].attn.W_O.detach()[0]
    apart = (corrupt[-n:, 0] - clean[-n:, 0]) @ write
    by = torch.zeros(len(pair.clean.ids), write.shape[1])
    by[-n:] = apart
    seen = evaluator.plainly(pair.clean.ids, [query], [(stream, _adding(by))])[query]

    def put(x: Tensor, hook: object) -> Tensor:
        x = x.clone()
        x[0, -n:, 1] = seen[-n:, 1]
        return x

    return _readout(evaluator, pair.clean.ids) - _readout(evaluator, pair.clean.ids, [(query, put)])


def _scores(evaluator: Evaluator, method: Any, steps: int = 4) -> Any:
    return attribute(evaluator.pairs, evaluator.readout, method, steps=steps, sample=2)


def attribution(evaluator: Evaluator) -> None:
    """AtP is the slope of patching where it begins."""
    found = _scores(evaluator, "atp")
    for layer, head in ((0, 1), (1, 2)):
        wanted = _slope(evaluator, "z", layer, head)
        _near(found.heads[0, layer, head], wanted, found.heads.abs().max(), to=2e-2)
    for s, site in enumerate(("attn_out", "mlp_out")):
        wanted, size = _slope(evaluator, site, 0), found.sublayers.abs().max()
        _near(found.sublayers[0, 0, s], wanted, size, to=2e-2)
    if evaluator.has_neurons:
        strongest = int(found.neurons[0, 0].abs().argmax())
        wanted = _slope(evaluator, "post", 0, strongest)
        _near(found.neurons[0, 0, strongest], wanted, found.neurons.abs().max(), to=2e-2)


def attribution_star(evaluator: Evaluator) -> None:
    """No gradient goes from the last layer through an earlier one, so nothing is dropped there."""
    plain, found = _scores(evaluator, "atp"), _scores(evaluator, "atp*")
    _near(found.heads[0, -1], plain.heads[0, -1], plain.heads.abs().max())
    _near(found.sublayers[0, -1], plain.sublayers[0, -1], plain.sublayers.abs().max())
    assert torch.isfinite(found.queries).all()
    assert found.queries.abs().max() > 0


def relevance(evaluator: Evaluator) -> None:
    """Values stay; without biases the relevance after every sublayer is the readout."""
    model = evaluator.model
    tokens = pad_left([pair.clean.ids for pair in evaluator.pairs], torch.device("cpu"))
    stages = {"resid_pre": (0, 1), "resid_post": (0,)}
    found = trace(model, tokens, stages, evaluator.readout.score, hooks=relevance_rules(model))
    wanted = torch.stack([_readout(evaluator, pair.clean.ids) for pair in evaluator.pairs])
    torch.testing.assert_close(found.readout, wanted, rtol=1e-4, atol=1e-4)
    if not any("bias" in name for name, _ in evaluator.hf.named_parameters()):
        for site, layers in stages.items():
            for layer in layers:
                own = (found.values[site][layer] * found.gradients[site][layer]).sum((1, 2))
                torch.testing.assert_close(own, wanted, rtol=2e-3, atol=1e-3)
    scores = _scores(evaluator, "relp")
    assert torch.isfinite(scores.heads).all()
    # The readout is linear in what the last layer writes, and so is its relevance.
    _near(
        scores.sublayers[0, 1, 1], _patched(evaluator, "mlp_out", 1), scores.sublayers.abs().max()
    )


def integrated_activations(evaluator: Evaluator) -> None:
    """In the last MLP's write the readout is linear: its integral is the patched effect."""
    _last_is_exact(evaluator, "ig-activations")


def integrated_inputs(evaluator: Evaluator) -> None:
    """The same, and the integrals at the inputs add up to what the inputs change."""
    _last_is_exact(evaluator, "ig-inputs")
    found = _scores(evaluator, "ig-inputs", steps=48)
    gap = found.gap[0] - found.gap[1]
    if not evaluator.has_neurons:
        return  # the choice of experts is a step, over which no gradient adds up
    _near(found.inputs[0], gap, found.gap.abs().max(), to=5e-2)


def _last_is_exact(evaluator: Evaluator, method: str) -> None:
    found = _scores(evaluator, method, steps=2).sublayers[0]
    assert torch.isfinite(found).all()
    _near(found[1, 1], _patched(evaluator, "mlp_out", 1), found.abs().max())
