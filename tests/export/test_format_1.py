"""Circuits that version 0.1 wrote still open, each kind of them, with all that they say."""

import json
from pathlib import Path

import networkx as nx
import pytest

from circuits.circuit.circuit import Circuit
from circuits.export import check_file, read_circuit, write_circuit

FILES = Path(__file__).parent / "format_1"
RENAMED = {"control": "random_baseline"}
KINDS = {
    "run": ("fear", 6, 5, {"residual", "part", "direct"}),
    "paths": ("anger", 7, 8, {"residual", "part", "direct", "path"}),
    "published": ("happiness", 6, 5, {"residual", "part"}),
    "empty": ("joy / relief", 1, 0, set()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_circuit_of_the_first_format_opens_and_is_the_same_in_the_second(kind, tmp_path):
    path = FILES / f"{kind}.json"
    circuit = read_circuit(path)
    emotion, n_nodes, n_edges, kinds = KINDS[kind]
    assert (circuit.emotion, len(circuit.nodes), len(circuit.edges)) == (emotion, n_nodes, n_edges)
    assert {edge.kind for edge in circuit.edges} == kinds
    write_circuit(circuit, tmp_path / "again.json")
    assert read_circuit(tmp_path / "again.json") == circuit
    before, after = (
        json.loads(own.read_text(encoding="utf-8")) for own in (path, tmp_path / "again.json")
    )
    assert (before["format"], after["format"]) == ("emotion-circuit/1", "emotion-circuit/2")
    for old, new in zip(before["nodes"], after["nodes"], strict=True):
        assert new == {RENAMED.get(name, name): value for name, value in old.items()}
    for old, new in zip(before["edges"], after["edges"], strict=True):
        assert new == {RENAMED.get(name, name): value for name, value in old.items()}


def test_its_figures_are_where_they_were():
    run, paths = (read_circuit(FILES / f"{kind}.json") for kind in ("run", "paths"))
    head = run.node("L0H1")
    assert (head.effect, head.stderr, head.random_baseline, head.direct, head.total) == (
        0.5,
        0.1,
        0.2,
        0.25,
        1.0,
    )
    assert run.node("L0.attn").importance == -2.0
    assert (run.heads, run.neurons) == (((0, 1),), ((1, 7),))
    assert run.scores["faithfulness"] == 0.99
    assert run.provenance.model["n_key_value_heads"] == 1
    (path,) = (edge for edge in paths.paths if edge.via == "q")
    assert (path.source, path.target, path.weight, path.exact, path.causal) == (
        "L0H1",
        "L1H0",
        0.5,
        0.4,
        True,
    )


@pytest.mark.parametrize("kind", ["run", "paths"])
def test_its_graphml_is_the_same_circuit(kind):
    path = FILES / f"{kind}.graphml"
    assert check_file(path) == "graphml"
    graph = nx.read_graphml(path, force_multigraph=kind == "paths")
    assert Circuit.from_networkx(graph) == read_circuit(FILES / f"{kind}.json")
