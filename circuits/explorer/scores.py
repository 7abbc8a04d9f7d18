"""What was measured of every node, for every emotion: value, interval, control, rank."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.explorer.content import ExplorerContent
from circuits.graph.circuit import Node
from circuits.names import SUBLAYERS, Component, component

__all__ = ["MEASURES", "node_scores", "rounded"]

MEASURES: Final[Mapping[str, tuple[str, str]]] = {
    "effect": (
        "own effect",
        "what a head or neuron adds along its own layer's emotion direction; of a sublayer its "
        "importance, the response of the readout per unit injected",
    ),
    "direct": (
        "direct effect",
        "what it adds to the readout through the residual stream alone",
    ),
    "total": (
        "total effect",
        "estimated effect on the readout with everything downstream, against the plain prompt",
    ),
}
"""Measure -> its name and meaning."""

Row = list[Any] | None
"""Value, low, high, control, does the interval lie beyond the control, rank; ``None`` in places of
what was not measured, and altogether if nothing was."""


@dataclass(frozen=True, eq=False)
class _Measured:
    value: Float[Tensor, "emotion layer part"]
    stderr: Float[Tensor, "emotion layer part"] | None = None
    control: Float[Tensor, "emotion layer part"] | None = None

    @property
    def count(self) -> int:
        """Components that are ranked."""
        return self.value[0].numel()

    def ranks(self) -> Int[Tensor, "emotion layer part"]:
        """Place by size, from 1; of equals the earlier comes first."""
        sizes = self.value.flatten(1).abs()
        order = sizes.argsort(dim=1, descending=True, stable=True)
        return (order.argsort(dim=1) + 1).reshape(self.value.shape)


def node_scores(
    content: ExplorerContent,
) -> tuple[Callable[[str], dict[str, list[Row]]], dict[str, dict[str, int]]]:
    """From a node's name to measure -> a row per emotion, and kind -> measure -> how many ranked.

    Without records, rows are what the circuits say, without ranks.
    """
    tables = _tables(content)
    ranks = {place: table.ranks() for place, table in tables.items()}
    counts: dict[str, dict[str, int]] = {}
    for (kind, measure), table in tables.items():
        counts.setdefault(kind, {})[measure] = table.count
    emotions = range(len(content.circuits))
    in_circuits = [{node.id: node for node in c.nodes} for c in content.circuits.values()]

    def rows(name: str) -> dict[str, list[Row]]:
        part, found = component(name), {}
        for measure in MEASURES:
            table = tables.get((part.kind, measure))
            if table is None:
                found[measure] = [_of_circuit(own.get(name), measure) for own in in_circuits]
                continue
            rank = ranks[part.kind, measure]
            found[measure] = [_row(table, rank, part, e) for e in emotions]
        return {measure: own for measure, own in found.items() if any(own)}

    return rows, counts


def rounded(value: float) -> float:
    """Four significant digits: enough to be read, and a quarter of the page."""
    return float(f"{value:.4g}")


def _tables(content: ExplorerContent) -> dict[tuple[str, str], _Measured]:
    found: dict[tuple[str, str], _Measured] = {}
    for kind, own in (("head", content.heads), ("neuron", content.neurons)):
        if own is not None:
            value = getattr(own, content.effect)
            error = "stderr" if content.effect == "mean" else "centred_stderr"
            control = own.control[..., None].expand_as(value)
            found[kind, "effect"] = _Measured(value, getattr(own, error), control)
    if content.importance is not None:
        own = content.importance
        by_layer = (x.transpose(1, 2) for x in (own.slope, own.stderr, own.control))
        slope, stderr, control = by_layer
        found["sublayer", "effect"] = _Measured(slope, stderr, control if own.n_random else None)
    if content.direct is not None:
        own = content.direct
        found["head", "direct"] = _Measured(own.head_effect)
        found["neuron", "direct"] = _Measured(own.neuron_effect)
        found["sublayer", "direct"] = _Measured(own.sublayer_effect.transpose(1, 2))
    if content.totals is not None:
        found["head", "total"] = _Measured(content.totals.head_effect)
        found["neuron", "total"] = _Measured(content.totals.neuron_effect)
    return found


def _row(
    table: _Measured, ranks: Int[Tensor, "emotion layer part"], part: Component, e: int
) -> Row:
    index = SUBLAYERS.index(part.sublayer or "") if part.index is None else part.index
    place = (e, part.layer, index)
    stderr = None if table.stderr is None else _finite(table.stderr[place])
    control = None if table.control is None else _finite(table.control[place])
    value = _finite(table.value[place])
    return None if value is None else _numbers(value, stderr, control, int(ranks[place]))


def _of_circuit(node: Node | None, measure: str) -> Row:
    if node is None:
        return None
    value = node.score if measure == "effect" else getattr(node, measure)
    own = (node.stderr, node.control) if measure == "effect" else (None, None)
    return None if value is None else _numbers(value, *own, None)


def _numbers(
    value: float, stderr: float | None, control: float | None, rank: int | None
) -> list[Any]:
    # The rules for intervals and controls are those of a circuit's node.
    node = Node("", "head", effect=value, stderr=stderr, control=control)
    low, high = node.interval or (None, None)
    shown = [None if x is None else rounded(x) for x in (value, low, high, control)]
    found = [*shown, node.beats_control, rank]
    while found[-1] is None:
        found.pop()
    return found


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None
