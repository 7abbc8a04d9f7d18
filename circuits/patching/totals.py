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
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.effects.importance import Importance
from circuits.errors import DataError
from circuits.models.engines import engine, in_order
from circuits.models.memory import halving
from circuits.models.protocol import Hook, Model
from circuits.models.run import Prefix, Trace, capture, check_values, prefill_prefix, trace
from circuits.models.tokens import Tokens
from circuits.names import hook
from circuits.patching.pairs import Pair, Projection, clean_tokens, corrupt_tokens, make_pairs
from circuits.prompts.sev import Context
from circuits.prompts.templates import Template
from circuits.records import Record

__all__ = [
    "TotalEstimates",
    "ranked_first",
    "total_estimates",
]

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
    """Attributions of all heads and neurons, asked against plain, averaged over contexts.

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


@dataclass(frozen=True, eq=False)
class _Runs:
    """The emotion prompts, read but for their last token, and what neutral prompts give there."""

    model: Model
    ids: Int[Tensor, "context 1"]
    prefix: Prefix
    plain: dict[str, Float[Tensor, "context layer ..."]]
    readout: Projection

    def trace(self, hooks: Sequence[Hook] = ()) -> Trace:
        sites = {site: range(self.model.cfg.n_layers) for site in _SITES}
        tokens = Tokens(self.ids, torch.ones_like(self.ids, dtype=torch.bool))
        return trace(
            self.model,
            tokens,
            sites,
            self.readout.score,
            at=self.readout.site,
            hooks=hooks,
            after=self.prefix,
        )

    def select(self, rows: list[int]) -> "_Runs":
        """The same for some of the contexts."""
        if len(rows) == len(self.ids):
            return self
        plain = {site: own[rows] for site, own in self.plain.items()}
        return replace(self, ids=self.ids[rows], prefix=self.prefix.select(rows), plain=plain)

    def within(self, inside: Sequence[Tensor]) -> list[Hook]:
        """Hooks by which what lies outside is as in the neutral run."""
        return [
            (hook(site, layer), partial(_keep, inside=own[layer], value=self.plain[site][:, layer]))
            for site, own in zip(_SITES, inside, strict=True)
            for layer in range(self.model.cfg.n_layers)
            if own.shape[1]
        ]


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
    readout = Projection(reference, site=importance.read_at)

    def begin(own: Sequence[Pair]) -> tuple[_Runs, list[Tensor], list[Tensor]]:
        with torch.no_grad():
            plain = capture(model, corrupt_tokens(model, own), dict.fromkeys(_SITES, _at_end))
            ids, prefix = prefill_prefix(model, clean_tokens(model, own))
        runs = _Runs(model, ids, prefix, plain, readout)
        first = runs.trace()
        change = [_at_first(first.values[site]) - plain[site] for site in _SITES]
        effects = _effects(first, change)
        for found in effects:
            check_values(model, found, "the gradient of the readout", [p.clean.ids for p in own])
        return runs, change, effects

    parts = halving(begin, pairs, lambda pair: pair.name)
    alone = _means([effects for _, _, effects in parts])
    inside = [ranked_first(own, count) for own, count in zip(alone, counts, strict=True)]
    found = []
    for runs, change, _ in parts:

        def within(
            rows: Sequence[int], runs: _Runs = runs, change: Sequence[Tensor] = change
        ) -> list[Tensor]:
            some = runs.select(list(rows))
            return _effects(some.trace(some.within(inside)), [own[list(rows)] for own in change])

        found += halving(within, range(len(runs.ids)), lambda row: pairs[row].name, rows=False)
    together = _means(found)
    heads, neurons = ((a + b) / 2 for a, b in zip(alone, together, strict=True))
    return heads, neurons


def _effects(
    found: Trace, change: Sequence[Tensor]
) -> list[Float[Tensor, "context layer component"]]:
    effects = []
    for site, own in zip(_SITES, change, strict=True):
        product = _at_first(found.gradients[site]) * own
        effects.append(product.sum(-1) if site == "z" else product)
    return effects


def _means(parts: Sequence[Sequence[Tensor]]) -> list[Float[Tensor, "layer component"]]:
    return [torch.cat(list(own)).mean(0) for own in zip(*parts, strict=True)]


def _at_first(layers: Mapping[int, Tensor]) -> Float[Tensor, "context layer ..."]:
    # Layers of a model that is spread over devices have theirs on several.
    return torch.stack([layers[i][:, 0].float().cpu() for i in range(len(layers))], dim=1)


def _keep(activation: Tensor, hook: object, *, inside: Tensor, value: Tensor) -> Tensor:
    chosen = inside.to(activation.device).reshape(-1, *[1] * (activation.ndim - 3))
    return torch.where(chosen, activation, value[:, None].to(activation))


def _at_end(activation: Tensor) -> Tensor:
    return activation[:, -1].cpu()
