"""Circuits as graphs of networkx, and as GraphML and GEXF, which it reads back without loss."""

import dataclasses
import json
from io import BytesIO
from xml.etree import ElementTree

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit
from circuits.errors import CircuitError
from circuits.export import gexf, graphml

FEW = settings(max_examples=20, deadline=None)

WRITERS = (graphml, gexf)


def read(write, circuit):
    """The graph that networkx reads, without what GEXF adds to it."""
    file = BytesIO(write(circuit).encode())
    if write is graphml:
        return nx.read_graphml(file, force_multigraph=bool(circuit.paths))
    graph = nx.read_gexf(file)
    for _, data in graph.nodes(data=True):
        del data["label"]
    return graph


def edge_rows(graph):
    """Edges with their attributes, whatever the keys are called."""
    rows = [
        (a, b, {k: v for k, v in data.items() if k not in ("key", "id")})
        for a, b, data in graph.edges(data=True)
    ]
    return sorted(rows, key=lambda row: (*row[:2], repr(sorted(row[2].items()))))


@pytest.mark.parametrize("write", WRITERS)
@FEW
@given(circuit=st.from_type(Circuit))
def test_networkx_reads_back_everything(write, circuit):
    graph, original, model = read(write, circuit), circuit.to_networkx(), circuit.provenance.model
    assert Circuit.from_networkx(original) == circuit
    assert graph.is_directed()
    assert list(graph.nodes(data=True)) == list(original.nodes(data=True))
    assert edge_rows(graph) == edge_rows(original)
    said = {name: value for name, value in graph.graph.items() if not name.endswith("_default")}
    if write is graphml:
        assert Circuit.from_networkx(graph) == circuit
    else:
        assert said["name"] == circuit.emotion
        text = ElementTree.fromstring(write(circuit)).findtext(".//{*}meta/{*}description")
        said = json.loads(text or "")
    assert said == {
        "format": "emotion-circuit/2",
        "emotion": circuit.emotion,
        **{f"model_{name}": value for name, value in model.items()},
        **{f"score_{name}": value for name, value in circuit.scores.items()},
        "provenance": original.graph["provenance"],
        "edge_order": original.graph["edge_order"],
        "provenance_fingerprint": circuit.provenance.fingerprint(),
    }


@pytest.mark.parametrize("write", WRITERS)
def test_paths_between_the_same_nodes_are_all_there(write, pathed):
    graph = read(write, pathed)
    own = [data for _, _, data in graph.out_edges("L0H1", data=True) if data["kind"] == "path"]
    causal = {data["via"]: data.get("causal") for data in own}
    assert causal == {"q": True, "k": False, "readout": None}
    root = ElementTree.fromstring(write(pathed))
    names = [edge.get("id") for edge in root.findall(".//{*}edge")]
    assert len(set(names)) == len(names) == len(pathed.edges)


@pytest.mark.parametrize("write", WRITERS)
def test_what_xml_cannot_hold_is_replaced(write, circuit):
    model = {**circuit.provenance.model, "name": "bell\a", "note": "", "nested": {"a": [1]}}
    provenance = dataclasses.replace(circuit.provenance, model=model)
    text = write(dataclasses.replace(circuit, provenance=provenance))
    ElementTree.fromstring(text)
    assert "bell\N{REPLACEMENT CHARACTER}" in text
    assert not {"model_note", "model_nested", "lastmodifieddate"} & set(text.split('"'))
    assert "bell\\u0007" in text.replace("\\\\", "\\"), "the provenance keeps it"


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
