"""Exact path patching: one input sees another sender, and everything after it is run again.

The direct path from a sender to an input goes through the residual stream alone. To patch it, the
base run is repeated with one change: at matched positions this one input (queries of a head, keys
or values of a key-value group, an MLP, a neuron, or the readout) is made of a residual stream in
which the sender writes what it writes in the other run, through the norm exactly. All other
readers of the sender see what they saw; what follows the receiver is computed as usual. This is
path patching (Goldowsky-Dill et al. 2023, arXiv 2304.05969) of one edge.

Single inputs made of another residual stream, for many rows at once.

Queries, keys, values and the inputs of neurons are linear after the norm, so the change of one is
its weight times the change of the norm's output; an MLP's input is the norm's output itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from circuits.errors import DataError
from circuits.models.families import input_weights, needs, neuron_inputs, normed
from circuits.models.memory import counted, halving
from circuits.models.protocol import Hook, Model
from circuits.models.run import CachedRun, cache_run, check_values, layers_run, resume
from circuits.names import component, hook, receiver
from circuits.patching.pairs import Mode, Pair, Readout
from circuits.patching.paths import (
    LastReadout,
    PathEffects,
    Runs,
    check_paths,
    differences,
    last_readout,
    minus,
    open_runs,
    other_run,
)
from circuits.records import Record

__all__ = [
    "ExactPaths",
    "Rows",
    "edge_name",
    "exact_paths",
    "input_hooks",
    "path_agreement",
    "sample_paths",
]


@dataclass(frozen=True, eq=False)
class Rows:
    """Runs side by side: which base run, which input, and what is added to what it reads."""

    rows: tuple[int, ...]
    receivers: tuple[str, ...]
    change: Float[Tensor, "row pos d_model"]
    """Added to the residual stream that this input is made of, in the last positions."""


def input_hooks(model: Model, kept: CachedRun, layer: int, rows: Rows) -> list[Hook]:
    """Hooks that change one input of every row; the inputs are all attention's, or all the MLP's.

    Args:
        model: The model.
        kept: The base runs, with ``resid_pre`` and ``resid_mid``.
        layer: Of the inputs.
        rows: The runs.
    """
    ends = [receiver(name) for name in rows.receivers]
    via = ends[0].via
    site = "resid_mid" if via == "mlp" else "resid_pre"
    before = kept.sites[site][layer][list(rows.rows), -rows.change.shape[1] :]
    change = normed(model, via, layer, before + rows.change) - normed(model, via, layer, before)
    hooks: list[Hook] = []
    for kind in ("q", "k", "v"):
        own = [i for i, end in enumerate(ends) if end.via == kind]
        if own:
            parts = [ends[i].index or 0 for i in own]
            weight = input_weights(model, kind, layer)[parts]
            value = einsum(change[own], weight, "row pos d, row d d_head -> row pos d_head")
            hooks.append(_added(kind, layer, own, parts, value))
    whole = [i for i, end in enumerate(ends) if end.via == "mlp" and end.index is None]
    if whole:
        hooks.append(_added("ln2_out", layer, whole, None, change[whole]))
    single = [i for i, end in enumerate(ends) if end.via == "mlp" and end.index is not None]
    if single:
        neurons = [ends[i].index or 0 for i in single]
        for inner, weight in neuron_inputs(model, layer, neurons).items():
            value = einsum(change[single], weight, "row pos d, row d -> row pos")
            hooks.append(_added(inner, layer, single, neurons, value))
    return hooks


def _added(
    site: str, layer: int, rows: Sequence[int], parts: Sequence[int] | None, value: Tensor
) -> Hook:
    """Add ``value`` to some rows of an activation: to one part of each, or to the whole."""
    places = torch.arange(value.shape[1])

    def add(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        changed = activation.clone()
        at = torch.tensor(rows)[:, None], places[None]
        where = at if parts is None else (*at, torch.tensor(parts)[:, None])
        changed[where] += value.to(activation.dtype)
        return changed

    return place(site, layer), add


def place(site: str, layer: int) -> str:
    """The hook name; a function of its own because hooks call their hook point ``hook``."""
    return hook(site, layer)


AHEAD = 16
"""Pairs whose base runs are kept at once."""

PathEdge = tuple[str, str]
"""Names of a sender and a receiver."""


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
        return self.effect.mean(0)

    @property
    def stderr(self) -> Float[Tensor, " edge"]:
        """Standard error over contexts; NaN for one context."""
        spread = self.effect.std(0) if len(self.context) > 1 else self.effect[0] * torch.nan
        return spread / len(self.context) ** 0.5


def edge_name(sender: str, reader: str) -> str:
    """``L1H0->L3H5.q``."""
    return f"{sender}->{reader}"


def exact_paths(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    edges: Sequence[PathEdge],
    *,
    mode: Mode = "noising",
    batch_size: int = 96,
) -> ExactPaths:
    """The effect of every chosen path in every context.

    Args:
        model: Its sublayers must write straight into the residual stream.
        pairs: Clean and corrupt prompts of one emotion.
        readout: A projection or a logit difference.
        edges: (sender, receiver), named as in :class:`~circuits.patching.paths.PathEffects`.
        mode: Which run is changed.
        batch_size: Patched runs (a path of a pair each) at once; does not change the result.

    Raises:
        AxisError: no edges, one twice, or one that the model does not have.
        DataError: no pairs, or a readout of replies.
        ModelError: the model lacks a part.
    """
    needs(model, "paths", "attention", "mlp", "heads", "sequence")
    check_paths(model, edges)
    last = last_readout(readout)
    parts: list[Tensor] = []
    layers_run(model, 0)  # finds out, once per model, whether layers can be skipped

    def patch(own: Sequence[Pair]) -> Tensor:
        found = _patched(model, open_runs(model, own, mode), last, edges, batch_size).cpu()
        what = f"the readout {readout.name} of a patched run"
        check_values(model, found, what, [pair.clean.ids for pair in own])
        return found

    with counted() as receipt:
        for own in _batches(pairs):
            parts += halving(patch, own, lambda pair: pair.name)
    return ExactPaths(
        effect=torch.cat(parts),
        context=tuple(pair.context.id for pair in pairs),
        edge=tuple(edge_name(*edge) for edge in edges),
        emotion=pairs[0].emotion,
        other=pairs[0].other,
        readout=readout.name,
        mode=mode,
        receipt=receipt.to_json(),
    )


def _batches(pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
    # At least one, so that no pairs at all are refused where batches are made.
    return [pairs[i : i + AHEAD] for i in range(0, max(len(pairs), 1), AHEAD)]


def _patched(
    model: Model, runs: Runs, readout: LastReadout, edges: Sequence[PathEdge], batch_size: int
) -> Float[Tensor, "row edge"]:
    senders = [component(sender) for sender, _ in edges]
    inner = sorted({s.layer for s in senders if s.kind == "neuron" and s.layer is not None})
    other = other_run(model, runs, inner)
    sites = ("z", "mlp_out", "resid_mid", *(("post",) if inner else ()))
    seen: list[Tensor] = []
    with model.hooks(fwd_hooks=[_end(model, readout, seen)]):
        kept = cache_run(model, runs.base, (*sites, "resid_post"))
    found, base = minus(runs, kept.sites, other), readout.score(seen[0])
    sign = -1 if runs.mode == "noising" else 1
    effects = base.new_zeros(len(base), len(edges))
    for (layer, _), own in _groups(edges).items():
        jobs = [(row, e) for e in own for row in range(len(base))]

        def patch(some: Sequence[tuple[int, int]], layer: int | None = layer) -> None:
            rows, numbers = [row for row, _ in some], [e for _, e in some]
            changes = {e: sign * differences(model, found, [edges[e][0]])[0] for e in set(numbers)}
            change = torch.stack([changes[e][row] for row, e in some])
            ends = tuple(edges[e][1] for e in numbers)
            got = _run(model, kept, readout, layer, Rows(tuple(rows), ends, change))
            effects[rows, numbers] = sign * (got - base[rows])

        for start in range(0, len(jobs), batch_size):
            some = jobs[start : start + batch_size]
            halving(patch, some, lambda job: " to ".join(edges[job[1]]), rows=False)
    return effects


@torch.no_grad()
def _run(
    model: Model, kept: CachedRun, readout: LastReadout, layer: int | None, rows: Rows
) -> Float[Tensor, " row"]:
    """Readout of base runs, each with one input changed; all inputs lie in one layer."""
    last, index = model.cfg.n_layers - 1, list(rows.rows)
    seen: list[Tensor] = []
    if layer is None:
        resid = kept.sites["resid_post"][last][index, -1:] + rows.change[:, -1:]
        if readout.site == "resid_post":
            return readout.score(resid[:, 0])
        resume(model, kept, index, kept.width - 1, last + 1, resid, [_end(model, readout, seen)])
    else:
        start = kept.width - rows.change.shape[1]
        resid = kept.sites["resid_pre"][layer][index, start:]
        hooks = [*input_hooks(model, kept, layer, rows), _end(model, readout, seen)]
        resume(model, kept, index, start, layer, resid, hooks)
    return readout.score(seen[0])


def _end(model: Model, readout: LastReadout, seen: list[Tensor]) -> Hook:
    def hold(activation: Tensor, hook: object) -> None:  # TransformerLens names it `hook`
        seen.append(activation[:, -1].clone())

    return _end_name(model, readout.site), hold


def _end_name(model: Model, site: str) -> str:
    return "unembed.hook_out" if site == "logits" else hook(site, model.cfg.n_layers - 1)


def _groups(edges: Sequence[PathEdge]) -> dict[tuple[int | None, bool], list[int]]:
    """Numbers of the edges by what is changed together: layer, and attention or MLP."""
    groups: dict[tuple[int | None, bool], list[int]] = {}
    for number, (_, reader) in enumerate(edges):
        end = receiver(reader)
        groups.setdefault((end.layer, end.via == "mlp"), []).append(number)
    return groups


def sample_paths(effects: PathEffects, count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Paths drawn at random, all of them where there are fewer than ``count``."""
    places = effects.exists.nonzero()
    drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count]
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
    measured = exact.mean[places].double()
    estimate = torch.tensor(
        [effects.at("mean", sender=s, receiver=r) for s, r in edges], dtype=torch.float64
    )
    if measured.unique().numel() < 2 or estimate.unique().numel() < 2:
        raise DataError("these paths all have the same effect, so nothing can be compared")
    return {
        "spearman": float(np.corrcoef(rankdata(estimate), rankdata(measured))[0, 1]),
        "sign": float((estimate.sign() == measured.sign()).double().mean()),
        "count": float(len(edges)),
    }
