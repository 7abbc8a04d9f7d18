import dataclasses
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit
from circuits.errors import CircuitError, DataError
from circuits.export import circuit_from_json, circuit_to_json, read_circuit, write_circuit

FEW = settings(max_examples=20, deadline=None)


def with_effect(circuit, effect):
    head = dataclasses.replace(circuit.node("L0H1"), effect=effect)
    nodes = tuple(head if node.id == "L0H1" else node for node in circuit.nodes)
    return dataclasses.replace(circuit, nodes=nodes)


def with_options(circuit, **options):
    provenance = dataclasses.replace(circuit.provenance, options=options)
    return dataclasses.replace(circuit, provenance=provenance)


@FEW
@given(st.from_type(Circuit))
def test_a_circuit_is_the_same_after_writing_and_reading(circuit):
    text = json.dumps(circuit_to_json(circuit), allow_nan=False)
    assert circuit_from_json(json.loads(text)) == circuit


def test_a_file_gives_back_its_circuit(circuit, tmp_path):
    write_circuit(circuit, tmp_path / "deep" / "anger.json")
    assert read_circuit(tmp_path / "deep" / "anger.json") == circuit


def test_the_same_circuit_gives_the_same_file(circuit, tmp_path):
    for name in ("a", "b"):
        write_circuit(circuit, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@FEW
@given(st.from_type(Circuit))
def test_networkx_reads_the_json_as_it_is(circuit):
    graph = nx.node_link_graph(circuit_to_json(circuit), edges="edges")
    assert isinstance(graph, nx.DiGraph)
    assert graph.is_multigraph() == bool(circuit.paths)
    assert dict(graph.nodes(data=True)) == dict(circuit.to_networkx().nodes(data=True))
    assert list(graph.edges(data=True)) == list(circuit.to_networkx().edges(data=True))
    assert list(graph.edges) == list(circuit.to_networkx().edges)
    assert graph.graph["emotion"] == circuit.emotion


def test_what_was_not_measured_is_left_out_and_order_is_kept(circuit):
    values = circuit_to_json(circuit)
    assert list(values) == [
        "format",
        "directed",
        "multigraph",
        "graph",
        "nodes",
        "edges",
        "scores",
        "provenance",
    ]
    assert [node["id"] for node in values["nodes"]] == [node.id for node in circuit.nodes]
    assert values["nodes"][0] == {"id": "embed", "kind": "embed"}
    assert values["nodes"][4] == {"id": "L1.mlp", "kind": "sublayer", "layer": 1, "importance": 1.0}
    assert "weight" not in values["edges"][0]


def test_numbers_of_numpy_become_plain_ones(circuit):
    written = circuit_to_json(with_effect(circuit, np.float64(0.5)))
    assert type(written["nodes"][1]["effect"]) is float
    written = circuit_to_json(with_options(circuit, seed=np.int64(3), half=Fraction(1, 2)))
    assert written["provenance"]["options"] == {"seed": 3, "half": 0.5}
    assert type(written["provenance"]["options"]["seed"]) is int


def test_whole_numbers_are_read_as_floats(circuit):
    values = circuit_to_json(circuit)
    values["nodes"][1]["effect"] = 1
    assert type(circuit_from_json(values).node("L0H1").effect) is float


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused_by_the_name_of_its_node(circuit, number, tmp_path):
    message = (
        rf"cannot write the circuit of 'anger': nodes\[1\].effect \(node 'L0H1'\) is {number}, "
        "not a finite number; leave out"
    )
    with pytest.raises(CircuitError, match=message):
        write_circuit(with_effect(circuit, number), tmp_path / "anger.json")
    assert not list(tmp_path.iterdir())


def test_a_score_or_a_weight_that_is_not_finite_is_refused(circuit):
    with pytest.raises(CircuitError, match=r"scores.share is nan"):
        circuit_to_json(circuit.with_scores(share=float("nan")))
    edge = dataclasses.replace(circuit.edges[1], weight=float("inf"))
    broken = dataclasses.replace(circuit, edges=(edge,))
    with pytest.raises(
        CircuitError, match=r"edges\[0\].weight \(edge 'L0H1' -> 'L0.attn'\) is inf"
    ):
        circuit_to_json(broken)


def test_what_json_cannot_hold_is_refused(circuit):
    with pytest.raises(CircuitError, match=r"provenance.options.at is a complex, which JSON"):
        circuit_to_json(with_options(circuit, at=1j))
    with pytest.raises(CircuitError, match=r"provenance.options\['a b'\]\[1\] .*lone surrogate"):
        circuit_to_json(with_options(circuit, **{"a b": ["x", "\ud800"]}))


@pytest.mark.parametrize("emotion", ["", "two\nlines", "bell\a", "half \ud800"])
def test_an_emotion_that_is_not_one_line_of_text_is_refused(circuit, emotion):
    with pytest.raises(CircuitError, match=r"graph.emotion is "):
        circuit_to_json(dataclasses.replace(circuit, emotion=emotion))


def test_a_negative_standard_error_is_not_written(circuit):
    head = dataclasses.replace(circuit.node("L0H1"), stderr=-1.0)
    with pytest.raises(CircuitError, match=r"nodes\[0\].stderr .* is -1.0; write a number of at"):
        circuit_to_json(Circuit("anger", (head,), ()))


def changed(circuit, change):
    values = circuit_to_json(circuit)
    change(values)
    return values


INVALID = {
    "duplicate": (
        lambda v: v["nodes"].insert(3, v["nodes"][1]),
        r"node 'L0H1' occurs twice; correct it",
    ),
    "wrong layer": (
        lambda v: v["nodes"][3].update(layer=0),
        r"node 'L1N7' is a neuron of layer 1, but is described as a neuron of layer 0",
    ),
    "outside the model": (
        lambda v: v["nodes"][1].update(id="L0H2"),
        r"node 'L0H2' lies outside the model, which has 2 heads",
    ),
    "edge to nowhere": (
        lambda v: v["edges"][2].update(target="L1.attn"),
        r"edge L0H1 -> L1.attn: the circuit has no node 'L1.attn'",
    ),
    "backwards": (
        lambda v: v["edges"][3].update(source="L1.mlp", target="L0.attn"),
        r"edge L1.mlp -> L0.attn goes against the residual stream",
    ),
    "newline in an id": (lambda v: v["nodes"][1].update(id="L0H1\n"), r".*no component"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_circuit_is_refused_with_its_node_or_edge(circuit, name, tmp_path):
    change, message = INVALID[name]
    path = tmp_path / "anger.json"
    path.write_text(json.dumps(changed(circuit, change)), encoding="utf-8")
    with pytest.raises(CircuitError, match=rf"anger.json: {message}"):
        read_circuit(path)


def test_graph_attributes_that_contradict_the_rest_are_refused(circuit):
    values = changed(circuit, lambda v: v["graph"]["scores"].update(direct_share=0.75))
    with pytest.raises(DataError, match=r"^scores and graph.scores say different things; make"):
        circuit_from_json(values)
    values = changed(circuit, lambda v: v["graph"]["model"].update(name="other"))
    with pytest.raises(DataError, match=r"^provenance.model and graph.model say different"):
        circuit_from_json(values)


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none.json"):
        read_circuit(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"format":', encoding="utf-8")
    with pytest.raises(DataError, match=r"half.json, line 1: not JSON"):
        read_circuit(tmp_path / "half.json")


def test_reading_a_circuit_imports_no_torch(circuit, tmp_path):
    path = tmp_path / "anger.json"
    write_circuit(circuit, path)
    program = (
        "import sys; from pathlib import Path; from circuits.export import read_circuit; "
        "assert read_circuit(Path(sys.argv[1])).emotion == 'anger'; "
        "heavy = {'torch', 'transformers', 'transformer_lens', 'plotly'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_paths_come_back_and_networkx_tells_them_apart(pathed):
    values = circuit_to_json(pathed)
    assert circuit_from_json(values) == pathed
    assert values["multigraph"] is True
    graph = nx.node_link_graph(values, edges="edges")
    assert isinstance(graph, nx.MultiDiGraph)
    assert graph.edges["L0H1", "L1H0", "q"]["exact"] == 0.4
    assert graph.edges["L0H1", "L1H0", "k"]["causal"] is False
    assert graph.edges["L0H1", "readout", "direct"]["weight"] == 0.25
    assert graph.edges["L0H1", "readout", "readout"]["weight"] == 0.125


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(multigraph=False), "multigraph is false; write true"),
        (lambda v: v["edges"][0].pop("key"), r"edges\[0\].key is None; write 'residual'"),
        (lambda v: v["edges"][5].update(key="k"), r"edges\[5\].key is 'k'; write 'q'"),
    ],
)
def test_keys_that_do_not_fit_are_refused(pathed, change, said):
    values = circuit_to_json(pathed)
    change(values)
    with pytest.raises(DataError, match=said):
        circuit_from_json(values)


def test_a_circuit_without_paths_is_written_as_before(circuit):
    values = circuit_to_json(circuit)
    assert values["multigraph"] is False
    assert all(set(edge) <= {"source", "target", "kind", "weight"} for edge in values["edges"])
    with pytest.raises(DataError, match="multigraph is true; write false, since .* no paths"):
        circuit_from_json({**values, "multigraph": True})
