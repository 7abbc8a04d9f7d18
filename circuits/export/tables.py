"""A circuit as tables and as graph files, and what a file of a circuit loses.

GraphML and GEXF, for Gephi, Cytoscape, yEd and igraph, hold scalars only: nodes and edges carry
what they carry in the JSON form, the graph carries emotion, sizes of the model and scores, one
attribute each, and the provenance as JSON text; so nothing is lost, and
``Circuit.from_networkx(networkx.read_graphml(path))`` is the circuit. GEXF has no attributes of a
graph; there they are a JSON object in the description of the file. Edges between the same nodes,
such as paths into q, k and v of a head, are told apart by their ids.
"""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from io import BytesIO, StringIO
from typing import Any, Final
from xml.dom import minidom

from circuits.circuit.circuit import EDGE_KINDS, Circuit, Edge, Node, graph_attributes
from circuits.export.node_link import plain_values
from circuits.files import Loss, guarded

__all__ = ["counted", "edges_csv", "gexf", "graphml", "lost", "nodes_csv", "table_losses"]

_MEANINGS: Final[Mapping[str, str]] = {
    "nodes.effect": "effects on the direction of the own layer",
    "nodes.stderr": "standard errors, and with them the intervals, of nodes",
    "nodes.random_baseline": "baselines (the same along random directions) of nodes",
    "nodes.importance": "importances of sublayers",
    "nodes.direct": "direct effects of nodes",
    "nodes.total": "total effects of nodes",
    "edges.weight": "weights of edges",
    "edges.stderr": "standard errors of paths",
    "edges.random_baseline": "baselines of paths",
    "edges.exact": "weights of paths measured by patching",
    "edges.exact_stderr": "their standard errors",
    "edges.causal": "verdicts on paths",
    "edges.residual": "edges that say the order along the residual stream",
    "edges.part": "edges from a head or neuron to its sublayer",
    "edges.direct": "direct edges to the readout",
    "scores": "scores of the circuit as a whole",
    "provenance": "where the circuit comes from: model, data, options, versions",
    "emotion": "whose circuit it is",
}


def counted(what: str, size: int, meaning: str) -> list[Loss]:
    """One loss, or none where nothing is lost."""
    return [Loss(what, float(size), meaning)] if size else []


def lost(circuit: Circuit, names: str) -> list[Loss]:
    """How much is lost of what a format leaves out: fields and kinds of edges, words apart.

    >>> lost(Circuit("fear", (Node("embed", "embed"),), ()), "nodes.effect emotion")
    [Loss(what='emotion', size=1.0, meaning='whose circuit it is', unit='count')]
    """
    found: list[Loss] = []
    for name in names.split():
        part, _, own = name.partition(".")
        if part == "edges" and own in EDGE_KINDS:
            size = sum(edge.kind == own for edge in circuit.edges)
        elif own:
            size = sum(getattr(item, own) is not None for item in getattr(circuit, part))
        else:
            size = len(circuit.scores) if name == "scores" else 1
        found += counted(name, size, _MEANINGS[name])
    return found


def nodes_csv(circuit: Circuit) -> str:
    """The nodes as CSV; a cell is empty where nothing was measured.

    A text that a spreadsheet would run as a formula gets an apostrophe in front
    (:mod:`circuits.files`).

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    return _csv(circuit, "nodes", [field.name for field in fields(Node)])


def edges_csv(circuit: Circuit) -> str:
    """The edges as CSV, as :func:`nodes_csv`; a residual edge has an empty weight.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    return _csv(circuit, "edges", [field.name for field in fields(Edge)])


def table_losses(circuit: Circuit) -> list[Loss]:
    """What the two tables together do not keep."""
    return lost(circuit, "scores provenance")


def _csv(circuit: Circuit, part: str, columns: list[str]) -> str:
    file = StringIO(newline="")
    table = csv.writer(file, lineterminator="\n")
    # With the emotion in every row, tables of several emotions can be joined.
    table.writerow(["emotion", *columns])
    for row in plain_values(circuit)[part]:
        cells = [circuit.emotion, *(row.get(column) for column in columns)]
        table.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in cells])
    return file.getvalue()


# What XML 1.0 cannot hold, and the carriage return, which its readers turn into a newline.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def graphml(circuit: Circuit) -> str:
    """The circuit as GraphML.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    import networkx as nx

    graph, scalars = _graph(circuit)
    graph.graph, file = scalars, BytesIO()
    # write_graphml would use lxml where it is installed, and give another file there.
    nx.write_graphml_xml(graph, file)
    return file.getvalue().decode() + "\n"


def gexf(circuit: Circuit) -> str:
    """The circuit as GEXF 1.2.

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    import networkx as nx

    graph, scalars = _graph(circuit)
    graph.graph, file = {"name": scalars["emotion"]}, BytesIO()
    nx.write_gexf(graph, file)
    document = minidom.parseString(file.getvalue())
    meta = document.getElementsByTagName("meta")[0]
    # The same circuit gives the same file, on whatever day.
    meta.removeAttribute("lastmodifieddate")
    description = document.createElement("description")
    description.appendChild(document.createTextNode(json.dumps(scalars, ensure_ascii=False)))
    meta.appendChild(description)
    return document.toxml() + "\n"


def _graph(circuit: Circuit) -> tuple[Any, dict[str, Any]]:
    """The circuit as a networkx graph, and what is said of the whole as scalars."""
    import networkx as nx

    values = plain_values(circuit)
    graph = nx.node_link_graph(values, edges="edges")
    if graph.is_multigraph():
        # In these files the key is the name of an edge, and no two edges have the same.
        named = [(a, b, f"{a}->{b}.{key}", own) for a, b, key, own in graph.edges.data(keys=True)]
        graph.clear_edges()
        graph.add_edges_from(named)
    said = {
        **graph_attributes(circuit),
        **{f"model_{name}": value for name, value in values["graph"]["model"].items()},
        "provenance_fingerprint": circuit.provenance.fingerprint(),
    }
    # An empty text would be read back as no attribute at all.
    return graph, {
        _clean(name): _clean(value) if isinstance(value, str) else value
        for name, value in said.items()
        if isinstance(value, str | int | float) and value != ""
    }


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
