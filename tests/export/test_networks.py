"""A circuit as a networkx graph, and back."""

import dataclasses

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit
from circuits.errors import CircuitError

FEW = settings(max_examples=40, deadline=None)


@FEW
@given(st.from_type(Circuit))
def test_a_circuit_comes_back_from_networkx_exactly(circuit):
    assert Circuit.from_networkx(circuit.to_networkx()) == circuit


@FEW
@given(st.from_type(Circuit))
def test_every_attribute_is_a_scalar(circuit):
    graph = circuit.to_networkx()
    values = [*graph.graph.values()]
    values += [value for _, own in graph.nodes(data=True) for value in own.values()]
    values += [value for _, _, own in graph.edges(data=True) for value in own.values()]
    assert {type(value) for value in values} <= {str, int, float, bool}


def test_a_graph_without_some_nodes_is_a_circuit_without_them(pathed):
    graph = pathed.to_networkx()
    assert graph.is_multigraph()
    assert set(graph["L0H1"]["L1H0"]) == {"q", "k"}
    graph.remove_node("L1N7")
    found = Circuit.from_networkx(graph)
    assert found.neurons == ()
    assert len(found.edges) == len(pathed.edges) - 1
    assert set(found.edges) < set(pathed.edges)
    assert (found.scores, found.provenance) == (pathed.scores, pathed.provenance)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda g: nx.Graph(g), "undirected"),
        (lambda g: g.graph.pop("format"), "'format' is None"),
        (lambda g: g.graph.pop("emotion"), "lacks the attribute 'emotion'"),
        (lambda g: g.nodes["L0H1"].pop("kind"), "attribute 'kind' of L0H1 is missing"),
        (lambda g: g.nodes["L0H1"].update(colour="red"), "'colour' of L0H1 is none of"),
        (lambda g: g.add_edge("L0H1", "L7H0", kind="direct"), "'kind' of L7H0 is missing"),
        (lambda g: g.graph.update(provenance="{"), "'provenance' is no JSON"),
        (lambda g: g.graph.update(provenance="{}"), "'provenance' is not a provenance"),
    ],
)
def test_a_graph_that_is_no_circuits_is_refused(circuit, break_it, said):
    graph = circuit.to_networkx()
    changed = break_it(graph)
    with pytest.raises(CircuitError, match=said):
        Circuit.from_networkx(changed if isinstance(changed, nx.Graph) else graph)  # type: ignore[arg-type]


def test_a_graph_without_provenance_is_a_circuit_without_it(circuit):
    graph = circuit.to_networkx()
    for name in ("provenance", "edge_order"):
        del graph.graph[name]
    found = Circuit.from_networkx(graph)
    assert dataclasses.replace(found, provenance=circuit.provenance, edges=circuit.edges) == circuit
    assert set(found.edges) == set(circuit.edges)
