"""Runs of circuits: in the clean run everything outside the circuit is ablated.

Every head (z) and every neuron (post) that the circuit does not have is replaced, at the last
position or at all matched ones, by its value in the corrupt run of the same context (resample),
by a mean over plain prompts, or by zero. What the circuit has is computed anew from what comes
in. The embedding stays, and so do the tokens of the asking line, which have no counterpart in the
corrupt run.

Many circuits run side by side: as copies of the last token that share what was read before it,
or, if more positions change, as rows of a pass that begins at the first matched one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import DataError
from circuits.graph.masks import Masks
from circuits.measure.means import PlainMeans
from circuits.measure.pairs import Pair, clean_tokens, corrupt_tokens
from circuits.measure.readouts import LogitDifference, Projection
from circuits.model.forward import Prefix, branch, prefill_prefix
from circuits.model.halving import halving
from circuits.model.partial import Kept, keep, resume
from circuits.model.protocol import Hook, Model
from circuits.model.receipts import Cost
from circuits.model.runs import capture
from circuits.names import hook

__all__ = ["Ablation", "Positions", "Stand", "ablation_cost", "run_circuits", "stand"]

Ablation = Literal["resample", "mean", "zero"]
"""``resample``: the corrupt run's value of the same context, position by position. ``mean``: the
mean over plain prompts at their last position, the same at all positions. ``zero``: nothing."""

Positions = Literal["last", "matched"]
"""Where components are replaced: at the last position, where the reply begins and circuits are
measured and written; or at every matched position."""

_COPIES = 64
"""Circuits beside each other: more gain nothing, for copies look past each other."""


@dataclass(frozen=True, eq=False)
class Stand:
    """The clean runs of some contexts, ready to be gone on with under any circuit."""

    model: Model
    from_token: tuple[Tensor, Prefix] | None
    """If only the last position changes: the last tokens, and what was read before them."""
    from_start: Kept | None
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
    pairs: Sequence[Pair],
    *,
    ablation: Ablation = "resample",
    positions: Positions = "last",
    means: PlainMeans | None = None,
) -> Stand:
    """Run the clean prompts once, and for ``resample`` the corrupt ones.

    Args:
        model: The model.
        pairs: One per context.
        ablation: What stands for a component outside the circuit.
        positions: Where.
        means: For ``mean``: means over plain prompts of the train contexts.

    Raises:
        DataError: there is no pair, or there are no means where they are needed.
    """
    if not pairs:
        raise DataError("no context to run a circuit on; give one or more")
    if ablation == "mean" and means is None:
        raise DataError("mean ablation needs the means of the plain prompts; give them")
    wide = _wide(pairs, positions)
    counts = torch.tensor([min(wide, pair.matched) for pair in pairs])
    replaced = torch.arange(wide)[None] >= wide - counts[:, None]
    z, post = _values(model, pairs, wide, means if ablation == "mean" else None, ablation)
    tokens = clean_tokens(model, pairs)
    device = tokens.ids.device
    return Stand(
        model,
        prefill_prefix(model, tokens) if wide == 1 else None,
        keep(model, tokens) if wide > 1 else None,
        replaced.to(device),
        tuple(value.to(device) for value in z),
        tuple(value.to(device) for value in post),
    )


@torch.no_grad()
def run_circuits(
    on: Stand, masks: Masks, readouts: Sequence[Projection | LogitDifference]
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
        halving(lambda rows: _run(on, masks[list(rows)], readouts), part, _circuit, rows=False)
        for part in parts
    ]
    return torch.cat([own for part in found for own in part])


def _circuit(row: int) -> str:
    return f"the run of circuit {row} in all contexts"


def ablation_cost(
    model: Model,
    pairs: Sequence[Pair],
    n_circuits: int,
    *,
    ablation: Ablation = "resample",
    positions: Positions = "last",
) -> Cost:
    """What :func:`stand` and :func:`run_circuits` need for so many circuits."""
    layers, count, wide = model.cfg.n_layers, len(pairs), _wide(pairs, positions)
    whole = max(len(pair.clean.ids) for pair in pairs) - (wide == 1)
    passes = 2 if ablation == "resample" else 1
    if passes == 2:
        whole += max(len(pair.corrupt.ids) for pair in pairs)
    sizes = model.cfg.n_heads * model.cfg.d_head + model.cfg.d_mlp + model.cfg.d_model
    return Cost(
        passes=passes * count,
        steps=n_circuits * count,
        token_layers=layers * count * (whole + n_circuits * wide),
        memory=4 * sizes * count * (layers * whole + min(n_circuits, _COPIES) * wide),
    )


def _wide(pairs: Sequence[Pair], positions: Positions) -> int:
    return 1 if positions == "last" else max(pair.matched for pair in pairs)


def _values(
    model: Model, pairs: Sequence[Pair], wide: int, means: PlainMeans | None, ablation: Ablation
) -> tuple[list[Tensor], list[Tensor]]:
    layers, cfg = range(model.cfg.n_layers), model.cfg
    if ablation == "resample":
        picks = {site: lambda activation: activation[:, -wide:] for site in ("z", "post")}
        found = capture(model, corrupt_tokens(model, pairs), picks)
        return [found["z"][:, i] for i in layers], [found["post"][:, i] for i in layers]
    z = means.z if means else torch.zeros(len(layers), cfg.n_heads, cfg.d_head)
    post = means.post if means else torch.zeros(len(layers), cfg.d_mlp)
    shape = (len(pairs), wide)
    return (
        [z[i].expand(*shape, -1, -1) for i in layers],
        [post[i].expand(*shape, -1) for i in layers],
    )


def _run(
    on: Stand, masks: Masks, readouts: Sequence[Projection | LogitDifference]
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
