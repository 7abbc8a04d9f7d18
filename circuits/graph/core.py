"""The strongest part of a circuit.

To be faithful a circuit needs more components than are needed to bring the emotion about when
they are written into a plain run: what is written there stands beside all the rest.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from circuits.graph.circuit import Circuit, Node, NodeKind
from circuits.names import component

__all__ = ["ORDERS", "Order", "core"]

Order = Literal["product", "effect", "direct", "total"]
"""What the strongest parts have most of: own effect times the importance of their sublayer, own
effect alone, direct effect on the readout, or estimated total effect."""
ORDERS: tuple[Order, ...] = get_args(Order)


def core(circuit: Circuit, n_heads: int, n_neurons: int, order: Order = "product") -> Circuit:
    """The circuit with only some of its heads and neurons, those that come first in an order.

    The own effect tells the emotion from the others, and a judge is to hear this emotion and no
    other. A circuit that has no more than that stays as it is; of equals the earlier stays, and
    what was not measured comes last.
    """
    importance = {
        (component(site.id).sublayer, site.layer): max(site.importance or 0.0, 0.0)
        for site in circuit.of_kind("sublayer")
    }

    def strength(node: Node) -> float:
        if order == "product":
            own = importance.get((component(node.id).sublayer, node.layer), 0.0)
            return (node.effect or 0.0) * own
        return {"effect": node.effect, "direct": node.direct, "total": node.total}[order] or 0.0

    kinds: Mapping[NodeKind, int] = {"head": n_heads, "neuron": n_neurons}
    left_out = {name for kind, n in kinds.items() for name in _last(circuit, kind, n, strength)}
    return circuit.without(left_out)


def _last(
    circuit: Circuit, kind: NodeKind, count: int, strength: Callable[[Node], float]
) -> list[str]:
    ranked = sorted(circuit.of_kind(kind), key=strength, reverse=True)
    return [node.id for node in ranked[count:]]
