"""Where paths begin and end: senders and receivers of a model, in the order of the stream.

What a receiver reads is the sum of all senders before it, so that what it can see is a beginning
of the list of senders. Chosen neurons are parts of their MLP: their paths are part of the MLP's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.errors import AxisError
from circuits.model.protocol import Model
from circuits.model.readers import key_value_groups
from circuits.names import component, head_name, neuron_name, receiver, sublayer_name

__all__ = ["Ends", "Readers", "check_paths", "path_ends", "sees"]


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
    named = {(p.layer, p.index) for p in parts if p.layer is not None and p.index is not None
             and p.kind == "neuron"}  # fmt: skip
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
