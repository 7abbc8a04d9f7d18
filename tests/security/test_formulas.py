"""No cell of a table that is written starts a formula, and texts come back as they were."""

import ast
import csv
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.export.tables import edges_csv, nodes_csv
from circuits.files import guarded, unguarded
from circuits.prompts.prompt import LabelledText, Texts
from circuits.prompts.texts import read_texts, write_texts

PACKAGE = Path(__file__).parents[2] / "circuits"
SIGNS = "=+-@\t\r"
FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", '=HYPERLINK("x")', "'=1", "''@x", "＝1", "=c|'/c'!A1"]


@given(st.text(st.sampled_from("'=+-@\t\r\n＝ a1"), max_size=6) | st.text(max_size=8))
def test_no_guarded_cell_starts_a_formula_and_every_text_comes_back(text):
    assert not guarded(text).startswith(tuple(SIGNS + "＝＋－＠"))
    assert unguarded(guarded(text)) == text


@pytest.mark.trial("security", "a text that starts a formula in a table of texts ({suffix})")
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_texts_start_no_formula_and_come_back(tmp_path, suffix, trial):
    rows = tuple(LabelledText(f"{text} {i}", text, text) for i, text in enumerate(FORMULAS))
    texts = Texts("train", tuple(sorted(FORMULAS)), rows)
    write_texts(tmp_path / f"texts{suffix}", texts)
    with (tmp_path / f"texts{suffix}").open(newline="", encoding="utf-8") as file:
        table = csv.reader(file, delimiter="," if suffix == ".csv" else "\t")
        assert [cell for row in table for cell in row if cell.startswith(tuple(SIGNS))] == []
    found = read_texts(tmp_path / f"texts{suffix}", split="train", pair="pair")
    assert [(row.text, row.label, row.pair) for row in found.rows] == [
        (row.text, row.label, row.pair) for row in rows
    ]
    trial(times=3 * len(FORMULAS), outcome="an apostrophe in front; read back as it was")


@pytest.mark.trial("security", "an emotion that starts a formula in the tables of a circuit")
@pytest.mark.parametrize("table", [nodes_csv, edges_csv])
def test_circuits_start_no_formula_and_keep_their_negative_numbers(table, trial):
    nodes = (
        Node("embed", "embed"),
        Node("L0H0", "head", 0, effect=-0.5, direct=-1.0),
        Node("L0.attn", "sublayer", 0),
        Node("readout", "readout"),
    )
    edges = (Edge("embed", "L0.attn", "residual"), Edge("L0H0", "L0.attn", "part", -0.5))
    for emotion in FORMULAS:
        rows = list(csv.reader(StringIO(table(Circuit(emotion, nodes, edges)))))
        column = rows[0].index("emotion")
        assert {unguarded(row[column]) for row in rows[1:]} == {emotion}
        started = [cell for row in rows for cell in row if cell.startswith(tuple(SIGNS))]
        assert {float(cell) for cell in started} <= {-0.5, -1.0}
        assert "-0.5" in started
    trial(times=len(FORMULAS), outcome="an apostrophe in front; numbers stay numbers")


@pytest.mark.trial("security", "a table that is written without guarding its texts")
def test_tables_are_written_in_three_places(trial):
    writers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("csv.writer", "csv.DictWriter", ".to_csv", ".to_excel")
            ):
                writers.add(path.relative_to(PACKAGE).as_posix())
    # The authors' tables stay byte for byte as they are: their texts are the six emotions, and
    # "attention" and "mlp", and anything else in a cell is refused when it is read.
    assert writers == {"prompts/texts.py", "export/tables.py", "published/tables.py"}
    trial(outcome="none found")
