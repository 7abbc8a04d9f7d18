"""The two runs of a pair, seen from the end: what senders do differently, and gradients.

The base run is the one that is changed: the clean run in noising, the corrupt run in denoising.
Both are looked at through a window at the end that holds every matched token; where a pair has no
match, nothing differs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import DataError
from circuits.measure.cases import Mode
from circuits.measure.pairs import Pair, clean_tokens, corrupt_tokens
from circuits.measure.readouts import LogitDifference, Projection, Readout
from circuits.model.chat import Tokens
from circuits.model.forward import read
from circuits.model.gradients import Trace, trace
from circuits.model.protocol import Hook, Model, device_of
from circuits.model.readers import is_gated, output_weights
from circuits.model.runs import reading
from circuits.names import component, hook

__all__ = [
    "LastReadout",
    "Runs",
    "Senders",
    "differences",
    "last_readout",
    "minus",
    "open_runs",
    "other_run",
    "steps_of",
]

LastReadout = Projection | LogitDifference
"""Readouts of the last position, which need no reply."""

Senders = dict[str, dict[int, Tensor]]
"""site -> layer -> activation, or difference of activations, inside the window."""

_HEADS = "row pos head d_head, head d_head d_model -> head row pos d_model"
_NEURONS = "row pos neuron, neuron d_model -> neuron row pos d_model"


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
