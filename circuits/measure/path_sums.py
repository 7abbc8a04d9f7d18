"""Attributions of all paths, pair by pair: differences of senders times gradients at inputs.

A layer's receivers meet a layer's senders one after the other, so that no more than two layers'
vectors are held at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.measure.cases import Mode
from circuits.measure.controls import QUANTILE, random_directions
from circuits.measure.pairs import Pair
from circuits.measure.path_ends import Ends, sees
from circuits.measure.path_gradients import receiver_gradients
from circuits.measure.path_runs import (
    LastReadout,
    Runs,
    Senders,
    differences,
    open_runs,
    steps_of,
)
from circuits.model.finite import check_values
from circuits.model.gradients import Trace
from circuits.model.halving import halving
from circuits.model.protocol import Model, dtype_of
from circuits.model.roles import ROLES
from circuits.names import component

__all__ = ["DRAWS", "Sums", "path_sums"]

DRAWS = 16
"""Random directions of the control."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Attributions in float32, or float64 if the model is; on the CPU."""

    scores: Float[Tensor, "context sender receiver"]
    nodes: Float[Tensor, "context sender"]
    control: Float[Tensor, "sender receiver"]
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
    layers = sorted({c.layer for s in ends.senders if (c := component(s)).kind == "neuron"
                     and c.layer is not None})  # fmt: skip
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
