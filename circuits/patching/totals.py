"""An estimate of what every head and neuron does to the readout in all, downstream included.

Attribution by gradient: what a component gives differently when the emotion is asked for, times
the gradient of the readout there (Syed et al. 2023, arXiv 2310.10348), at the last position,
where the reply begins. The gradient is the mean of two runs. The first is the emotion prompt as it
is. The second is the same with only the components that the first ranks highest, all others as in
the neutral prompt: a component that matters only together with others that a circuit lacks loses
its rank, and one that saturates beside them gains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.effects.importance import Importance
from circuits.errors import DataError
from circuits.models.engines import engine, in_order
from circuits.models.memory import halving
from circuits.models.protocol import Hook, Model
from circuits.models.run import Trace, capture, check_values, hook_name, trace
from circuits.models.tokens import Tokens
from circuits.patching.pairs import CleanCorrupt, Pair, Projection, make_pairs
from circuits.prompts.sev import Context
from circuits.prompts.templates import Template
from circuits.records import Record

__all__ = ["TotalEstimates", "ranked_first", "total_estimates"]

_SITES = ("z", "post")


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
    contexts: Sequence[Context],
    importance: Importance,
    counts: tuple[int, int],
    *,
    template: str | Template = "published",
) -> TotalEstimates:
    """Attributions of all heads and neurons, asked against neutral, averaged over contexts.

    Args:
        model: The model.
        contexts: Train contexts; every one is run plainly and once per emotion.
        importance: Gives the readout: its reference directions, and where they are read.
        counts: How many heads and neurons the second run keeps.
        template: How contexts become prompts.

    Raises:
        DataError: there is no context.
    """
    if not contexts:
        raise DataError("no context to estimate total effects on; give one or more")
    work = partial(
        _of_emotion, contexts=contexts, importance=importance, counts=counts, template=template
    )
    found = in_order(engine().results(model, work, importance.emotion))
    heads, neurons = (torch.stack(own) for own in zip(*found, strict=True))
    return TotalEstimates(
        head_effect=heads,
        neuron_effect=neurons,
        emotion=importance.emotion,
        layer=importance.layer,
        head=tuple(range(heads.shape[2])),
        neuron=tuple(range(neurons.shape[2])),
    )


def ranked_first(
    effects: Float[Tensor, "layer component"], count: int
) -> Bool[Tensor, "layer component"]:
    """The ``count`` largest effects; ties go to the earlier component."""
    chosen = torch.zeros(effects.numel(), dtype=torch.bool)
    chosen[effects.flatten().argsort(descending=True, stable=True)[:count]] = True
    return chosen.reshape(effects.shape)


def _of_emotion(
    model: Model,
    emotion: str,
    *,
    contexts: Sequence[Context],
    importance: Importance,
    counts: tuple[int, int],
    template: str | Template,
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer neuron"]]:
    pairs = make_pairs(model, contexts, emotion, template=template)
    reference = importance.reference[importance.index("emotion", emotion)]
    readout, layers = Projection(reference, site=importance.read_at), range(model.cfg.n_layers)

    def begin(own: Sequence[Pair]) -> tuple[CleanCorrupt, _Tables, _Tables, _Tables]:
        """Runs of some pairs, their neutral values, what changes, and the first run's effects."""
        (runs,) = replace(pairs, pairs=tuple(own)).judged(readout, "noising", _SITES)
        with torch.no_grad():
            picks = dict.fromkeys(runs.sites, lambda activation: activation[:, -1].cpu())
            plain = capture(model, runs.corrupt, picks)
        first = _trace(runs, range(len(runs)))
        change = {site: _at_first(first.values[site]) - plain[site] for site in _SITES}
        effects = _effects(first, change)
        for found in effects.values():
            check_values(model, found, "the gradient of the readout", [p.clean.ids for p in own])
        return runs, plain, change, effects

    batches = halving(begin, pairs, lambda pair: pair.name)
    alone = _means([effects for *_, effects in batches])
    inside = {site: ranked_first(alone[site], n) for site, n in zip(_SITES, counts, strict=True)}

    def within(rows: Sequence[int], runs: CleanCorrupt, plain: _Tables, change: _Tables) -> _Tables:
        own = list(rows)
        # What lies outside is as in the neutral run.
        hooks = [
            (
                hook_name(site, layer),
                partial(_keep, inside=inside[site][layer], value=plain[site][own, layer]),
            )
            for site in _SITES
            for layer in layers
            if inside[site].shape[1]
        ]
        return _effects(_trace(runs, own, hooks), {site: x[own] for site, x in change.items()})

    found: list[_Tables] = []
    for runs, plain, change, _ in batches:
        work = partial(within, runs=runs, plain=plain, change=change)
        found += halving(work, range(len(runs)), lambda row: pairs[row].name, rows=False)
    together = _means(found)
    heads, neurons = ((alone[site] + together[site]) / 2 for site in _SITES)
    return heads, neurons


_Tables = dict[str, Float[Tensor, "..."]]
"""Site -> ``[context layer ...]``."""


def _trace(runs: CleanCorrupt, rows: Sequence[int], hooks: Sequence[Hook] = ()) -> Trace:
    """The last token of some clean prompts, read after all before it."""
    ids, prefix = runs.prefix
    if len(rows) < len(runs):
        ids, prefix = ids[list(rows)], prefix.select(list(rows))
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    return trace(runs.model, tokens, runs.sites, **runs.scored, hooks=hooks, after=prefix)


def _effects(found: Trace, change: _Tables) -> _Tables:
    products = {site: _at_first(found.gradients[site]) * own for site, own in change.items()}
    return {site: own.sum(-1) if site == "z" else own for site, own in products.items()}


def _means(parts: Sequence[_Tables]) -> _Tables:
    return {site: torch.cat([part[site] for part in parts]).mean(0) for site in _SITES}


def _at_first(layers: Mapping[int, Tensor]) -> Float[Tensor, "context layer ..."]:
    # Layers of a model that is spread over devices have theirs on several.
    return torch.stack([layers[i][:, 0].float().cpu() for i in range(len(layers))], dim=1)


def _keep(activation: Tensor, hook: object, *, inside: Tensor, value: Tensor) -> Tensor:
    chosen = inside.to(activation.device).reshape(-1, *[1] * (activation.ndim - 3))
    return torch.where(chosen, activation, value[:, None].to(activation))
