import csv
import dataclasses
from io import StringIO
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.errors import CircuitError
from circuits.export import edges_csv, nodes_csv

FEW = settings(max_examples=20, deadline=None)


def cells(text) -> list[dict[str, Any]]:
    return list(csv.DictReader(StringIO(text, newline="")))


def number(cell):
    return float(cell) if cell else None


@FEW
@given(st.from_type(Circuit))
def test_the_tables_give_back_every_node_and_edge(circuit):
    nodes = tuple(
        Node(
            row["id"],
            row["kind"],
            int(row["layer"]) if row["layer"] else None,
            *(
                number(row[name])
                for name in ("effect", "stderr", "random_baseline", "importance", "direct", "total")
            ),
        )
        for row in cells(nodes_csv(circuit))
    )
    edges = tuple(
        Edge(
            row["source"],
            row["target"],
            row["kind"],
            number(row["weight"]),
            row["via"] or None,
            **{n: number(row[n]) for n in ("stderr", "random_baseline", "exact", "exact_stderr")},
            causal={"True": True, "False": False, "": None}[row["causal"]],
        )
        for row in cells(edges_csv(circuit))
    )
    assert nodes == circuit.nodes
    assert edges == circuit.edges


def test_pandas_reads_numbers_as_numbers(circuit):
    nodes = pd.read_csv(StringIO(nodes_csv(circuit))).set_index("id")
    assert nodes["effect"].dtype == "float64"
    assert nodes["effect"].dropna().to_dict() == {"L0H1": 0.5, "L1N7": -0.125}
    assert set(nodes["emotion"]) == {"anger"}
    edges = pd.read_csv(StringIO(edges_csv(circuit)))
    assert edges["weight"].dropna().tolist() == [0.5, 0.25, -0.125]
    assert edges["weight"].isna().tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("table", [nodes_csv, edges_csv])
@pytest.mark.parametrize("emotion", ["=1+1", "+joy", "-joy", "@SUM(A1)", "＝1+1"])
def test_a_text_does_not_become_a_formula(circuit, table, emotion):
    rows = cells(table(dataclasses.replace(circuit, emotion=emotion)))
    assert {row["emotion"] for row in rows} == {f"'{emotion}"}


def test_a_negative_number_is_no_text(circuit):
    assert "L1N7,neuron,1,-0.125,0.25,0.2,," in nodes_csv(circuit)


@FEW
@given(st.from_type(Circuit))
def test_commas_and_quotes_in_an_emotion_stay_in_their_cell(circuit):
    for row in cells(nodes_csv(circuit)):
        assert row["emotion"].removeprefix("'") == circuit.emotion.removeprefix("'")


@pytest.mark.parametrize("table", [nodes_csv, edges_csv])
def test_a_number_that_is_not_finite_is_refused(circuit, table):
    with pytest.raises(CircuitError, match=r"scores.share is nan"):
        table(circuit.with_scores(share=float("nan")))
