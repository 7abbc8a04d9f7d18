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


def read_graphml(text):
    return nx.read_graphml(BytesIO(text.encode()))


def read_gexf(text):
    graph = nx.read_gexf(BytesIO(text.encode()))
    for _, data in graph.nodes(data=True):
        del data["label"]
    for _, _, data in graph.edges(data=True):
        data.pop("id", None)
    return graph


def expected_scalars(circuit):
    model = circuit.provenance.model
    return {
        "format": "emotion-circuit/2",
        "emotion": circuit.emotion,
        **{f"model_{name}": value for name, value in model.items()},
        **{f"score_{name}": value for name, value in circuit.scores.items()},
        "provenance": circuit.to_networkx().graph["provenance"],
        "edge_order": circuit.to_networkx().graph["edge_order"],
        "provenance_fingerprint": circuit.provenance.fingerprint(),
    }


@pytest.mark.parametrize(
    ("write", "read"), [(graphml, read_graphml), (gexf, read_gexf)], ids=["graphml", "gexf"]
)
@FEW
@given(circuit=st.from_type(Circuit))
def test_networkx_reads_back_nodes_edges_and_their_attributes(write, read, circuit):
    graph, original = read(write(circuit)), circuit.to_networkx()
    assert graph.is_directed()
    assert list(graph.nodes(data=True)) == list(original.nodes(data=True))
    assert edge_rows(graph) == edge_rows(original)


def edge_rows(graph):
    """Edges with their attributes, whatever the keys are called."""
    rows = [
        (a, b, {k: v for k, v in data.items() if k not in ("key", "id")})
        for a, b, data in graph.edges(data=True)
    ]
    return sorted(rows, key=lambda row: (*row[:2], repr(sorted(row[2].items()))))


@pytest.mark.parametrize("write", WRITERS)
def test_paths_between_the_same_nodes_are_all_there(write, pathed):
    if write is graphml:
        graph = nx.read_graphml(BytesIO(write(pathed).encode()), force_multigraph=True)
    else:
        graph = read_gexf(write(pathed))
    own = [data for _, _, data in graph.out_edges("L0H1", data=True) if data["kind"] == "path"]
    assert sorted(data["via"] for data in own) == ["k", "q", "readout"]
    assert {data["via"]: data.get("causal") for data in own} == {
        "q": True,
        "k": False,
        "readout": None,
    }


def test_no_two_edges_of_a_graphml_file_have_one_name(pathed):
    root = ElementTree.fromstring(graphml(pathed))
    names = [edge.get("id") for edge in root.findall(".//{*}edge")]
    assert len(set(names)) == len(names) == len(pathed.edges)


@FEW
@given(st.from_type(Circuit))
def test_graphml_keeps_what_is_said_of_the_whole_circuit(circuit):
    graph = read_graphml(graphml(circuit)).graph
    kept = {name: value for name, value in graph.items() if not name.endswith("_default")}
    assert kept == expected_scalars(circuit)


@FEW
@given(st.from_type(Circuit))
def test_gexf_keeps_what_is_said_of_the_whole_circuit_in_its_description(circuit):
    text = gexf(circuit)
    found = ElementTree.fromstring(text).findtext(".//{*}meta/{*}description")
    assert found is not None
    assert json.loads(found) == expected_scalars(circuit)
    assert read_gexf(text).graph["name"] == circuit.emotion


@pytest.mark.parametrize("write", WRITERS)
def test_a_residual_edge_has_no_weight(write, circuit):
    read = read_graphml if write is graphml else read_gexf
    edges = read(write(circuit)).edges
    assert "weight" not in edges["embed", "L0.attn"]
    assert edges["L1N7", "L1.mlp"]["weight"] == -0.125


@pytest.mark.parametrize("write", WRITERS)
def test_what_xml_cannot_hold_is_replaced(write, circuit):
    model = {**circuit.provenance.model, "name": "bell\a", "note": "", "nested": {"a": [1]}}
    provenance = dataclasses.replace(circuit.provenance, model=model)
    text = write(dataclasses.replace(circuit, provenance=provenance))
    ElementTree.fromstring(text)
    assert "bell\N{REPLACEMENT CHARACTER}" in text
    assert "model_note" not in text
    assert "model_nested" not in text
    assert "bell\\u0007" in text.replace("\\\\", "\\"), "the provenance keeps it"


@pytest.mark.parametrize("write", WRITERS)
def test_the_same_circuit_gives_the_same_text_on_any_day(write, circuit):
    assert write(circuit) == write(circuit)
    assert "lastmodifieddate" not in write(circuit)


@pytest.mark.parametrize("write", WRITERS)
def test_a_number_that_is_not_finite_is_refused(write, circuit):
    with pytest.raises(CircuitError, match=r"scores.share is nan"):
        write(circuit.with_scores(share=float("nan")))


@FEW
@given(st.from_type(Circuit))
def test_graphml_loses_nothing(circuit):
    graph = nx.read_graphml(
        BytesIO(graphml(circuit).encode()), force_multigraph=bool(circuit.paths)
    )
    assert Circuit.from_networkx(graph) == circuit
