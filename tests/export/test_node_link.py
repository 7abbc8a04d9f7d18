"""The saved form: written, read back, described by its schema, and refused where it is broken."""

import copy
import dataclasses
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import get_args

import jsonschema
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import EDGE_KINDS, FORMAT, NODE_KINDS, Circuit, Edge, Node, Via
from circuits.errors import CircuitError, DataError
from circuits.export import circuit_from_json, circuit_to_json, read_circuit, write_circuit
from circuits.files import shipped
from circuits.provenance import Provenance

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


@FEW
@given(st.from_type(Circuit))
def test_networkx_reads_the_json_as_it_is(circuit):
    graph, own = nx.node_link_graph(circuit_to_json(circuit), edges="edges"), circuit.to_networkx()
    assert isinstance(graph, nx.DiGraph)
    assert graph.is_multigraph() == bool(circuit.paths)
    assert dict(graph.nodes(data=True)) == dict(own.nodes(data=True))
    assert list(graph.edges(data=True)) == list(own.edges(data=True))
    assert list(graph.edges) == list(own.edges)
    assert graph.graph["emotion"] == circuit.emotion


def test_what_was_not_measured_is_left_out_and_order_is_kept(circuit):
    values = circuit_to_json(circuit)
    assert " ".join(values) == "format directed multigraph graph nodes edges scores provenance"
    assert [node["id"] for node in values["nodes"]] == [node.id for node in circuit.nodes]
    assert values["nodes"][0] == {"id": "embed", "kind": "embed"}
    assert values["nodes"][4] == {"id": "L1.mlp", "kind": "sublayer", "layer": 1, "importance": 1.0}
    assert "weight" not in values["edges"][0]
    assert all(set(edge) <= {"source", "target", "kind", "weight"} for edge in values["edges"])


def test_numbers_of_numpy_become_plain_ones_and_whole_numbers_floats(circuit):
    written = circuit_to_json(with_effect(circuit, np.float64(0.5)))
    assert type(written["nodes"][1]["effect"]) is float
    written = circuit_to_json(with_options(circuit, seed=np.int64(3), half=Fraction(1, 2)))
    assert written["provenance"]["options"] == {"seed": 3, "half": 0.5}
    assert type(written["provenance"]["options"]["seed"]) is int
    written["nodes"][1]["effect"] = 1
    assert type(circuit_from_json(written).node("L0H1").effect) is float


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: with_effect(c, float("nan")),
            r"nodes\[1\].effect \(node 'L0H1'\) is nan, not a",
        ),
        (lambda c: with_effect(c, float("-inf")), r"nodes\[1\].effect \(node 'L0H1'\) is -inf"),
        (lambda c: c.with_scores(share=float("nan")), "scores.share is nan"),
        (
            lambda c: dataclasses.replace(
                c, edges=(dataclasses.replace(c.edges[1], weight=float("inf")),)
            ),
            r"edges\[0\].weight \(edge L0H1 -> L0.attn\) is inf",
        ),
        (lambda c: with_options(c, at=1j), "provenance.options.at is a complex, which JSON"),
        (
            lambda c: with_options(c, **{"a b": ["x", "\ud800"]}),
            r"provenance.options\['a b'\]\[1\] .*lone surrogate",
        ),
        (
            lambda c: Circuit("anger", (dataclasses.replace(c.nodes[1], stderr=-1.0),), ()),
            r"nodes\[0\].stderr .*: -1.0 is less than the minimum of 0",
        ),
        *(
            (lambda c, own=own: dataclasses.replace(c, emotion=own), "graph.emotion")
            for own in ("", "two\nlines", "bell\a", "half \ud800")
        ),
    ],
)
def test_what_could_not_be_read_again_is_not_written(circuit, change, said, tmp_path):
    with pytest.raises(CircuitError, match=f"cannot write the circuit of 'anger.*{said}|.*{said}"):
        write_circuit(change(circuit), tmp_path / "anger.json")
    assert not list(tmp_path.iterdir())


def test_reading_a_circuit_imports_no_torch(circuit, tmp_path):
    write_circuit(circuit, tmp_path / "anger.json")
    program = (
        "import sys; from circuits.export import read_circuit; "
        "assert read_circuit(sys.argv[1]).emotion == 'anger'; "
        "assert not {'torch', 'transformers', 'transformer_lens', 'plotly'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "anger.json")]
    subprocess.run(words, cwd=Path(__file__).parents[2], check=True)


@pytest.fixture(scope="module")
def schema():
    return json.loads(shipped("circuit.schema.json").read_text(encoding="utf-8"))


def test_the_schema_knows_the_kinds_and_fields_of_the_circuit(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    node, edge = (schema["properties"][part]["items"] for part in ("nodes", "edges"))
    assert tuple(node["properties"]["kind"]["enum"]) == NODE_KINDS
    assert tuple(edge["properties"]["kind"]["enum"]) == tuple(EDGE_KINDS)
    assert list(node["properties"]) == list(Node.__dataclass_fields__)
    assert list(edge["properties"]) == [*Edge.__dataclass_fields__, "key"]
    assert edge["properties"]["via"]["enum"] == list(get_args(Via))
    provenance = schema["$defs"]["provenance"]["properties"]
    assert list(provenance) == list(Provenance.__dataclass_fields__)
    assert schema["properties"]["format"]["const"] == FORMAT


def test_every_field_of_the_schema_is_described(schema):
    parts = [schema, *schema["$defs"].values(), schema["properties"]["graph"]]
    parts += [schema["properties"][part]["items"] for part in ("nodes", "edges")]
    for part in parts:
        assert part["description"]
        for name, field in part.get("properties", {}).items():
            target = field.get("$ref", "").removeprefix("#/$defs/")
            assert (schema["$defs"][target] if target else field)["description"], name


LACKS = object()
BROKEN = [
    (("nodes", 1, "kind"), LACKS, r"^nodes\[1\] \(node 'L0H1'\): 'kind' is a required property"),
    (("provenance",), LACKS, "^the file: 'provenance' is a required property"),
    (("directed",), False, "^directed: True was expected. Edges have a direction"),
    (("nodes", 1, "kind"), "hed", r"^nodes\[1\]\.kind .*: 'hed' is not one of \['embed', 'subl"),
    (("nodes", 1, "kind"), "neuron", r"^nodes\[1\]\.id .*'L0H1' does not match.*A neuron's id is"),
    (("nodes", 1, "id"), "L00H1", r"^nodes\[1\]\.id \(node 'L00H1'\): 'L00H1' does not match"),
    (("nodes", 3, "layer"), "three", r"^nodes\[3\]\.layer .*'three' is not of type 'integer'. La"),
    (("nodes", 0, "layer"), 0, r"^nodes\[0\]\.layer .*: 0 should not be valid"),
    (("nodes", 1, "effect"), True, r"^nodes\[1\]\.effect .*: True is not of type 'number'"),
    (("nodes", 1, "effect"), 10**400, r"^nodes\[1\]\.effect .* is too large, not a finite number"),
    (("nodes", 1, "colour"), "red", r"^nodes\[1\] .*\('colour' was unexpected\)"),
    (("nodes", 1), "L0H1", r"^nodes\[1\]: 'L0H1' is not of type 'object'"),
    (("edges", 1, "kind"), "path", r"^edges\[1\] \(edge L0H1 -> L0.attn\): 'via' is a required"),
    (("edges", 1, "via"), "q", r"^edges\[1\]\.via .*: 'q' should not be valid"),
    (("scores", "share"), "high", "^scores.share: 'high' is not of type 'number'"),
    (("graph", "emotion"), "x\n" * 100, "^graph.emotion: .{0,100}does not match.{0,150}$"),
    (("provenance", "seed"), 0, "^provenance: .*'seed' was unexpected"),
    (("format",), "emotion-circuit/3", "^format is 'emotion-circuit/3', not 'emotion-circuit/2'"),
    (("format",), LACKS, "^format is 'None', not 'emotion-circuit/2': this is no saved circuit"),
    (("graph", "scores", "direct_share"), 0.75, "^scores and graph.scores say different things"),
    (("graph", "model", "name"), "other", "^provenance.model and graph.model say different"),
    (("multigraph",), True, "^multigraph must be false"),
]


@pytest.mark.parametrize(("path", "value", "said"), BROKEN, ids=[said for *_, said in BROKEN])
def test_what_is_wrong_is_refused_with_its_place(circuit, path, value, said):
    broken = copy.deepcopy(circuit_to_json(circuit))
    *steps, last = path
    own = broken
    for step in steps:
        own = own[step]
    if value is LACKS:
        del own[last]
    else:
        own[last] = value
    with pytest.raises(DataError, match=said):
        circuit_from_json(broken)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(multigraph=False), "multigraph must be true"),
        (lambda v: v["edges"][0].pop("key"), r"edges\[0\].key is None, not 'residual'"),
        (lambda v: v["edges"][5].update(key="k"), r"edges\[5\].key is 'k', not 'q'"),
    ],
)
def test_keys_that_do_not_fit_are_refused(pathed, change, said):
    values = circuit_to_json(pathed)
    change(values)
    with pytest.raises(DataError, match=said):
        circuit_from_json(values)


INVALID = [
    (lambda v: v["nodes"].insert(3, v["nodes"][1]), "node 'L0H1' occurs twice; correct it"),
    (
        lambda v: v["nodes"][3].update(layer=0),
        "node 'L1N7' is a neuron of layer 1, but is described as a neuron of layer 0",
    ),
    (
        lambda v: v["nodes"][1].update(id="L0H2"),
        "node 'L0H2' lies outside the model, which has 2 heads",
    ),
    (lambda v: v["edges"][2].update(target="L1.attn"), "the circuit has no node 'L1.attn'"),
    (
        lambda v: v["edges"][3].update(source="L1.mlp", target="L0.attn"),
        "L1.mlp -> L0.attn goes against the residual stream",
    ),
    (lambda v: v["nodes"][1].update(id="L0H1\n"), "no component"),
]


@pytest.mark.parametrize(("change", "said"), INVALID, ids=[said for _, said in INVALID])
def test_an_invalid_circuit_is_refused_with_its_file_and_node_or_edge(
    circuit, change, said, tmp_path
):
    values, path = circuit_to_json(circuit), tmp_path / "anger.json"
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CircuitError, match=f"anger.json: .*{said}"):
        read_circuit(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format":', "line 1: not JSON"),
        ("[]", "format is 'None'"),
        ('"x"', "format is 'None'"),
        ('{"format": "emotion-circuit/2", "nodes": [{"effect": 1e999}]}', "is inf"),
        ('{"format": "emotion-circuit/2", "nodes": [{"effect": NaN}]}', "is nan"),
    ],
)
def test_a_file_that_holds_no_circuit_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(DataError, match=r"cannot read .*none.json"):
        read_circuit(tmp_path / "none.json")
    (tmp_path / "half.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=f"half.json.*{said}"):
        read_circuit(tmp_path / "half.json")
