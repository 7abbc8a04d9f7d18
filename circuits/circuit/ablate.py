"""Sets of components that are ablated or added to, many at once, and random sets beside them.

Ablating: in the clean run every head (z) and neuron (post) outside a circuit is replaced, at the
last position or at all matched ones, by its value in the corrupt run of the same context
(resample), by a mean over neutral prompts, or by zero. What the circuit has is computed anew from
what comes in. The embedding stays, and so do the tokens of the asking line, which have no
counterpart in the corrupt run. Adding: to every head and neuron of a set is added, at the last
position of a neutral prompt, what it gives more when an emotion is asked for.

Sets run side by side, as copies of the last token that share what was read before it; or, if more
positions change, as rows of a pass that begins at the first matched one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from circuits.circuit.circuit import Circuit
from circuits.effects.activations import NeutralMeans
from circuits.errors import CircuitError, DataError
from circuits.models.edits import Add, edited
from circuits.models.memory import halving
from circuits.models.protocol import Hook, Model, device_of
from circuits.models.run import (
    CachedRun,
    Pick,
    Prefix,
    branch,
    cache_run,
    capture,
    prefill_prefix,
    resume,
)
from circuits.models.tokens import encode, pad_left
from circuits.names import head_name, hook, neuron_name
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
    "members",
    "random_masks",
    "ranked_sets",
    "run_added",
    "run_circuits",
    "shuffled",
    "sizes_to",
    "stand",
]


def members(
    circuit: Circuit, n_layers: int, n_heads: int, d_mlp: int
) -> tuple[Bool[Tensor, "layer head"], Bool[Tensor, "layer neuron"]]:
    """Which heads and neurons of a model of this size are the circuit's.

    Raises:
        CircuitError: the circuit names a head or neuron that the model does not have.
    """
    heads = torch.zeros(n_layers, n_heads, dtype=torch.bool)
    neurons = torch.zeros(n_layers, d_mlp, dtype=torch.bool)
    for kind, inside, places in (
        ("head", heads, circuit.heads),
        ("neuron", neurons, circuit.neurons),
    ):
        for layer, index in places:
            if layer >= n_layers or index >= inside.shape[1]:
                raise CircuitError(
                    f"the circuit of {circuit.emotion!r} names {kind} {index} of layer {layer}; "
                    f"the model has {n_layers} layers of {inside.shape[1]} {kind}s. "
                    "Is it another model's circuit?"
                )
            inside[layer, index] = True
    return heads, neurons


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

    @property
    def group(self) -> Int[Tensor, " component"]:
        """The layer and kind of every component, as one number, in the flat form."""
        _, layers, heads = self.heads.shape
        layer = torch.arange(layers)
        own = layer.repeat_interleave(self.neurons.shape[2]) + layers
        return torch.cat([layer.repeat_interleave(heads), own])

    @property
    def names(self) -> list[str]:
        """The names of the first circuit's components, in the flat form's order."""
        heads, neurons = self.heads[0].nonzero().tolist(), self.neurons[0].nonzero().tolist()
        return [head_name(*p) for p in heads] + [neuron_name(*p) for p in neurons]

    @classmethod
    def of(cls, model: Model, circuits: Sequence[Circuit]) -> "Masks":
        """The circuits of a model.

        Raises:
            CircuitError: a circuit names a head or neuron that the model does not have.
        """
        n_layers, n_heads, d_mlp = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_mlp
        heads = torch.zeros(len(circuits), n_layers, n_heads, dtype=torch.bool)
        neurons = torch.zeros(len(circuits), n_layers, d_mlp, dtype=torch.bool)
        for row, circuit in enumerate(circuits):
            heads[row], neurons[row] = members(circuit, n_layers, n_heads, d_mlp)
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
    return circuit.like(_first_of_groups(order, own, circuit.group))


def shuffled(
    masks: Masks, draws: int, random: torch.Generator
) -> Bool[Tensor, "draw row component"]:
    """Nested circuits at random: as many per layer and kind as each of ``masks``, in flat form."""
    flat, group = masks.flat, masks.group
    order = torch.rand(draws, flat.shape[1], generator=random)
    return torch.stack([_first_of_groups(order, row, group) for row in flat], dim=1)


def _first_of_groups(
    order: Float[Tensor, "draw component"],
    like: Bool[Tensor, " component"],
    group: Int[Tensor, " component"],
) -> Bool[Tensor, "draw component"]:
    """In every group, as many of the first in ``order`` as ``like`` has there."""
    width = group.bincount()
    wanted = group[like].bincount(minlength=len(width))
    # Orders lie between 0 and 2, so groups stay apart.
    place = (order.double() + 2 * group).argsort(dim=1).argsort(dim=1)
    return place - (width.cumsum(0) - width)[group] < wanted[group]


Ablation = Literal["resample", "mean", "zero"]
"""``resample``: the corrupt run's value of the same context, position by position. ``mean``: the
mean over neutral prompts at their last position, the same at all positions. ``zero``: nothing."""

Positions = Literal["last", "matched"]
"""Where components are replaced: at the last position, where the reply begins and circuits are
measured and written; or at every matched position."""

_COPIES = 64
"""Circuits beside each other: more gain nothing, for copies look past each other."""

Begun = tuple[Int[Tensor, "context 1"], Prefix]
"""The last tokens of some prompts, and what was read before them."""


@dataclass(frozen=True, eq=False)
class AblationRuns:
    """The cached clean runs of some contexts, to be continued with any circuit's ablation."""

    model: Model
    clean: Begun | CachedRun
    """If only the last position changes, what was read before it; else the whole pass."""
    replaced: Bool[Tensor, "context pos"]
    """Which of the positions that are run again have a counterpart, and are replaced."""
    z: Float[Tensor, "context layer pos head d_head"]
    """What heads outside the circuit give."""
    post: Float[Tensor, "context layer pos neuron"]
    """What neurons outside the circuit give."""


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
    cfg, tokens = model.cfg, pairs.clean
    wide = 1 if positions == "last" else max(pair.matched for pair in pairs)
    matched = torch.tensor([pair.matched for pair in pairs])
    replaced = torch.arange(wide) >= wide - matched[:, None]
    if ablation == "resample":
        last: Pick = lambda activation: activation[:, -wide:]  # noqa: E731
        found = capture(model, pairs.corrupt, {"z": last, "post": last})
        z, post = found["z"], found["post"]
    else:
        z = torch.zeros(cfg.n_layers, cfg.n_heads, cfg.d_head)
        post = torch.zeros(cfg.n_layers, cfg.d_mlp)
        if ablation == "mean" and means is not None:
            z, post = means.z, means.post
        z = z[:, None].expand(len(pairs), -1, wide, -1, -1)
        post = post[:, None].expand(len(pairs), -1, wide, -1)
    clean = prefill_prefix(model, tokens) if wide == 1 else cache_run(model, tokens)
    device = tokens.ids.device
    return AblationRuns(model, clean, replaced.to(device), z.to(device), post.to(device))


@torch.no_grad()
def run_circuits(
    on: AblationRuns, masks: Masks, readouts: Sequence[Projection | LogitDifference]
) -> Float[Tensor, "row context readout"]:
    """The readouts of every circuit in every context; a full circuit is the clean run.

    Raises:
        DataError: a readout reads logits, which copies of the last token do not make.
    """
    clean, (contexts, wide) = on.clean, on.replaced.shape
    copies = not isinstance(clean, CachedRun)
    if copies and any(readout.site == "logits" for readout in readouts):
        raise DataError("the logit difference needs whole runs; choose positions 'matched'")

    def ablate(activation: Tensor, hook: object, *, inside: Tensor, value: Tensor) -> Tensor:
        # Axes: circuit, context, position, part. Copies stand along the position axis.
        rows = (
            activation.transpose(0, 1)[:, :, None]
            if copies
            else activation.unflatten(0, (len(inside), contexts))
        )
        inside, value = inside.to(activation.device), value.to(activation)
        kept = ~on.replaced.to(activation.device)
        kept = kept.reshape(*kept.shape, *[1] * (rows.ndim - 3))
        changed = torch.where(inside[:, None, None] | kept, rows, value)
        # GPT-2 looks at what it is given with `view`, so it has to lie in one piece.
        return (changed[:, :, 0].transpose(0, 1) if copies else changed.flatten(0, 1)).contiguous()

    def run(chosen: Sequence[int]) -> Tensor:
        some, sites = masks[list(chosen)], (("z", on.z), ("post", on.post))
        parts = {"z": some.heads[..., None], "post": some.neurons}
        hooks: list[Hook] = [
            (
                hook(site, layer),
                partial(ablate, inside=parts[site][:, layer], value=values[:, layer]),
            )
            for layer in range(on.model.cfg.n_layers)
            for site, values in sites
            if values.shape[-1]  # none in a model without neurons
        ]

        def go() -> None:
            if not isinstance(clean, CachedRun):
                branch(on.model, *clean, len(some))
                return
            start, order = clean.width - wide, list(range(contexts)) * len(some)
            resid = clean.sites["resid_pre"][0][:, start:][order]
            resume(on.model, clean, order, start, 0, resid)

        with on.model.hooks(fwd_hooks=hooks):
            return _read_out(on.model, readouts, go, copies).unflatten(0, (len(some), contexts))

    step = _COPIES if copies else max(1, 3 * _COPIES // contexts)
    return _in_parts(run, len(masks), step, lambda row: f"the run of circuit {row} in all contexts")


def _in_parts(
    run: Callable[[Sequence[int]], Tensor], count: int, step: int, name: Callable[[int], str]
) -> Float[Tensor, "row context readout"]:
    parts = [range(count)[first : first + step] for first in range(0, count, step)]
    return torch.cat([own for part in parts for own in halving(run, part, name, rows=False)])


def _read_out(
    model: Model,
    readouts: Sequence[Projection | LogitDifference],
    go: Callable[[], None],
    copies: bool,
) -> Float[Tensor, "run readout"]:
    """The readouts of what ``go`` runs; of copies, those of one set in all contexts together."""
    seen: dict[str, Tensor] = {}

    def see(activation: Tensor, hook: object, *, site: str) -> None:
        seen[site] = activation.transpose(0, 1).flatten(0, 1) if copies else activation[:, -1]

    end = model.cfg.n_layers - 1
    hooks: list[Hook] = [
        ("unembed.hook_out" if site == "logits" else hook(site, end), partial(see, site=site))
        for site in {readout.site for readout in readouts}
    ]
    with model.hooks(fwd_hooks=hooks):
        go()
    scores = [readout.score(seen[readout.site]) for readout in readouts]
    return torch.stack(scores, dim=-1).float().cpu()


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

    def run(chosen: Sequence[int]) -> Tensor:
        some = masks[list(chosen)]
        edits = [
            Add(site, layer, inside[:, layer] * values[layer], positions="variant")
            for site, inside, values in (
                ("z", some.heads[..., None], z),
                ("post", some.neurons, post),
            )
            for layer in range(len(values))
            if bool(inside[:, layer].any())
        ]
        with edited(model, edits):
            found = _read_out(model, readouts, lambda: branch(model, *begun, len(some)), True)
        return found.unflatten(0, (len(some), -1))

    return _in_parts(run, len(masks), _COPIES, lambda row: f"set {row} in all contexts")


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
    size, none = torch.tensor(sizes)[:, None], Masks.of(model, [])
    others = none.flat.shape[1] - count
    ranked = torch.cat([place < size, place >= count - size, place == size - 1])
    sets = none.like(pad(ranked, (0, others) if kind == "head" else (others, 0)))
    drawn = [random_masks(sets[[row]], draws, random).flat for row in range(len(sizes))]
    return sets.like(torch.cat([sets.flat, torch.stack(drawn, dim=1).flatten(0, 1)]))
