"""Ablating sets of components, random sets beside them, and adding them where nothing asks.

Runs of circuits: in the clean run everything outside the circuit is ablated.

Every head (z) and every neuron (post) that the circuit does not have is replaced, at the last
position or at all matched ones, by its value in the corrupt run of the same context (resample),
by a mean over neutral prompts, or by zero. What the circuit has is computed anew from what comes
in. The embedding stays, and so do the tokens of the asking line, which have no counterpart in the
corrupt run.

Many circuits run side by side: as copies of the last token that share what was read before it,
or, if more positions change, as rows of a pass that begins at the first matched one.

Runs in which many sets of components are added to: a neutral prompt, and differences on top.

To every head (z) and neuron (post) of a set is added, at the last position of a neutral prompt,
what it gives more when an emotion is asked for. The sets run side by side, as copies of the last
token that share what was read before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.circuit.circuit import Circuit
from circuits.effects.activations import NeutralMeans
from circuits.errors import CircuitError, DataError
from circuits.models.edits import Add, edited
from circuits.models.memory import halving
from circuits.models.protocol import Hook, Model, device_of
from circuits.models.run import (
    CachedRun,
    Prefix,
    branch,
    cache_run,
    capture,
    prefill_prefix,
    reading,
    resume,
)
from circuits.models.tokens import encode, pad_left
from circuits.names import hook
from circuits.patching.pairs import CleanCorrupt, LogitDifference, Projection
from circuits.prompts.sev import Context
from circuits.prompts.templates import neutral_prompts

__all__ = [
    "ORDERS",
    "Ablation",
    "AblationRuns",
    "Begun",
    "Masks",
    "PartKind",
    "Positions",
    "begin_neutral",
    "random_masks",
    "ranked_sets",
    "run_added",
    "run_circuits",
    "shuffled",
    "sizes_to",
    "stand",
]


@dataclass(frozen=True, eq=False)
class Masks:
    """Which heads and neurons are inside; a row is a circuit."""

    heads: Bool[Tensor, "row layer head"]
    neurons: Bool[Tensor, "row layer neuron"]

    def __len__(self) -> int:
        """How many circuits."""
        return len(self.heads)

    def __getitem__(self, rows: slice | list[int]) -> "Masks":
        """Some of the circuits."""
        return Masks(self.heads[rows], self.neurons[rows])

    @property
    def flat(self) -> Bool[Tensor, "row component"]:
        """One column per component: heads, then neurons, layer by layer."""
        return torch.cat([self.heads.flatten(1), self.neurons.flatten(1)], dim=1)

    def like(self, flat: Bool[Tensor, "row component"]) -> "Masks":
        """Masks of the same model from their :attr:`flat` form."""
        heads, neurons = self.heads.shape[1:], self.neurons.shape[1:]
        own, rest = flat.split([heads.numel(), neurons.numel()], dim=1)
        return Masks(own.reshape(len(flat), *heads), rest.reshape(len(flat), *neurons))

    def spread(self, values: Float[Tensor, " layer"]) -> Float[Tensor, " component"]:
        """A number per layer and kind for every component: its place in the flat form."""
        _, layers, heads = self.heads.shape
        own = values.repeat_interleave(heads)
        return torch.cat([own, values.repeat_interleave(self.neurons.shape[2]) + layers])

    @classmethod
    def of(cls, model: Model, circuits: Sequence[Circuit]) -> "Masks":
        """The circuits of a model.

        Raises:
            CircuitError: a circuit names a head or neuron that the model does not have.
        """
        cfg = model.cfg
        heads = torch.zeros(len(circuits), cfg.n_layers, cfg.n_heads, dtype=torch.bool)
        neurons = torch.zeros(len(circuits), cfg.n_layers, cfg.d_mlp, dtype=torch.bool)
        for row, circuit in enumerate(circuits):
            _fill(heads[row], circuit.heads, circuit.emotion, "head")
            _fill(neurons[row], circuit.neurons, circuit.emotion, "neuron")
        return cls(heads, neurons)


def random_masks(circuit: Masks, draws: int, random: torch.Generator) -> Masks:
    """Random circuits with as many heads and neurons in every layer, from those it has not.

    Where a layer has too few others, all of them and some of the circuit's own are taken, so that
    the sizes agree.

    Args:
        circuit: One circuit.
        draws: How many.
        random: Decides the draws.
    """
    own = circuit.flat[0]
    # Sorted by layer and kind, then others before own, then at random: the first ones are taken.
    order = torch.rand(draws, len(own), generator=random) + own
    return circuit.like(_first_of_groups(order, own[None], _groups(circuit)))


def shuffled(
    masks: Masks, draws: int, random: torch.Generator
) -> Bool[Tensor, "draw row component"]:
    """Nested circuits at random: as many per layer and kind as each of ``masks``, in flat form."""
    flat, groups = masks.flat, _groups(masks)
    order = torch.rand(draws, flat.shape[1], generator=random)
    return torch.stack([_first_of_groups(order, row[None], groups) for row in flat], dim=1)


def _first_of_groups(
    order: Float[Tensor, "draw component"],
    sizes_of: Bool[Tensor, "1 component"],
    groups: Float[Tensor, " component"],
) -> Bool[Tensor, "draw component"]:
    """In every group, as many of the first in ``order`` as ``sizes_of`` has there."""
    count = int(groups.max()) + 1
    index = groups.long()
    sizes = torch.zeros(count, dtype=torch.long).index_add(0, index, sizes_of[0].long())
    # Orders lie between 0 and 2, so groups stay apart.
    place = (order + 2 * groups).argsort(dim=1).argsort(dim=1)
    starts = torch.bincount(index, minlength=count).cumsum(0)
    starts = torch.cat([starts.new_zeros(1), starts[:-1]])
    return place - starts[index] < sizes[index]


def _groups(masks: Masks) -> Float[Tensor, " component"]:
    layers = masks.heads.shape[1]
    return masks.spread(torch.arange(layers, dtype=torch.float64))


def _fill(
    mask: Bool[Tensor, "layer component"],
    places: Sequence[tuple[int, int]],
    emotion: str,
    kind: str,
) -> None:
    for layer, index in places:
        if layer >= mask.shape[0] or index >= mask.shape[1]:
            raise CircuitError(
                f"the circuit of {emotion!r} names {kind} {index} of layer {layer}; the model "
                f"has {mask.shape[0]} layers of {mask.shape[1]} {kind}s. "
                "Is it another model's circuit?"
            )
        mask[layer, index] = True


Ablation = Literal["resample", "mean", "zero"]
"""``resample``: the corrupt run's value of the same context, position by position. ``mean``: the
mean over neutral prompts at their last position, the same at all positions. ``zero``: nothing."""

Positions = Literal["last", "matched"]
"""Where components are replaced: at the last position, where the reply begins and circuits are
measured and written; or at every matched position."""

_COPIES = 64
"""Circuits beside each other: more gain nothing, for copies look past each other."""


@dataclass(frozen=True, eq=False)
class AblationRuns:
    """The cached clean runs of some contexts, to be continued with any circuit's ablation."""

    model: Model
    from_token: tuple[Tensor, Prefix] | None
    """If only the last position changes: the last tokens, and what was read before them."""
    from_start: CachedRun | None
    """Else: the whole pass."""
    replaced: Bool[Tensor, "context pos"]
    """Which of the positions that are run again have a counterpart, and are replaced."""
    z: tuple[Float[Tensor, "context pos head d_head"], ...]
    """Per layer: what heads outside the circuit give."""
    post: tuple[Float[Tensor, "context pos neuron"], ...]
    """Per layer: what neurons outside the circuit give."""


@torch.no_grad()
def stand(
    model: Model,
    pairs: CleanCorrupt,
    *,
    ablation: Ablation = "resample",
    positions: Positions = "last",
    means: NeutralMeans | None = None,
) -> AblationRuns:
    """Run the clean prompts once, and for ``resample`` the corrupt ones.

    Args:
        model: The model.
        pairs: One per context.
        ablation: What stands for a component outside the circuit.
        positions: Where.
        means: For ``mean``: means over neutral prompts of the train contexts.

    Raises:
        DataError: there is no pair, or there are no means where they are needed.
    """
    if not pairs:
        raise DataError("no context to run a circuit on; give one or more")
    if ablation == "mean" and means is None:
        raise DataError("mean ablation needs the means of the neutral prompts; give them")
    wide = 1 if positions == "last" else max(pair.matched for pair in pairs)
    counts = torch.tensor([min(wide, pair.matched) for pair in pairs])
    replaced = torch.arange(wide)[None] >= wide - counts[:, None]
    z, post = _values(model, pairs, wide, means if ablation == "mean" else None, ablation)
    tokens = pairs.clean
    device = tokens.ids.device
    return AblationRuns(
        model,
        prefill_prefix(model, tokens) if wide == 1 else None,
        cache_run(model, tokens) if wide > 1 else None,
        replaced.to(device),
        tuple(value.to(device) for value in z),
        tuple(value.to(device) for value in post),
    )


@torch.no_grad()
def run_circuits(
    on: AblationRuns, masks: Masks, readouts: Sequence[Projection | LogitDifference]
) -> Float[Tensor, "row context readout"]:
    """The readouts of every circuit in every context; a full circuit is the clean run.

    Raises:
        DataError: a readout reads logits, which copies of the last token do not make.
    """
    if on.from_token is not None and any(readout.site == "logits" for readout in readouts):
        raise DataError("the logit difference needs whole runs; choose positions 'matched'")
    step = _COPIES if on.from_token else max(1, 3 * _COPIES // len(on.replaced))
    parts = [range(len(masks))[first : first + step] for first in range(0, len(masks), step)]
    found = [
        halving(
            lambda rows: _run(on, masks[list(rows)], readouts),
            part,
            lambda row: f"the run of circuit {row} in all contexts",
            rows=False,
        )
        for part in parts
    ]
    return torch.cat([own for part in found for own in part])


def _values(
    model: Model, pairs: CleanCorrupt, wide: int, means: NeutralMeans | None, ablation: Ablation
) -> tuple[list[Tensor], list[Tensor]]:
    layers, cfg = range(model.cfg.n_layers), model.cfg
    if ablation == "resample":
        picks = {site: lambda activation: activation[:, -wide:] for site in ("z", "post")}
        found = capture(model, pairs.corrupt, picks)
        return [found["z"][:, i] for i in layers], [found["post"][:, i] for i in layers]
    z = means.z if means else torch.zeros(len(layers), cfg.n_heads, cfg.d_head)
    post = means.post if means else torch.zeros(len(layers), cfg.d_mlp)
    shape = (len(pairs), wide)
    return (
        [z[i].expand(*shape, -1, -1) for i in layers],
        [post[i].expand(*shape, -1) for i in layers],
    )


def _run(
    on: AblationRuns, masks: Masks, readouts: Sequence[Projection | LogitDifference]
) -> Float[Tensor, "row context readout"]:
    contexts, last, seen = len(on.replaced), on.model.cfg.n_layers - 1, {}
    copies = on.from_token is not None

    def see(activation: Tensor, hook: object, *, site: str) -> None:
        # Copies stand side by side along the position axis: [context circuit width].
        end = activation.transpose(0, 1).flatten(0, 1) if copies else activation[:, -1]
        seen[site] = end

    hooks: list[Hook] = []
    for layer in range(last + 1):
        for site, inside, value in (
            ("z", masks.heads[:, layer, :, None], on.z[layer]),
            ("post", masks.neurons[:, layer], on.post[layer]),
        ):
            if not value.shape[-1]:
                continue  # no neurons
            own = partial(_replace, copies=copies, inside=inside, value=value, replaced=on.replaced)
            hooks.append((hook(site, layer), own))
    sites = {readout.site for readout in readouts}
    hooks += [(_place(site, last), partial(see, site=site)) for site in sites]
    if on.from_token is not None:
        with on.model.hooks(fwd_hooks=hooks):
            branch(on.model, *on.from_token, len(masks))
    elif on.from_start is not None:
        start = on.from_start.width - on.replaced.shape[1]
        order = list(range(contexts)) * len(masks)
        resid = on.from_start.sites["resid_pre"][0][:, start:][order]
        resume(on.model, on.from_start, order, start, 0, resid, hooks)
    scores = [readout.score(seen[readout.site]) for readout in readouts]
    return torch.stack(scores, dim=-1).reshape(len(masks), contexts, -1).float().cpu()


def _place(site: str, last: int) -> str:
    return "unembed.hook_out" if site == "logits" else hook(site, last)


def _replace(
    activation: Tensor,
    hook: object,  # TransformerLens names it `hook`
    *,
    copies: bool,
    inside: Tensor,
    value: Tensor,
    replaced: Tensor,
) -> Tensor:
    inside, value = inside.to(activation.device), value.to(activation)
    if copies:
        return torch.where(inside, activation, value)
    # Axes: circuit, context, position, part.
    by_row = activation.reshape(len(inside), *replaced.shape, *activation.shape[2:])
    moved = replaced.to(activation.device).reshape(1, *replaced.shape, *[1] * (by_row.ndim - 3))
    return torch.where(inside[:, None, None] | ~moved, by_row, value).reshape(activation.shape)


Begun = tuple[Int[Tensor, "context 1"], Prefix]
"""The last tokens of some prompts, and what was read before them."""


@torch.no_grad()
def begin_neutral(model: Model, contexts: Sequence[Context]) -> Begun:
    """Read the neutral prompts of some contexts up to their last token."""
    rows = [encode(model, prompt) for prompt in neutral_prompts(contexts)]
    return prefill_prefix(model, pad_left(rows, device_of(model)))


@torch.no_grad()
def run_added(
    model: Model,
    begun: Begun,
    masks: Masks,
    z: Float[Tensor, "layer head d_head"],
    post: Float[Tensor, "layer neuron"],
    readouts: Sequence[Projection],
) -> Float[Tensor, "row context readout"]:
    """The readouts with every set added to; an empty set is the neutral run.

    Args:
        model: The model.
        begun: Its neutral prompts, from :func:`begin_neutral`.
        masks: The sets.
        z: What is added to a head that is in the set.
        post: What is added to a neuron that is in the set.
        readouts: What the runs are judged by.
    """
    end = model.cfg.n_layers - 1
    sites = {readout.site: lambda activation: activation for readout in readouts}

    def add(chosen: Sequence[int]) -> Tensor:
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
        parts += halving(add, chosen, lambda row: f"set {row} in all contexts", rows=False)
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


PartKind = Literal["head", "neuron"]

ORDERS = ("top", "bottom", "single")
"""The k ranked first; the k ranked last; the one at rank k alone."""


def sizes_to(count: int, steps: int = 12) -> tuple[int, ...]:
    """Numbers from 1 to ``count``, about ``steps`` of them, each about the same factor larger.

    >>> sizes_to(36, 8)
    (1, 2, 3, 5, 8, 13, 22, 36)
    """
    powers = (count ** (i / max(1, steps - 1)) for i in range(steps))
    return tuple(sorted({1, count, *(round(power) for power in powers)}))


def ranked_sets(
    model: Model,
    effects: Float[Tensor, "layer component"],
    kind: PartKind,
    sizes: tuple[int, ...],
    draws: int,
    random: torch.Generator,
) -> Masks:
    """All sets as rows: ``top`` by size, ``bottom`` by size, ``single`` by size, then the draws.

    A draw has, for every size, as many components in every layer as the top set of that size,
    from those it has not; where a layer has too few others, some of its own. Sets of all
    components are therefore all the same.

    Args:
        model: Gives the numbers of layers, heads and neurons.
        effects: Largest first; ties go to the earlier component.
        kind: What ``effects`` are of.
        sizes: How many components the sets have.
        draws: Random sets of every size.
        random: Decides the draws.

    Raises:
        DataError: a size is not between one and the number of components.
    """
    count = effects.numel()
    if not sizes or min(sizes) < 1 or max(sizes) > count:
        raise DataError(f"sets of {', '.join(map(str, sizes)) or 'no'} {kind}s; give 1 to {count}")
    place = effects.flatten().argsort(descending=True, stable=True).argsort()
    size = torch.tensor(sizes)[:, None]
    top = _masks(model, kind, place < size)
    bottom = _masks(model, kind, place >= count - size)
    single = _masks(model, kind, place == size - 1)
    drawn = [random_masks(top[[row]], draws, random).flat for row in range(len(sizes))]
    chosen = torch.stack(drawn, dim=1).flatten(0, 1)
    return top.like(torch.cat([top.flat, bottom.flat, single.flat, chosen]))


def _masks(model: Model, kind: PartKind, chosen: Bool[Tensor, "row component"]) -> Masks:
    cfg, rows = model.cfg, len(chosen)
    heads = torch.zeros(rows, cfg.n_layers, cfg.n_heads, dtype=torch.bool)
    neurons = torch.zeros(rows, cfg.n_layers, cfg.d_mlp, dtype=torch.bool)
    if kind == "head":
        return Masks(chosen.reshape(heads.shape), neurons)
    return Masks(heads, chosen.reshape(neurons.shape))
