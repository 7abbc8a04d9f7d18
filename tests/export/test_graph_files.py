"""GraphML and GEXF, which networkx reads back without loss."""

import dataclasses
import json
from io import BytesIO
from xml.etree import ElementTree

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit
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
