"""The strongest part of a circuit.

To be faithful a circuit needs more components than are needed to bring the emotion about when
they are written into a plain run: what is written there stands beside all the rest.
"""

from dataclasses import replace

from circuits.graph.circuit import Circuit, Node, NodeKind
from circuits.names import component

__all__ = ["core"]


def core(circuit: Circuit, n_heads: int, n_neurons: int) -> Circuit:
    """The circuit with only some of its heads and neurons.

    Kept are those with the largest product of their own effect, which tells the emotion from the
    others, and the importance of their sublayer: a judge is to hear this emotion and no other.
    A circuit that has no more than that stays as it is; of equals the earlier stays.
    """
    left_out = {*_weakest(circuit, "head", n_heads), *_weakest(circuit, "neuron", n_neurons)}
    if not left_out:
        return circuit
    return replace(
        circuit,
        nodes=tuple(node for node in circuit.nodes if node.id not in left_out),
        edges=tuple(edge for edge in circuit.edges if not {edge.source, edge.target} & left_out),
    )


def _weakest(circuit: Circuit, kind: NodeKind, count: int) -> list[str]:
    importance = {
        (component(site.id).sublayer, site.layer): site.importance or 0.0
        for site in circuit.of_kind("sublayer")
    }

    def strength(node: Node) -> float:
        own = importance.get((component(node.id).sublayer, node.layer), 0.0)
        return (node.effect or 0.0) * max(own, 0.0)

    ranked = sorted(circuit.of_kind(kind), key=strength, reverse=True)
    return [node.id for node in ranked[count:]]
