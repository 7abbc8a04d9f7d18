"""Exact path patching: one input sees another sender, and everything after it is run again.

The direct path from a sender to an input goes through the residual stream alone. To patch it, the
base run is repeated with one change: at matched positions this one input (queries of a head, keys
or values of a key-value group, an MLP, a neuron, or the readout) is made of a residual stream in
which the sender writes what it writes in the other run, through the norm exactly. All other
readers of the sender see what they saw; what follows the receiver is computed as usual. This is
path patching (Goldowsky-Dill et al. 2023, arXiv 2304.05969) of one edge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.effects.activations import mean_stderr
from circuits.errors import DataError
from circuits.models.families import input_weights, needs, neuron_inputs, normed
from circuits.models.memory import counted, halving
from circuits.models.protocol import Hook
from circuits.models.run import hook_name, layers_run
from circuits.names import Receiver, component, receiver
from circuits.patching.attribution import rank_agreement
from circuits.patching.pairs import CleanCorrupt, Mode, Readout, last_readout
from circuits.patching.paths import (
    PathEffects,
    check_paths,
    differences,
    sender_changes,
    sender_sites,
)
from circuits.records import Record
from circuits.running import in_force

__all__ = ["ExactPaths", "edge_name", "exact_paths", "path_agreement", "sample_paths"]

_PAIRS_AT_ONCE = 16
_RUNS_AT_ONCE = 96

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
        edges: (sender, receiver), named as in :class:`~circuits.patching.paths.PathEffects`.
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
        return {"effect": _patched(runs, edges).cpu()}

    with counted() as receipt:
        tables = list(pairs.batches(work, readout, mode, sites, at_once=_PAIRS_AT_ONCE))
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
def _patched(runs: CleanCorrupt, edges: Sequence[PathEdge]) -> Float[Tensor, "row edge"]:
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
    at_once = in_force().rows(_RUNS_AT_ONCE)
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
            hooks.append(_added("ln2_out", layer, own, None, change[own]))
            continue
        units = [ends[i].index or 0 for i in own]
        if kind == "mlp":
            weights = neuron_inputs(model, layer, units)
        else:
            weights = {kind: input_weights(model, kind, layer)[units]}
        for inner, weight in weights.items():
            value = einsum(change[own], weight, "row pos d, row d ... -> row pos ...")
            hooks.append(_added(inner, layer, own, units, value))
    return hooks


def _added(
    site: str, layer: int, rows: Sequence[int], units: Sequence[int] | None, value: Tensor
) -> Hook:
    """Add ``value`` to some rows of an activation: to one unit of each, or to the whole."""
    at = torch.tensor(rows)[:, None], torch.arange(value.shape[1])[None]
    where = at if units is None else (*at, torch.tensor(units)[:, None])

    def add(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        changed = activation.clone()
        changed[where] += value.to(activation.dtype)
        return changed

    return hook_name(site, layer), add


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
    found = rank_agreement(estimate.double(), exact.mean[places].double())
    if found["spearman"] is None:
        raise DataError("these paths all have the same effect, so nothing can be compared")
    return {name: float(found[name] or 0) for name in ("spearman", "sign")} | {
        "count": float(len(edges))
    }
