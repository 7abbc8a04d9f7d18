"""Tables of nodes and edges, and what a spreadsheet makes of them."""

import csv
from io import StringIO
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit
from circuits.export import edges_csv, nodes_csv
from circuits.files import unguarded


def cells(text) -> list[dict[str, Any]]:
    return list(csv.DictReader(StringIO(text, newline="")))


@settings(max_examples=20, deadline=None)
@given(st.from_type(Circuit))
def test_the_tables_give_back_every_node_and_edge(circuit):
    texts = ("id", "source", "target", "kind", "via")
    for table, items in ((nodes_csv, circuit.nodes), (edges_csv, circuit.edges)):
        for row, item in zip(cells(table(circuit)), items, strict=True):
            assert unguarded(row.pop("emotion")) == circuit.emotion
            for name, cell in row.items():
                known = getattr(item, name)
                if name in texts or isinstance(known, bool) or known is None:
                    assert cell == ("" if known is None else str(known))
                else:
                    assert float(cell) == known


def test_pandas_reads_numbers_as_numbers(circuit):
    nodes = pd.read_csv(StringIO(nodes_csv(circuit))).set_index("id")
    assert nodes["effect"].dtype == "float64"
    assert nodes["effect"].dropna().to_dict() == {"L0H1": 0.5, "L1N7": -0.125}
    assert set(nodes["emotion"]) == {"anger"}
    edges = pd.read_csv(StringIO(edges_csv(circuit)))
    assert edges["weight"].dropna().tolist() == [0.5, 0.25, -0.125]
    assert edges["weight"].isna().tolist() == [True, False, False, True, False]
