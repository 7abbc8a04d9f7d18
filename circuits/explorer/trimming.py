"""Of a large circuit its strongest parts: what a page can hold and a person can look through."""

from typing import Final

from circuits.graph.circuit import Circuit

__all__ = ["MOST", "trimmed"]

MOST: Final = 1000
"""Heads and neurons of a circuit that are shown."""


def trimmed(circuit: Circuit, most: int = MOST) -> Circuit:
    """The circuit with ``most`` heads and neurons: all heads, then ends of paths, then by |effect|.

    A circuit that has no more stays as it is.
    """
    ends = {end for edge in circuit.paths for end in (edge.source, edge.target)}
    parts = sorted(
        (node for node in circuit.nodes if node.kind in ("head", "neuron")),
        key=lambda node: (node.kind != "head", node.id not in ends, -abs(node.effect or 0.0)),
    )
    left_out = {node.id for node in parts[most:]}
    return circuit.without(left_out)
