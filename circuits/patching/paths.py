"""Edge attribution: how much of the readout goes along every path from a sender to an input.

EAP (Syed et al. 2023, arXiv 2310.10348) takes the gradient of the base run; EAP-IG (Hanna et al.
2024, arXiv 2403.17806) its mean over inputs between the two runs. EAP is the first-order term of
patching a path in the base run (:mod:`circuits.patching.exact_paths`); EAP-IG, whose gradients are
those of runs in between, is nearer to the mean of patching it in either run.

Nothing but ordinary activations is needed: what a head writes follows from ``z`` and W_O, the
gradient at its inputs from that at ``q``, ``k`` and ``v``, and one product with the norm's
Jacobian serves all receivers of a layer.

Where paths begin and end: senders and receivers of a model, in the order of the stream.

What a receiver reads is the sum of all senders before it, so that what it can see is a beginning
of the list of senders. Chosen neurons are parts of their MLP: their paths are part of the MLP's.

Gradients of a readout at the inputs of receivers, as vectors of the residual stream.

The gradient at a query, key or value is taken back through its weight to the norm's output, and
all receivers of a layer together through the norm (its Jacobian at the run's own residual stream).

The two runs of a pair, seen from the end: what senders do differently, and gradients.

The base run is the one that is changed: the clean run in noising, the corrupt run in denoising.
Both are looked at through a window at the end that holds every matched token; where a pair has no
match, nothing differs.

Attributions of all paths, pair by pair: differences of senders times gradients at inputs.

A layer's receivers meet a layer's senders one after the other, so that no more than two layers'
vectors are held at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.effects.heads import QUANTILE, random_directions
from circuits.errors import AxisError, DataError, ModelError
from circuits.models.families import (
    Need,
    input_weights,
    is_gated,
    key_value_groups,
    needs,
    neuron_inputs,
    norm_pullback,
    output_weights,
)
from circuits.models.memory import counted, halving
from circuits.models.protocol import Hook, Model, device_of, dtype_of
from circuits.models.run import Trace, check_values, read, reading, trace
from circuits.models.tokens import ROLES, Tokens
from circuits.names import component, head_name, hook, neuron_name, receiver, sublayer_name
from circuits.patching.pairs import (
    LogitDifference,
    Mode,
    Pair,
    Projection,
    Readout,
    clean_tokens,
    corrupt_tokens,
)
from circuits.records import Record

__all__ = [
    "DRAWS",
    "Ends",
    "LastReadout",
    "PathEffects",
    "PathMethod",
    "Readers",
    "Runs",
    "Senders",
    "Sums",
    "check_paths",
    "differences",
    "last_readout",
    "minus",
    "open_runs",
    "other_run",
    "path_effects",
    "path_ends",
    "path_sums",
    "receiver_gradients",
    "sees",
    "steps_of",
]


@dataclass(frozen=True)
class Readers:
    """The receivers of one layer that read through one norm."""

    layer: int
    norm: str
    """``ln1`` (q, k, v) or ``ln2`` (MLP and its chosen neurons)."""
    names: tuple[str, ...]


@dataclass(frozen=True)
class Ends:
    """Senders and receivers."""

    senders: tuple[str, ...]
    readers: tuple[Readers, ...]
    """All receivers but the readout."""

    @property
    def receivers(self) -> tuple[str, ...]:
        """Names of the receivers; the readout is the last."""
        return (*(name for group in self.readers for name in group.names), "readout")

    def exists(self) -> Bool[Tensor, "sender receiver"]:
        """Which of them a path can join."""
        return torch.tensor([[sees(r, s) for r in self.receivers] for s in self.senders])

    def whole(self) -> Bool[Tensor, " receiver"]:
        """Receivers that are no part of another one."""
        return torch.tensor([is_whole(name) for name in self.receivers])


def is_whole(name: str) -> bool:
    """Is the receiver no neuron, whose input is part of its MLP's?"""
    found = receiver(name)
    return found.via != "mlp" or found.index is None


def sees(reader: str, sender: str) -> bool:
    """Does what ``sender`` writes reach the input ``reader`` through the residual stream?"""
    end, start = receiver(reader), component(sender)
    if end.layer is None or start.layer is None:
        return True
    if start.layer != end.layer:
        return start.layer < end.layer
    return start.sublayer == "attn" and end.via == "mlp"


def path_ends(model: Model, neurons: Sequence[tuple[int, int]] = ()) -> Ends:
    """All heads and MLPs, the embedding, the readout, and these neurons (layer, neuron).

    Raises:
        AxisError: the model has no such neuron, or it is named twice.
    """
    cfg = model.cfg
    for layer, neuron in neurons:
        if not (0 <= layer < cfg.n_layers and 0 <= neuron < cfg.d_mlp):
            raise AxisError(
                f"the model has no neuron {neuron_name(layer, neuron)}; it has layers 0 to "
                f"{cfg.n_layers - 1} with neurons 0 to {cfg.d_mlp - 1}"
            )
    if len(set(neurons)) < len(neurons):
        raise AxisError("a neuron is named twice among the ends of paths; name each once")
    senders, readers = ["embed"], []
    for layer in range(cfg.n_layers):
        heads = [head_name(layer, head) for head in range(cfg.n_heads)]
        groups = [f"L{layer}G{group}" for group in range(key_value_groups(model))]
        chosen = [neuron_name(*place) for place in sorted(neurons) if place[0] == layer]
        mlp = sublayer_name(layer, "mlp")
        names = [f"{h}.q" for h in heads] + [f"{g}.{via}" for via in "kv" for g in groups]
        readers.append(Readers(layer, "ln1", tuple(names)))
        readers.append(Readers(layer, "ln2", (mlp, *chosen)))
        senders += [*heads, mlp, *chosen]
    return Ends(tuple(senders), tuple(readers))


def check_paths(model: Model, edges: Sequence[tuple[str, str]]) -> None:
    """Refuse (sender, receiver) pairs that no path of the model joins.

    Raises:
        AxisError: there are none, one is named twice, a name lies outside the model or is none, or
            the receiver comes before the sender.
    """
    if not edges:
        raise AxisError("no paths are named; give (sender, receiver) pairs such as L1H0, L3H5.q")
    if len(set(edges)) < len(edges):
        raise AxisError("a path is named twice; name each once")
    parts = [component(sender) for sender, _ in edges]
    parts += [component(end) for _, end in edges if not is_whole(end)]
    named = {
        (p.layer, p.index)
        for p in parts
        if p.layer is not None and p.index is not None and p.kind == "neuron"
    }
    ends = path_ends(model, sorted(named))
    for sender, reader in edges:
        if sender not in ends.senders or reader not in ends.receivers:
            raise AxisError(
                f"the model has no path from {sender!r} to {reader!r}; senders are embed, heads, "
                "MLPs and neurons, receivers q of heads, k and v of key-value groups, MLPs, "
                f"neurons and readout, in layers 0 to {model.cfg.n_layers - 1}"
            )
        if not sees(reader, sender):
            raise AxisError(f"{reader} does not come after {sender}, so no path joins them")


_PARTS = "row pos part d_head, part d_model d_head -> part row pos d_model"
_NEURONS = "row pos neuron, neuron d_model -> neuron row pos d_model"


def receiver_gradients(
    model: Model, ends: Ends, seen: Trace, window: int
) -> Iterator[tuple[tuple[str, ...], Float[Tensor, "receiver row pos d_model"]]]:
    """Receivers of one layer and norm after the other, with their gradients in the window.

    The readout, whose gradient is that of the last residual stream, comes last.
    """
    for readers in ends.readers:
        at_norm = _attention if readers.norm == "ln1" else _mlp
        site, via = ("resid_pre", "q") if readers.norm == "ln1" else ("resid_mid", "mlp")
        resid = seen.values[site][readers.layer][:, -window:]
        gradients = at_norm(model, readers, seen, window)
        yield readers.names, norm_pullback(model, via, readers.layer, resid, gradients)
    yield ("readout",), seen.gradients["resid_post"][model.cfg.n_layers - 1][None, :, -window:]


def _attention(
    model: Model, readers: Readers, seen: Trace, window: int
) -> Float[Tensor, "receiver row pos d_model"]:
    layer = readers.layer
    parts = [
        einsum(seen.gradients[via][layer][:, -window:], input_weights(model, via, layer), _PARTS)
        for via in "qkv"
    ]
    return torch.cat(parts)


def _mlp(
    model: Model, readers: Readers, seen: Trace, window: int
) -> Float[Tensor, "receiver row pos d_model"]:
    layer = readers.layer
    whole = seen.gradients["ln2_out"][layer][None, :, -window:]
    neurons = [index for name in readers.names if (index := receiver(name).index) is not None]
    if not neurons:
        return whole
    parts = [
        einsum(seen.gradients[site][layer][:, -window:, neurons], weight, _NEURONS)
        for site, weight in neuron_inputs(model, layer, neurons).items()
    ]
    return torch.cat([whole, torch.stack(parts).sum(0)])


LastReadout = Projection | LogitDifference
"""Readouts of the last position, which need no reply."""

Senders = dict[str, dict[int, Tensor]]
"""site -> layer -> activation, or difference of activations, inside the window."""

_HEADS = "row pos head d_head, head d_head d_model -> head row pos d_model"


@dataclass(frozen=True, eq=False)
class Runs:
    """A batch of pairs, and what the senders do differently in the clean runs."""

    base: Tokens
    other: Tokens
    mode: Mode
    matched: Bool[Tensor, "row pos"]
    """The window: which of its positions have a counterpart."""

    @property
    def window(self) -> int:
        """Positions of the window, counted from the end."""
        return self.matched.shape[1]


def last_readout(readout: Readout) -> LastReadout:
    """The readout, if it is one of the last position.

    Raises:
        DataError: it needs replies.
    """
    if isinstance(readout, Projection | LogitDifference):
        return readout
    raise DataError(
        f"paths are measured up to the last position, where {readout.name!r} cannot be read; "
        "give a projection or a logit difference"
    )


def open_runs(model: Model, pairs: Sequence[Pair], mode: Mode) -> Runs:
    """The batch of some pairs.

    Raises:
        DataError: there are no pairs, or the mode is unknown.
    """
    if not pairs:
        raise DataError("paths are measured on pairs, and none is given; give one or more contexts")
    if mode not in ("noising", "denoising"):
        raise DataError(f"mode is {mode!r}; it is noising or denoising")
    runs = clean_tokens(model, pairs), corrupt_tokens(model, pairs)
    base, other = runs if mode == "noising" else reversed(runs)
    longest = max(pair.matched for pair in pairs)
    places = torch.arange(longest, 0, -1)[None]
    matched = places <= torch.tensor([[pair.matched] for pair in pairs])
    return Runs(base, other, mode, matched.to(device_of(model)))


def steps_of(
    model: Model, runs: Runs, readout: LastReadout, steps: int, neurons: Sequence[int] = ()
) -> Iterator[tuple[Trace, Senders]]:
    """Traces of the base run on its way to the other, and clean minus corrupt of the senders.

    Step ``k`` of ``m`` has ``k/m`` of the input difference added: ``k`` is 0 to ``m - 1``, as in
    the edge scores of Hanna et al. 2024 (arXiv 2403.17806), so that step 0 is the base run.

    Args:
        model: The model.
        runs: The batch.
        readout: What is differentiated.
        steps: Points of the way; one is plain attribution.
        neurons: Layers of which neurons are senders or receivers.

    Raises:
        DataError: several steps, but no matched input differs.
    """
    other = other_run(model, runs, neurons)
    sites = _sites(model, neurons)
    found: Senders = {}
    for step in range(steps):
        hooks = [] if step == 0 else [_towards(runs, found["resid_pre"][0], step / steps)]
        seen = trace(model, runs.base, sites, readout.score, at=readout.site, hooks=hooks)
        if step == 0:
            found = minus(runs, seen.values, other)
            if steps > 1 and not bool(found["resid_pre"][0].any()):
                raise DataError(
                    "no matched token of these pairs has another input, so every step between "
                    "them is the same run; use method eap, or pairs of two emotions"
                )
        yield seen, found


def differences(
    model: Model, found: Senders, names: Sequence[str]
) -> Float[Tensor, "sender row pos d_model"]:
    """What senders of one layer add to the residual stream, clean minus corrupt.

    Args:
        model: Its output weights are read.
        found: What :func:`steps_of` or :func:`other_run` found.
        names: ``embed``, or heads, then the MLP, then neurons of a layer.
    """
    parts = [component(name) for name in names]
    layer = parts[0].layer
    if layer is None:
        return found["resid_pre"][0][None]
    heads, neurons = (
        [part.index for part in parts if part.kind == kind] for kind in ("head", "neuron")
    )
    written: list[Tensor] = []
    if heads:
        weight = output_weights(model, "head", layer)[heads]
        written.append(einsum(found["z"][layer][:, :, heads], weight, _HEADS))
    if any(part.kind == "sublayer" for part in parts):
        written.append(found["mlp_out"][layer][None])
    if neurons:
        weight = output_weights(model, "neuron", layer)[neurons]
        written.append(einsum(found["post"][layer][:, :, neurons], weight, _NEURONS))
    return torch.cat(written)


def _sites(model: Model, neurons: Sequence[int]) -> dict[str, Sequence[int]]:
    layers = range(model.cfg.n_layers)
    everywhere = ("z", "q", "k", "v", "resid_pre", "resid_mid", "attn_out", "ln2_out", "mlp_out")
    inside = ("post", "pre", "pre_linear") if is_gated(model) else ("post", "pre")
    return {
        **dict.fromkeys(everywhere, layers),
        **(dict.fromkeys(inside, tuple(neurons)) if neurons else {}),
        "resid_post": (layers[-1],),
    }


@torch.no_grad()
def other_run(model: Model, runs: Runs, neurons: Sequence[int] = ()) -> Senders:
    """Activations of the senders in the run that is not changed, inside the window.

    Args:
        model: The model.
        runs: The batch.
        neurons: Layers of which neurons are senders.
    """

    def window(activation: Tensor) -> Tensor:
        return activation[:, -runs.window :].clone()

    wanted: dict[str, Sequence[int] | None] = {"z": None, "mlp_out": None, "resid_pre": (0,)}
    if neurons:
        wanted["post"] = neurons
    with ExitStack() as stack:
        tables = [
            stack.enter_context(reading(model, {site: window}, layers))
            for site, layers in wanted.items()
        ]
        read(model, runs.other)
    return {site: found for table in tables for site, found in table.items()}


def minus(runs: Runs, base: Mapping[str, Mapping[int, Tensor]], other: Senders) -> Senders:
    """Clean minus corrupt of the senders' activations; zero where a token has no counterpart."""
    sign = -1 if runs.mode == "noising" else 1
    return {
        site: {
            layer: _masked(sign * (value - base[site][layer][:, -runs.window :]), runs)
            for layer, value in own.items()
        }
        for site, own in other.items()
    }


def _masked(value: Tensor, runs: Runs) -> Tensor:
    mask = runs.matched.reshape(*runs.matched.shape, *[1] * (value.ndim - 2))
    return value.where(mask, value.new_zeros(()))


def _towards(runs: Runs, inputs: Tensor, share: float) -> Hook:
    """The inputs of the base run, moved by a share of their difference to the other run's."""
    sign = -1 if runs.mode == "noising" else 1

    def move(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        early = activation.shape[1] - runs.window
        return activation + torch.nn.functional.pad(sign * share * inputs, (0, 0, early, 0))

    return hook_input(), move


def hook_input() -> str:
    """Where the embedding's output is; named outside functions whose argument is ``hook``."""
    return hook("resid_pre", 0)


DRAWS = 16
"""Random directions of the random baseline."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Attributions in float32, or float64 if the model is; on the CPU."""

    scores: Float[Tensor, "context sender receiver"]
    nodes: Float[Tensor, "context sender"]
    random_baseline: Float[Tensor, "sender receiver"]
    by_role: Float[Tensor, "sender receiver role"]
    roles: tuple[str, ...]
    draws: int


def path_sums(
    model: Model,
    pairs: Sequence[Pair],
    readout: LastReadout,
    ends: Ends,
    *,
    mode: Mode,
    steps: int,
    positions: bool,
    batch_size: int,
    seed: int,
) -> Sums:
    """Attributions of every pair, means over steps.

    Raises:
        DataError: no pairs, or several steps between equal inputs.
    """
    roles = tuple(r for r in ROLES if any(r in p.roles for p in pairs)) if positions else ()
    random = random_directions(DRAWS, model.cfg.d_model, seed=seed)
    # At least one batch, so that no pairs at all are refused where batches are made.
    batches = [pairs[i : i + batch_size] for i in range(0, max(len(pairs), 1), batch_size)]

    def attribute(own: Sequence[Pair]) -> list[Tensor]:
        runs = open_runs(model, own, mode)
        found = _batch(model, own, runs, readout, ends, steps, roles, random)
        rows = [pair.clean.ids for pair in own]
        check_values(model, found[1], f"the gradient of the readout {readout.name}", rows)
        return found

    parts = [part for own in batches for part in halving(attribute, own, lambda pair: pair.name)]
    scores, nodes = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    drawn, by_role = (sum_of([part[i] for part in parts]) / len(pairs) for i in (2, 3))
    size = drawn.square().mean(-1).sqrt() * NormalDist().inv_cdf((1 + QUANTILE) / 2)
    return Sums(scores, nodes, size, by_role, roles, DRAWS)


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Their sum."""
    return torch.stack(list(parts)).sum(0)


def _batch(
    model: Model,
    pairs: Sequence[Pair],
    runs: Runs,
    readout: LastReadout,
    ends: Ends,
    steps: int,
    roles: tuple[str, ...],
    random: Tensor,
) -> list[Tensor]:
    """Scores, node scores, sums along random directions, and sums by role."""
    dtype = torch.float64 if dtype_of(model) == torch.float64 else torch.float32
    where = _where(pairs, roles, runs.window).to(runs.matched.device, dtype)
    size = (len(ends.senders), len(ends.receivers))
    scores = torch.zeros(len(pairs), *size, dtype=dtype)
    drawn = torch.zeros(*size, len(random), dtype=dtype)
    by_role = torch.zeros(*size, len(roles), dtype=dtype)
    nodes = torch.zeros(len(pairs), size[0], dtype=dtype)
    random = random.to(runs.matched.device, dtype)
    layers = sorted(
        {
            c.layer
            for s in ends.senders
            if (c := component(s)).kind == "neuron" and c.layer is not None
        }
    )
    for seen, found in steps_of(model, runs, readout, steps, layers):
        nodes += _nodes(model, ends, seen, found, runs.window).cpu() / steps
        for names, gradients in receiver_gradients(model, ends, seen, runs.window):
            gradients = gradients.to(dtype)
            column = ends.receivers.index(names[0])
            columns = slice(column, column + len(names))
            along = einsum(gradients, random, "receiver row pos d, draw d -> receiver row pos draw")
            for rows, change in _senders(model, ends, found, names[0]):
                change = change.to(dtype)
                at = torch.einsum("srpd,crpd->rpsc", change, gradients)
                scores[:, rows, columns] += at.sum(1).cpu() / steps
                by_role[rows, columns] += torch.einsum("rpsc,rpw->scw", at, where).cpu() / steps
                sized = torch.einsum("srp,crpw->scw", change.norm(dim=-1), along)
                drawn[rows, columns] += sized.cpu() / steps
    return [scores, nodes, drawn, by_role]


def _senders(
    model: Model, ends: Ends, found: Senders, reader: str
) -> Iterator[tuple[slice, Float[Tensor, "sender row pos d_model"]]]:
    """The senders that a receiver sees, layer by layer."""
    start = 0
    while start < len(ends.senders) and sees(reader, ends.senders[start]):
        layer, stop = component(ends.senders[start]).layer, start
        while (
            stop < len(ends.senders)
            and component(ends.senders[stop]).layer == layer
            and sees(reader, ends.senders[stop])
        ):
            stop += 1
        yield slice(start, stop), differences(model, found, ends.senders[start:stop])
        start = stop


def _nodes(
    model: Model, ends: Ends, seen: Trace, found: Senders, window: int
) -> Float[Tensor, "row sender"]:
    scores = []
    for own, change in _senders(model, ends, found, "readout"):
        for name, written in zip(ends.senders[own], change, strict=True):
            part = component(name)
            site, layer = f"{part.sublayer}_out", part.layer
            if layer is None:
                site, layer = "resid_pre", 0
            scores.append((written * seen.gradients[site][layer][:, -window:]).flatten(1).sum(1))
    return torch.stack(scores, dim=1)


def _where(
    pairs: Sequence[Pair], roles: tuple[str, ...], window: int
) -> Float[Tensor, "row pos role"]:
    """One where a matched position has the role."""
    found = torch.zeros(len(pairs), window, len(roles))
    for row, pair in enumerate(pairs):
        for place, role in enumerate(pair.roles):
            if role in roles:
                found[row, window - pair.matched + place, roles.index(role)] = 1
    return found


PathMethod = Literal["eap", "eap-ig"]


@dataclass(frozen=True, eq=False)
class PathEffects(Record):
    """Attribution of every path: (clean - corrupt) of the sender . gradient at the input.

    In units of the readout, summed over matched positions; positive pushes towards the emotion.
    """

    mean: Float[Tensor, "sender receiver"]
    """Mean over contexts; zero where no path can be."""
    stderr: Float[Tensor, "sender receiver"]
    """Standard error over contexts; NaN for one context."""
    random_baseline: Float[Tensor, "sender receiver"]
    """The 99% quantile of |attribution| of a sender whose difference has the same length at every
    position and one random direction everywhere (normal approximation over ``draws``)."""
    exists: Bool[Tensor, "sender receiver"]
    """Whether the sender comes before the input."""
    node: Float[Tensor, " sender"]
    """Attribution of the sender as a whole: its difference . gradient at its output."""
    by_role: Float[Tensor, "sender receiver role"]
    """Mean over contexts by the role of the position; no roles unless they were asked for."""

    sender: tuple[str, ...]
    receiver: tuple[str, ...]
    """``L3H5.q``, ``L3G1.k`` and ``L3G1.v`` (key-value groups), ``L3.mlp``, ``L3N512`` (part of
    its MLP), ``readout``."""
    role: tuple[str, ...]
    emotion: str
    other: str | None
    readout: str
    mode: str
    method: str
    steps: int
    n_contexts: int
    draws: int
    gap: float
    """Largest difference between a sender's paths together and the sender as a whole, over
    contexts and senders, relative to the largest sender of the context (or the largest
    baseline)."""
    receipt: Mapping[str, int]
    """What was run."""

    def interval(self, sender: str, receiver: str) -> tuple[float, float]:
        """95% interval over contexts (normal approximation); NaN for one context."""
        mean = self.at("mean", sender=sender, receiver=receiver)
        apart = 1.96 * self.at("stderr", sender=sender, receiver=receiver)
        return mean - apart, mean + apart


def path_effects(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    *,
    method: PathMethod = "eap",
    steps: int = 5,
    mode: Mode = "noising",
    neurons: Sequence[tuple[int, int]] = (),
    positions: bool = False,
    batch_size: int = 16,
    seed: int = 0,
) -> PathEffects:
    """Attribution of all paths between embedding, heads, MLPs, chosen neurons and the readout.

    Args:
        model: Its sublayers must write straight into the residual stream.
        pairs: Clean and corrupt prompts, of one emotion against one other (or plain).
        readout: A projection or a logit difference.
        method: ``eap``: gradient of the base run (clean in noising, corrupt in denoising).
            ``eap-ig``: mean gradient over ``steps`` inputs, from the base's towards the other's.
        steps: Of ``eap-ig``; input ``k`` of 0 to ``steps - 1`` has ``k / steps`` of the way.
        mode: Which run is the base.
        neurons: (layer, neuron) that are senders and receivers of their own.
        positions: Keep attributions by the role of the position too.
        batch_size: Pairs at once; does not change the result.
        seed: Of the random directions of the random baseline.

    Raises:
        DataError: no pairs, several contrasts, a readout of replies, or ``eap-ig`` between prompts
            whose matched tokens have the same inputs.
        ModelError: the model lacks a part, or its paths do not add up to its senders.
    """
    inside: tuple[Need, ...] = ("neurons",) if neurons else ()
    needs(model, "paths", "attention", "mlp", "heads", "sequence", *inside)
    ends, count = path_ends(model, neurons), _count(method, steps)
    contrast = _contrast(pairs)
    with counted() as receipt:
        sums = path_sums(
            model,
            pairs,
            last_readout(readout),
            ends,
            mode=mode,
            steps=count,
            positions=positions,
            batch_size=batch_size,
            seed=seed,
        )
    gap = _gap(sums, ends)
    _check_gap(gap, model)
    stderr = (
        sums.scores.std(0) / len(pairs) ** 0.5 if len(pairs) > 1 else sums.scores[0] * torch.nan
    )
    return PathEffects(
        mean=sums.scores.mean(0),
        stderr=stderr,
        random_baseline=sums.random_baseline,
        exists=ends.exists(),
        node=sums.nodes.mean(0),
        by_role=sums.by_role,
        sender=ends.senders,
        receiver=ends.receivers,
        role=sums.roles,
        emotion=contrast[0],
        other=contrast[1],
        readout=readout.name,
        mode=mode,
        method=method,
        steps=count,
        n_contexts=len(pairs),
        draws=sums.draws,
        gap=gap,
        receipt=receipt.to_json(),
    )


def _count(method: str, steps: int) -> int:
    if method not in ("eap", "eap-ig"):
        raise DataError(f"method is {method!r}; it is eap or eap-ig")
    if steps < 1:
        raise DataError(f"steps is {steps}; give 1 or more")
    return steps if method == "eap-ig" else 1


def _contrast(pairs: Sequence[Pair]) -> tuple[str, str | None]:
    found = list(dict.fromkeys((pair.emotion, pair.other) for pair in pairs))
    if len(found) != 1:
        raise DataError(
            f"paths are measured for one emotion against one other; these {len(pairs)} pairs have "
            f"{len(found)} such contrasts. Measure each by itself"
        )
    return found[0]


def _gap(sums: Sums, ends: Ends) -> float:
    together = sums.scores[..., ends.whole()].sum(-1)
    # Where no sender matters, what rounds is the product of differences and gradients at an angle.
    size = float(sums.random_baseline.max())
    largest = sums.nodes.abs().amax(1, keepdim=True).clamp_min(max(size, 1e-30))
    return float(((together - sums.nodes).abs() / largest).max())


def _check_gap(gap: float, model: Model) -> None:
    allowed = 5e-2 if dtype_of(model) in (torch.float16, torch.bfloat16) else 1e-3
    if not gap < allowed:
        raise ModelError(
            f"the paths of a sender differ from the sender as a whole by {gap:.1e} of the largest "
            "sender; something in this model reads the residual stream beside queries, keys, "
            "values, MLPs and the final norm, or the activations are not finite"
        )
