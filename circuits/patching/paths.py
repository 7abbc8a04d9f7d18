"""Edges: how much of the readout goes along every path from a sender to an input.

Attribution. EAP (Syed et al. 2023, arXiv 2310.10348) takes the gradient of the base run; EAP-IG
(Hanna et al. 2024, arXiv 2403.17806) its mean over inputs between the two runs. EAP is the
first-order term of patching a path in the base run; EAP-IG, whose gradients are those of runs in
between, is nearer to the mean of patching it in either run. Nothing but ordinary activations is
needed: what a head writes follows from ``z`` and W_O, the gradient at its inputs from that at
``q``, ``k`` and ``v``, and one product with the norm's Jacobian serves all receivers of a layer. A
layer's receivers meet a layer's senders one after the other, so that no more than two layers'
vectors are held at once. Chosen neurons are parts of their MLP: their paths are part of the MLP's.

Exact path patching. The direct path from a sender to an input goes through the residual stream
alone. To patch it, the base run is repeated with one change: at matched positions this one input
(queries of a head, keys or values of a key-value group, an MLP, a neuron, or the readout) is made
of a residual stream in which the sender writes what it writes in the other run, through the norm
exactly. All other readers of the sender see what they saw; what follows the receiver is computed
as usual. This is path patching (Goldowsky-Dill et al. 2023, arXiv 2304.05969) of one edge.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, takewhile
from statistics import NormalDist
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

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
    normed,
    output_weights,
)
from circuits.models.memory import counted, halving
from circuits.models.protocol import Hook, Model, dtype_of
from circuits.models.run import Trace, hook_name, layers_run, trace
from circuits.models.tokens import ROLES
from circuits.names import Receiver, component, head_name, neuron_name, receiver, sublayer_name
from circuits.patching.attribution import rank_agreement
from circuits.patching.pairs import (
    Activations,
    CleanCorrupt,
    Mode,
    Readout,
    last_readout,
    mean_stderr,
)
from circuits.records import Record
from circuits.running import in_force

__all__ = [
    "ExactPaths",
    "PathEffects",
    "PathMethod",
    "edge_name",
    "exact_paths",
    "path_agreement",
    "path_effects",
    "path_ends",
    "sample_paths",
    "sees",
]

PathMethod = Literal["eap", "eap-ig"]

PathEdge = tuple[str, str]
"""Names of a sender and a receiver."""

DRAWS = 16
"""Random directions of the random baseline."""

Senders = dict[str, dict[int, Tensor]]
"""site -> layer -> difference of activations inside the window."""

_PARTS = "row pos part d_head, part d_model d_head -> part row pos d_model"
_NEURONS = "row pos neuron, neuron d_model -> neuron row pos d_model"
_HEADS = "row pos head d_head, head d_head d_model -> head row pos d_model"


@dataclass(frozen=True)
class Ends:
    """Senders and receivers."""

    senders: tuple[str, ...]
    readers: dict[tuple[int, str], tuple[str, ...]]
    """All receivers but the readout, by layer and what reads: ``attn`` (q, k, v), or ``mlp`` (the
    MLP and its chosen neurons)."""

    @property
    def receivers(self) -> tuple[str, ...]:
        """Names of the receivers; the readout is the last."""
        return (*(name for names in self.readers.values() for name in names), "readout")


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
    senders, readers = ["embed"], dict[tuple[int, str], tuple[str, ...]]()
    for layer in range(cfg.n_layers):
        heads = [head_name(layer, head) for head in range(cfg.n_heads)]
        groups = [f"L{layer}G{group}" for group in range(key_value_groups(model))]
        chosen = [neuron_name(*place) for place in sorted(neurons) if place[0] == layer]
        mlp = sublayer_name(layer, "mlp")
        names = [f"{h}.q" for h in heads] + [f"{g}.{via}" for via in "kv" for g in groups]
        readers |= {(layer, "attn"): tuple(names), (layer, "mlp"): (mlp, *chosen)}
        senders += [*heads, mlp, *chosen]
    return Ends(tuple(senders), readers)


def check_paths(model: Model, edges: Sequence[PathEdge]) -> None:
    """Refuse (sender, receiver) pairs that no path of the model joins."""
    if not edges:
        raise AxisError("no paths are named; give (sender, receiver) pairs such as L1H0, L3H5.q")
    if len(set(edges)) < len(edges):
        raise AxisError("a path is named twice; name each once")
    named = [component(sender) for sender, _ in edges]
    named += [component(end) for _, end in edges if not is_whole(end)]
    neurons = {(c.layer or 0, c.index or 0) for c in named if c.kind == "neuron"}
    ends = path_ends(model, sorted(neurons))
    for sender, reader in edges:
        if sender not in ends.senders or reader not in ends.receivers:
            raise AxisError(
                f"the model has no path from {sender!r} to {reader!r}; senders are embed, heads, "
                "MLPs and neurons, receivers q of heads, k and v of key-value groups, MLPs, "
                f"neurons and readout, in layers 0 to {model.cfg.n_layers - 1}"
            )
        if not sees(reader, sender):
            raise AxisError(f"{reader} does not come after {sender}, so no path joins them")


def _receiver_gradients(
    model: Model, ends: Ends, seen: Trace, width: int
) -> Iterator[tuple[tuple[str, ...], Float[Tensor, "receiver row pos d_model"]]]:
    """Receivers of one layer and norm after the other, with their gradients in the window.

    The gradient at a query, key or value is taken back through its weight to the norm's output,
    and all receivers of a layer together through the norm. The readout, whose gradient is that of
    the last residual stream, comes last.
    """

    def gradient(site: str, layer: int) -> Tensor:
        return seen.gradients[site][layer][:, -width:]

    for (layer, sublayer), names in ends.readers.items():
        if sublayer == "attn":
            site, via = "resid_pre", "q"
            parts = [
                einsum(gradient(own, layer), input_weights(model, own, layer), _PARTS)
                for own in "qkv"
            ]
        else:
            site, via = "resid_mid", "mlp"
            parts = [gradient("ln2_out", layer)[None]]
            neurons = [i for name in names if (i := receiver(name).index) is not None]
            if neurons:
                weights = neuron_inputs(model, layer, neurons)
                inner = [
                    einsum(gradient(own, layer)[..., neurons], weight, _NEURONS)
                    for own, weight in weights.items()
                ]
                parts.append(torch.stack(inner).sum(0))
        resid = seen.values[site][layer][:, -width:]
        yield names, norm_pullback(model, via, layer, resid, torch.cat(parts))
    yield ("readout",), gradient("resid_post", model.cfg.n_layers - 1)[None]


def sender_sites(model: Model, neurons: Sequence[int] = ()) -> dict[str, Sequence[int]]:
    """Where senders write: site -> layers; ``neurons`` are layers of which neurons are senders."""
    layers = range(model.cfg.n_layers)
    inner = {"post": tuple(neurons)} if neurons else {}
    return {"z": layers, "mlp_out": layers, "resid_pre": (0,), **inner}


def sender_changes(runs: CleanCorrupt, base: Activations) -> Senders:
    """Clean minus corrupt of the senders' activations; zero where a token has no counterpart."""
    return {
        site: {i: runs.sign * runs.change(other, base[site][i]) for i, other in own.items()}
        for site, own in runs.other_seen[0].items()
    }


def _traces(
    runs: CleanCorrupt, steps: int, neurons: Sequence[int]
) -> Iterator[tuple[Trace, Senders]]:
    """Traces of the base run on its way to the other, and clean minus corrupt of the senders.

    Step ``k`` of ``m`` has ``k/m`` of the input difference added: ``k`` is 0 to ``m - 1``, as in
    the edge scores of Hanna et al. 2024 (arXiv 2403.17806), so that step 0 is the base run.
    """
    model, layers = runs.model, range(runs.model.cfg.n_layers)
    everywhere = ("z", "q", "k", "v", "resid_pre", "resid_mid", "attn_out", "ln2_out", "mlp_out")
    inside = ("post", "pre", "pre_linear") if is_gated(model) else ("post", "pre")
    sites: dict[str, Sequence[int]] = {
        **dict.fromkeys(everywhere, layers),
        **(dict.fromkeys(inside, neurons) if neurons else {}),
        "resid_post": (layers[-1],),
    }
    found: Senders = {}
    for step in range(steps):
        hooks = []
        if step:
            by = runs.sign * step / steps * found["resid_pre"][0]
            way = pad(by, (0, 0, runs.base.ids.shape[1] - runs.width, 0))
            hooks = [(hook_name("resid_pre", 0), lambda x, hook, way=way: x + way)]
        seen = trace(model, runs.base, sites, **runs.scored, hooks=hooks)
        found = found or sender_changes(runs, seen.values)
        yield seen, found


def differences(
    model: Model, found: Senders, names: Sequence[str]
) -> Float[Tensor, "sender row pos d_model"]:
    """What senders of one layer add to the residual stream, clean minus corrupt."""
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


@dataclass(frozen=True, eq=False)
class PathEffects(Record):
    """Attribution of every path: (clean - corrupt) of the sender . gradient at the input.

    In units of the readout, summed over matched positions; positive pushes towards the emotion.
    """

    mean: Float[Tensor, "sender receiver"]
    """Zero where no path can be."""
    stderr: Float[Tensor, "sender receiver"]
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


def path_effects(
    pairs: CleanCorrupt,
    readout: Readout,
    *,
    method: PathMethod = "eap",
    steps: int = 5,
    mode: Mode = "noising",
    neurons: Sequence[tuple[int, int]] = (),
    positions: bool = False,
) -> PathEffects:
    """Attribution of all paths between embedding, heads, MLPs, chosen neurons and the readout.

    The random directions of the random baseline are drawn by the seed in force
    (:func:`~circuits.running.execution`).

    Args:
        pairs: Clean and corrupt prompts, of one emotion against one other (or plain). Sublayers of
            their model must write straight into the residual stream.
        readout: A projection or a logit difference.
        method: ``eap``: gradient of the base run (clean in noising, corrupt in denoising).
            ``eap-ig``: mean gradient over ``steps`` inputs, from the base's towards the other's.
        steps: Of ``eap-ig``; input ``k`` of 0 to ``steps - 1`` has ``k / steps`` of the way.
        mode: Which run is the base.
        neurons: (layer, neuron) that are senders and receivers of their own.
        positions: Keep attributions by the role of the position too.

    Raises:
        AxisError: a readout of replies, or a neuron that the model lacks.
        DataError: no pairs, several contrasts, or ``eap-ig`` between prompts whose matched tokens
            have the same inputs.
        ModelError: the model lacks a part, or its paths do not add up to its senders.
    """
    model = pairs.model
    inside: tuple[Need, ...] = ("neurons",) if neurons else ()
    needs(model, "paths", "attention", "mlp", "heads", "sequence", *inside)
    ends = path_ends(model, neurons)
    if method not in ("eap", "eap-ig"):
        raise DataError(f"method is {method!r}; it is eap or eap-ig")
    if steps < 1:
        raise DataError(f"steps is {steps}; give 1 or more")
    count = steps if method == "eap-ig" else 1
    last_readout(readout, "path_effects")
    pairs.check_contrast()
    if count > 1:
        pairs.refuse_equal_inputs(method)
    roles = tuple(r for r in ROLES if any(r in p.roles for p in pairs)) if positions else ()
    inner = sorted({layer for layer, _ in neurons})
    random = random_directions(DRAWS, model.cfg.d_model, seed=in_force().seed)

    def work(runs: CleanCorrupt) -> dict[str, Tensor]:
        return _attributed(runs, ends, _traces(runs, count, inner), count, random)

    with counted() as receipt:
        sites = sender_sites(model, inner)
        given = pairs.batches(work, readout, mode, sites, roles, at_once=16, finite="node")
        tables = list(given)
    found = {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
    drawn = (found["drawn"].sum(0) / len(pairs)).square().mean(-1).sqrt()
    control = drawn * NormalDist().inv_cdf((1 + QUANTILE) / 2)
    mean, stderr = mean_stderr(found["scores"])
    whole = torch.tensor([is_whole(name) for name in ends.receivers])
    together, node = found["scores"][..., whole].sum(-1), found["node"]
    # Where no sender matters, what rounds is the product of differences and gradients at an angle.
    largest = node.abs().amax(1, keepdim=True).clamp_min(max(float(control.max()), 1e-30))
    gap = float(((together - node).abs() / largest).max())
    if not gap < (5e-2 if dtype_of(model) in (torch.float16, torch.bfloat16) else 1e-3):
        raise ModelError(
            f"the paths of a sender differ from the sender as a whole by {gap:.1e} of the largest "
            "sender; something in this model reads the residual stream beside queries, keys, "
            "values, MLPs and the final norm, or the activations are not finite"
        )
    return PathEffects(
        mean=mean,
        stderr=stderr,
        random_baseline=control,
        exists=torch.tensor([[sees(r, s) for r in ends.receivers] for s in ends.senders]),
        node=node.mean(0),
        by_role=found["by_role"].sum(0) / len(pairs),
        sender=ends.senders,
        receiver=ends.receivers,
        role=roles,
        emotion=pairs[0].emotion,
        other=pairs[0].other,
        readout=readout.name,
        mode=mode,
        method=method,
        steps=count,
        n_contexts=len(pairs),
        draws=DRAWS,
        gap=gap,
        receipt=receipt.to_json(),
    )


def _attributed(
    runs: CleanCorrupt,
    ends: Ends,
    traces: Iterator[tuple[Trace, Senders]],
    steps: int,
    random: Float[Tensor, "draw d_model"],
) -> dict[str, Tensor]:
    """Means over steps, in float32, or float64 if the model is; on the CPU.

    Scores and node scores per pair; sums of the batch along random directions, and by role.
    """
    model, device = runs.model, runs.matched.device
    dtype = torch.float64 if dtype_of(model) == torch.float64 else torch.float32
    where, random = runs.masks.to(dtype), random.to(device, dtype)
    size = (len(ends.senders), len(ends.receivers))
    scores = torch.zeros(len(runs), *size, dtype=dtype)
    drawn = torch.zeros(*size, len(random), dtype=dtype)
    by_role = torch.zeros(*size, where.shape[1], dtype=dtype)
    nodes = torch.zeros(len(runs), size[0], dtype=dtype)
    for seen, found in traces:
        for rows, change in _senders(model, ends, found, "readout"):
            for row, written in enumerate(change, rows.start):
                own = component(ends.senders[row])
                site = "resid_pre" if own.layer is None else f"{own.sublayer}_out"
                gradient = seen.gradients[site][own.layer or 0][:, -runs.width :]
                nodes[:, row] += (written * gradient).flatten(1).sum(1).cpu() / steps
        for names, gradients in _receiver_gradients(model, ends, seen, runs.width):
            gradients = gradients.to(dtype)
            column = ends.receivers.index(names[0])
            columns = slice(column, column + len(names))
            along = einsum(gradients, random, "receiver row pos d, draw d -> receiver row pos draw")
            for rows, change in _senders(model, ends, found, names[0]):
                change = change.to(dtype)
                at = torch.einsum("srpd,crpd->rpsc", change, gradients)
                scores[:, rows, columns] += at.sum(1).cpu() / steps
                by_role[rows, columns] += torch.einsum("rpsc,rwp->scw", at, where).cpu() / steps
                sized = torch.einsum("srp,crpw->scw", change.norm(dim=-1), along)
                drawn[rows, columns] += sized.cpu() / steps
    return {"scores": scores, "node": nodes, "drawn": drawn[None], "by_role": by_role[None]}


def _senders(
    model: Model, ends: Ends, found: Senders, reader: str
) -> Iterator[tuple[slice, Float[Tensor, "sender row pos d_model"]]]:
    """The senders that a receiver sees, layer by layer."""
    start = 0
    seen = takewhile(lambda sender: sees(reader, sender), ends.senders)
    for _, own in groupby(seen, key=lambda sender: component(sender).layer):
        names = list(own)
        yield slice(start, start + len(names)), differences(model, found, names)
        start += len(names)


@dataclass(frozen=True, eq=False)
class ExactPaths(Record):
    """Effects of paths, measured by patching them; units and sign as in attribution.

    Noising: readout of the clean run minus that with the corrupt sender on the path. Denoising:
    readout of the corrupt run with the clean sender on the path, minus that without.
    """

    effect: Float[Tensor, "context edge"]

    context: tuple[str, ...]
    edge: tuple[str, ...]
    """``L1H0->L3H5.q``."""
    emotion: str
    other: str | None
    readout: str
    mode: str
    receipt: Mapping[str, int]

    @property
    def mean(self) -> Float[Tensor, " edge"]:
        """Mean over contexts."""
        return mean_stderr(self.effect)[0]

    @property
    def stderr(self) -> Float[Tensor, " edge"]:
        """Standard error over contexts; NaN for one context."""
        return mean_stderr(self.effect)[1]


def edge_name(sender: str, reader: str) -> str:
    """``L1H0->L3H5.q``."""
    return f"{sender}->{reader}"


def exact_paths(
    pairs: CleanCorrupt, readout: Readout, edges: Sequence[PathEdge], *, mode: Mode = "noising"
) -> ExactPaths:
    """The effect of every chosen path in every context.

    Args:
        pairs: Clean and corrupt prompts of one emotion. Sublayers of their model must write
            straight into the residual stream.
        readout: A projection or a logit difference.
        edges: (sender, receiver), named as in :class:`PathEffects`.
        mode: Which run is changed.

    Raises:
        AxisError: no edges, one twice, or one that the model does not have; a readout of replies.
        DataError: no pairs, or pairs of several contrasts.
        ModelError: the model lacks a part.
    """
    model = pairs.model
    needs(model, "paths", "attention", "mlp", "heads", "sequence")
    check_paths(model, edges)
    last_readout(readout, "exact_paths")
    pairs.check_contrast()
    layers_run(model, 0)  # finds out, once per model, whether layers can be skipped
    senders = [component(sender) for sender, _ in edges]
    inner = sorted({s.layer for s in senders if s.kind == "neuron" and s.layer is not None})
    # The stream between sublayers is kept of the base run alone.
    sites = {**sender_sites(model, inner), "resid_mid": ()}

    def work(runs: CleanCorrupt) -> dict[str, Tensor]:
        return {"effect": _patched_paths(runs, edges).cpu()}

    with counted() as receipt:
        tables = list(pairs.batches(work, readout, mode, sites, at_once=16))
    return ExactPaths(
        effect=torch.cat([table["effect"] for table in tables]),
        context=tuple(pair.context.id for pair in pairs),
        edge=tuple(edge_name(*edge) for edge in edges),
        emotion=pairs[0].emotion,
        other=pairs[0].other,
        readout=readout.name,
        mode=mode,
        receipt=receipt.to_json(),
    )


@torch.no_grad()
def _patched_paths(runs: CleanCorrupt, edges: Sequence[PathEdge]) -> Float[Tensor, "row edge"]:
    model, base, kept = runs.model, runs.baseline, runs.base_run.sites
    found, last = sender_changes(runs, kept), runs.model.cfg.n_layers - 1
    effects = base.new_zeros(len(base), len(edges))

    def patch(some: Sequence[tuple[int, int]], layer: int | None) -> None:
        rows, numbers = [row for row, _ in some], [e for _, e in some]
        changes = {e: differences(model, found, [edges[e][0]])[0] for e in set(numbers)}
        change = runs.sign * torch.stack([changes[e][row] for row, e in some])
        if layer is None:
            resid = kept["resid_post"][last][rows, -1:] + change[:, -1:]
            got = runs.read(rows, runs.end, last + 1, resid)
        else:
            resid = kept["resid_pre"][layer][rows, -runs.width :]
            ends = [receiver(edges[e][1]) for e in numbers]
            hooks = _input_hooks(runs, layer, rows, ends, change)
            got = runs.read(rows, 0, layer, resid, hooks, all_positions=True)
        effects[rows, numbers] = runs.sign * (got - base[rows])

    # What is changed together: inputs of one layer, all attention's or all the MLP's.
    groups: dict[tuple[int | None, bool], list[int]] = {}
    for number, (_, reader) in enumerate(edges):
        end = receiver(reader)
        groups.setdefault((end.layer, end.via == "mlp"), []).append(number)
    at_once = in_force().rows(96)
    for (layer, _), own in groups.items():
        jobs = [(row, e) for e in own for row in range(len(base))]
        for start in range(0, len(jobs), at_once):
            halving(
                partial(patch, layer=layer),
                jobs[start : start + at_once],
                lambda job: " to ".join(edges[job[1]]),
                rows=False,
            )
    return effects


def _input_hooks(
    runs: CleanCorrupt,
    layer: int,
    rows: Sequence[int],
    ends: Sequence[Receiver],
    change: Float[Tensor, "row pos d_model"],
) -> list[Hook]:
    """Hooks that change one input of every row; the inputs are all attention's, or all the MLP's.

    Queries, keys, values and the inputs of neurons are linear after the norm, so the change of one
    is its weight times the change of the norm's output; an MLP's input is the norm's output itself.
    """
    model, via = runs.model, ends[0].via
    site = "resid_mid" if via == "mlp" else "resid_pre"
    before = runs.base_run.sites[site][layer][rows, -runs.width :]
    change = normed(model, via, layer, before + change) - normed(model, via, layer, before)
    alike: dict[tuple[str, bool], list[int]] = {}
    for i, end in enumerate(ends):
        alike.setdefault((end.via, end.index is None), []).append(i)
    hooks: list[Hook] = []
    for (kind, whole), own in alike.items():
        if whole:
            hooks.append((hook_name("ln2_out", layer), partial(_added, own, None, change[own])))
            continue
        units = [ends[i].index or 0 for i in own]
        if kind == "mlp":
            weights = neuron_inputs(model, layer, units)
        else:
            weights = {kind: input_weights(model, kind, layer)[units]}
        for inner, weight in weights.items():
            value = einsum(change[own], weight, "row pos d, row d ... -> row pos ...")
            hooks.append((hook_name(inner, layer), partial(_added, own, units, value)))
    return hooks


def _added(
    rows: Sequence[int],
    units: Sequence[int] | None,
    value: Tensor,
    activation: Tensor,
    hook: object,
) -> Tensor:
    """Add ``value`` to some rows of an activation: to one unit of each, or to the whole."""
    at = torch.tensor(rows)[:, None], torch.arange(value.shape[1])[None]
    where = at if units is None else (*at, torch.tensor(units)[:, None])
    changed = activation.clone()
    changed[where] += value.to(activation.dtype)
    return changed


def sample_paths(effects: PathEffects, count: int) -> list[tuple[str, str]]:
    """Paths drawn at random by the seed in force, all of them where there are fewer."""
    places = effects.exists.nonzero()
    random = torch.Generator().manual_seed(in_force().seed)
    drawn = torch.randperm(len(places), generator=random)[:count]
    return [(effects.sender[i], effects.receiver[j]) for i, j in places[drawn].tolist()]


def path_agreement(
    effects: PathEffects, exact: ExactPaths, edges: Sequence[tuple[str, str]]
) -> dict[str, float]:
    """``spearman`` and ``sign`` (share of equal signs) over these paths, and their ``count``.

    Paths whose exact effect is zero have no sign and count as agreeing if attribution is zero too.

    Raises:
        DataError: fewer than three paths, or they have no two different effects.
    """
    if len(edges) < 3:
        raise DataError(f"agreement needs three paths or more, found {len(edges)}")
    places = [exact.index("edge", edge_name(*edge)) for edge in edges]
    estimate = torch.tensor([effects.at("mean", sender=s, receiver=r) for s, r in edges])
    found = rank_agreement(estimate, exact.mean[places])
    if found["spearman"] is None:
        raise DataError("these paths all have the same effect, so nothing can be compared")
    named = {"spearman": found["spearman"], "sign": found["sign"], "count": len(edges)}
    return {name: float(value or 0) for name, value in named.items()}
