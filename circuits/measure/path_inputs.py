"""Single inputs made of another residual stream, for many rows at once.

Queries, keys, values and the inputs of neurons are linear after the norm, so the change of one is
its weight times the change of the norm's output; an MLP's input is the norm's output itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.model.partial import Kept
from circuits.model.protocol import Hook, Model
from circuits.model.readers import input_weights, neuron_inputs, normed
from circuits.names import hook, receiver

__all__ = ["Rows", "input_hooks"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Runs side by side: which base run, which input, and what is added to what it reads."""

    rows: tuple[int, ...]
    receivers: tuple[str, ...]
    change: Float[Tensor, "row pos d_model"]
    """Added to the residual stream that this input is made of, in the last positions."""


def input_hooks(model: Model, kept: Kept, layer: int, rows: Rows) -> list[Hook]:
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
