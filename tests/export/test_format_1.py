"""Circuits that version 0.1 wrote still open, each kind of them, with all that they say."""

import json
from pathlib import Path

import networkx as nx
import pytest

from circuits.circuit.circuit import Circuit
from circuits.export import check_file, read_circuit, write_circuit

FILES = Path(__file__).parent / "format_1"


@pytest.mark.parametrize("kind", ["run", "paths", "published", "empty"])
def test_a_circuit_of_the_first_format_opens_and_is_the_same_in_the_second(kind, tmp_path):
    path, again = FILES / f"{kind}.json", tmp_path / "again.json"
    circuit = read_circuit(path)
    write_circuit(circuit, again)
    assert read_circuit(again) == circuit
    before, after = (json.loads(own.read_text(encoding="utf-8")) for own in (path, again))
    assert (before["format"], after["format"]) == ("emotion-circuit/1", "emotion-circuit/2")
    assert after["graph"]["emotion"] == before["graph"]["emotion"] == circuit.emotion
    for part in ("nodes", "edges"):
        assert after[part] == [
            {"random_baseline" if name == "control" else name: own for name, own in row.items()}
            for row in before[part]
        ]


def test_its_figures_are_where_they_were():
    run, paths = (read_circuit(FILES / f"{kind}.json") for kind in ("run", "paths"))
    head, (path,) = run.node("L0H1"), (edge for edge in paths.paths if edge.via == "q")
    assert (head.effect, head.stderr, head.random_baseline) == (0.5, 0.1, 0.2)
    assert (head.direct, head.total, run.node("L0.attn").importance) == (0.25, 1.0, -2.0)
    assert (run.heads, run.neurons) == (((0, 1),), ((1, 7),))
    assert run.scores["faithfulness"] == 0.99
    assert run.provenance.model["n_key_value_heads"] == 1
    assert (path.source, path.target, path.weight) == ("L0H1", "L1H0", 0.5)
    assert (path.exact, path.causal) == (0.4, True)


@pytest.mark.parametrize("kind", ["run", "paths"])
def test_its_graphml_is_the_same_circuit(kind):
    path = FILES / f"{kind}.graphml"
    assert check_file(path) == "graphml"
    graph = nx.read_graphml(path, force_multigraph=kind == "paths")
    assert Circuit.from_networkx(graph) == read_circuit(FILES / f"{kind}.json")
