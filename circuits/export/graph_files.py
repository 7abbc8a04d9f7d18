"""A circuit as GraphML and GEXF, for Gephi, Cytoscape, yEd and igraph.

Both hold scalars only: nodes and edges carry what they carry in the JSON form, the graph carries
emotion, sizes of the model and scores, one attribute each, and the provenance as JSON text; so
nothing is lost, and ``Circuit.from_networkx(networkx.read_graphml(path))`` is the circuit. GEXF has
no attributes of a graph; there they are a JSON object in the description of the file. Edges between
the same nodes, such as paths into q, k and v of a head, are told apart by their ids.
"""

import json
import re
from io import BytesIO
from typing import Any
from xml.dom import minidom

import networkx as nx

from circuits.export.node_link import plain_values
from circuits.graph.circuit import Circuit
from circuits.graph.networks import graph_attributes

__all__ = ["gexf", "graphml"]

# What XML 1.0 cannot hold, and the carriage return, which its readers turn into a newline.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def graphml(circuit: Circuit) -> str:
    """The circuit as GraphML.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    values = plain_values(circuit)
    file = BytesIO()
    # write_graphml would use lxml where it is installed, and give another file there.
    nx.write_graphml_xml(_graph(values, _scalars(circuit, values)), file)
    return file.getvalue().decode() + "\n"


def gexf(circuit: Circuit) -> str:
    """The circuit as GEXF 1.2.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    values = plain_values(circuit)
    scalars = _scalars(circuit, values)
    file = BytesIO()
    nx.write_gexf(_graph(values, {"name": scalars["emotion"]}), file)
    document = minidom.parseString(file.getvalue())
    meta = document.getElementsByTagName("meta")[0]
    # The same circuit gives the same file, on whatever day.
    meta.removeAttribute("lastmodifieddate")
    description = document.createElement("description")
    description.appendChild(document.createTextNode(json.dumps(scalars, ensure_ascii=False)))
    meta.appendChild(description)
    return document.toxml() + "\n"


def _graph(values: dict[str, Any], attributes: dict[str, Any]) -> "nx.DiGraph[str]":
    graph = nx.node_link_graph(values, edges="edges")
    if graph.is_multigraph():
        # In these files the key is the name of an edge, and no two edges have the same.
        named = [
            (start, end, f"{start}->{end}.{key}", data)
            for start, end, key, data in graph.edges(keys=True, data=True)
        ]
        graph.clear_edges()
        graph.add_edges_from(named)
    graph.graph = attributes
    return graph


def _scalars(circuit: Circuit, values: dict[str, Any]) -> dict[str, Any]:
    named = {
        **graph_attributes(circuit),
        **{f"model_{name}": value for name, value in values["graph"]["model"].items()},
        "provenance_fingerprint": circuit.provenance.fingerprint(),
    }
    # An empty text would be read back as no attribute at all.
    return {
        _clean(name): _clean(value) if isinstance(value, str) else value
        for name, value in named.items()
        if isinstance(value, str | int | float) and value != ""
    }


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
