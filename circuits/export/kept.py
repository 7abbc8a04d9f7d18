"""What a format leaves out of a circuit, counted field by field."""

from collections.abc import Iterable, Mapping
from typing import Final

from circuits.graph.circuit import Circuit, Edge, Node
from circuits.losses import Loss

__all__ = ["counted", "fields_lost", "kinds_lost", "whole_lost"]

_NODE_FIELDS: Final[Mapping[str, str]] = {
    "effect": "effects on the direction of the own layer",
    "stderr": "standard errors, and with them the intervals, of nodes",
    "control": "controls (the same along random directions) of nodes",
    "importance": "importances of sublayers",
    "direct": "direct effects of nodes",
    "total": "total effects of nodes",
}
_EDGE_FIELDS: Final[Mapping[str, str]] = {
    "weight": "weights of edges",
    "stderr": "standard errors of paths",
    "control": "controls of paths",
    "exact": "weights of paths measured by patching",
    "exact_stderr": "their standard errors",
    "causal": "verdicts on paths",
}
_EDGE_KINDS: Final[Mapping[str, str]] = {
    "residual": "edges that say the order along the residual stream",
    "part": "edges from a head or neuron to its sublayer",
    "direct": "direct edges to the readout",
}


def counted(what: str, size: int, meaning: str) -> list[Loss]:
    """One loss, or none where nothing is lost."""
    return [Loss(what, float(size), meaning)] if size else []


def fields_lost(
    circuit: Circuit, nodes: Iterable[str] = (), edges: Iterable[str] = ()
) -> list[Loss]:
    """How many nodes and edges bear what is left out.

    Args:
        circuit: The circuit.
        nodes: Fields of nodes that the format leaves out.
        edges: Fields of edges that it leaves out.
    """
    found: list[Loss] = []
    parts: tuple[tuple[str, tuple[Node | Edge, ...], Iterable[str], Mapping[str, str]], ...] = (
        ("nodes", circuit.nodes, nodes, _NODE_FIELDS),
        ("edges", circuit.edges, edges, _EDGE_FIELDS),
    )
    for part, items, names, meanings in parts:
        for name in names:
            size = sum(getattr(item, name) is not None for item in items)
            found += counted(f"{part}.{name}", size, meanings[name])
    return found


def kinds_lost(circuit: Circuit, *kinds: str) -> list[Loss]:
    """How many edges are of the kinds that the format has not."""
    return [
        loss
        for kind in kinds
        for loss in counted(
            f"edges.{kind}", sum(edge.kind == kind for edge in circuit.edges), _EDGE_KINDS[kind]
        )
    ]


def whole_lost(circuit: Circuit, *, emotion: bool = False) -> list[Loss]:
    """Scores and provenance of a circuit, and its emotion where the format has no place for it."""
    return [
        *counted("scores", len(circuit.scores), "scores of the circuit as a whole"),
        Loss("provenance", 1.0, "where the circuit comes from: model, data, options, versions"),
        *([Loss("emotion", 1.0, "whose circuit it is")] if emotion else []),
    ]
