"""A circuit as two tables: nodes and edges, one row each, for spreadsheets and pandas."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import fields
from io import StringIO
from typing import Any

from circuits.export.kept import whole_lost
from circuits.export.node_link import plain_values
from circuits.formulas import guarded
from circuits.graph.circuit import Circuit, Edge, Node
from circuits.losses import Loss

__all__ = ["edges_csv", "nodes_csv", "table_losses"]


def nodes_csv(circuit: Circuit) -> str:
    """The nodes as CSV; a cell is empty where nothing was measured.

    A text that a spreadsheet would run as a formula gets an apostrophe in front
    (:mod:`circuits.formulas`).

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    return _csv(circuit, "nodes", [field.name for field in fields(Node)])


def edges_csv(circuit: Circuit) -> str:
    """The edges as CSV; a residual edge has an empty weight.

    A text that a spreadsheet would run as a formula gets an apostrophe in front
    (:mod:`circuits.formulas`).

    Raises:
        CircuitError: a value cannot be written, such as NaN; names the node.
    """
    return _csv(circuit, "edges", [field.name for field in fields(Edge)])


def table_losses(circuit: Circuit) -> list[Loss]:
    """What the two tables together do not keep."""
    return whole_lost(circuit)


def _csv(circuit: Circuit, part: str, columns: list[str]) -> str:
    values = plain_values(circuit)
    rows: Iterable[Mapping[str, Any]] = values[part]
    file = StringIO(newline="")
    table = csv.writer(file, lineterminator="\n")
    # With the emotion in every row, tables of several emotions can be joined.
    table.writerow(["emotion", *columns])
    for row in rows:
        cells = [circuit.emotion, *(row.get(column) for column in columns)]
        table.writerow([guarded(cell) if isinstance(cell, str) else cell for cell in cells])
    return file.getvalue()
