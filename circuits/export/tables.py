"""A circuit as tables and as graph files, and what a file of a circuit keeps and loses.

A circuit as GraphML and GEXF, for Gephi, Cytoscape, yEd and igraph.

Both hold scalars only: nodes and edges carry what they carry in the JSON form, the graph carries
emotion, sizes of the model and scores, one attribute each, and the provenance as JSON text; so
nothing is lost, and ``Circuit.from_networkx(networkx.read_graphml(path))`` is the circuit. GEXF has
no attributes of a graph; there they are a JSON object in the description of the file. Edges between
the same nodes, such as paths into q, k and v of a head, are told apart by their ids.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from io import BytesIO, StringIO
from typing import Any, Final
from xml.dom import minidom

from circuits.circuit.circuit import Circuit, Edge, EdgeKind, Node, graph_attributes
from circuits.export.node_link import plain_values
from circuits.files import Loss, guarded

__all__ = [
    "counted",
    "edges_csv",
    "fields_lost",
    "gexf",
    "graphml",
    "kinds_lost",
    "nodes_csv",
    "table_losses",
    "whole_lost",
]

_NODE_FIELDS: Final[Mapping[str, str]] = {
    "effect": "effects on the direction of the own layer",
    "stderr": "standard errors, and with them the intervals, of nodes",
    "random_baseline": "baselines (the same along random directions) of nodes",
    "importance": "importances of sublayers",
    "direct": "direct effects of nodes",
    "total": "total effects of nodes",
}
_EDGE_FIELDS: Final[Mapping[str, str]] = {
    "weight": "weights of edges",
    "stderr": "standard errors of paths",
    "random_baseline": "baselines of paths",
    "exact": "weights of paths measured by patching",
    "exact_stderr": "their standard errors",
    "causal": "verdicts on paths",
}
_EDGE_KINDS: Final[Mapping[EdgeKind, str]] = {
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
    parts = (("nodes", nodes, _NODE_FIELDS), ("edges", edges, _EDGE_FIELDS))
    found: list[Loss] = []
    for part, names, meanings in parts:
        for name in names:
            size = sum(getattr(item, name) is not None for item in getattr(circuit, part))
            found += counted(f"{part}.{name}", size, meanings[name])
    return found


def kinds_lost(circuit: Circuit, *kinds: EdgeKind) -> list[Loss]:
    """How many edges are of the kinds that the format has not."""
    sizes = Counter(edge.kind for edge in circuit.edges)
    lost = [counted(f"edges.{kind}", sizes[kind], _EDGE_KINDS[kind]) for kind in kinds]
    return [loss for own in lost for loss in own]


def whole_lost(circuit: Circuit, *, emotion: bool = False) -> list[Loss]:
    """Scores and provenance of a circuit, and its emotion where the format has no place for it."""
    return [
        *counted("scores", len(circuit.scores), "scores of the circuit as a whole"),
        Loss("provenance", 1.0, "where the circuit comes from: model, data, options, versions"),
        *([Loss("emotion", 1.0, "whose circuit it is")] if emotion else []),
    ]


def nodes_csv(circuit: Circuit) -> str:
    """The nodes as CSV; a cell is empty where nothing was measured.

    A text that a spreadsheet would run as a formula gets an apostrophe in front
    (:mod:`circuits.files`).

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    return _csv(circuit, "nodes", [field.name for field in fields(Node)])


def edges_csv(circuit: Circuit) -> str:
    """The edges as CSV; a residual edge has an empty weight.

    A text that a spreadsheet would run as a formula gets an apostrophe in front
    (:mod:`circuits.files`).

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    return _csv(circuit, "edges", [field.name for field in fields(Edge)])


def table_losses(circuit: Circuit) -> list[Loss]:
    """What the two tables together do not keep."""
    return whole_lost(circuit)


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
    import networkx as nx

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


def _graph(values: dict[str, Any], attributes: dict[str, Any]) -> Any:
    import networkx as nx

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
