import copy
import json
from typing import get_args

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import EDGE_KINDS, FORMAT, NODE_KINDS, Circuit, Edge, Node, Via
from circuits.errors import DataError
from circuits.export import circuit_from_json, circuit_to_json, read_circuit
from circuits.files import shipped
from circuits.provenance import Provenance

FEW = settings(max_examples=20, deadline=None)


@pytest.fixture(scope="module")
def schema():
    return json.loads(shipped("circuit.schema.json").read_text(encoding="utf-8"))


@pytest.fixture
def values(circuit):
    return circuit_to_json(circuit)


def test_the_shipped_schema_is_a_schema(schema):
    jsonschema.Draft202012Validator.check_schema(schema)


def test_the_schema_knows_the_kinds_and_fields_of_the_circuit(schema):
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


@FEW
@given(circuit=st.from_type(Circuit))
def test_the_schema_accepts_what_is_written(schema, circuit):
    jsonschema.Draft202012Validator(schema).validate(circuit_to_json(circuit))


def change(path, value):
    def apply(values):
        *steps, last = path
        for step in steps:
            values = values[step]
        values[last] = value

    return apply


def remove(*path):
    def apply(values):
        *steps, last = path
        for step in steps:
            values = values[step]
        del values[last]

    return apply


MUTATIONS = [
    (remove("nodes", 1, "kind"), r"^nodes\[1\] \(node 'L0H1'\) lacks 'kind'; add it"),
    (remove("nodes", 3, "layer"), r"^nodes\[3\] \(node 'L1N7'\) lacks 'layer'; add it"),
    (remove("edges", 0, "source"), r"^edges\[0\] \(edge null -> 'L0.attn'\) lacks 'source'"),
    (remove("provenance"), r"^the circuit lacks 'provenance'; add it"),
    (remove("directed"), r"^the circuit lacks 'directed'; add it"),
    (change(["directed"], False), r"^directed is false; write true\. Edges have a direction"),
    (
        change(["nodes", 1, "kind"], "hed"),
        r"^nodes\[1\]\.kind .* is 'hed'; write one of 'embed', 'sublayer', 'head'",
    ),
    (
        change(["nodes", 1, "kind"], "neuron"),
        r"^nodes\[1\]\.id .* is 'L0H1', which does not have the right form\. A neuron's id is L<",
    ),
    (change(["nodes", 0, "id"], "embedding"), r"^nodes\[0\]\.id .* 'embedding'"),
    (change(["nodes", 1, "id"], "L00H1"), r"^nodes\[1\]\.id \(node 'L00H1'\) is 'L00H1', which"),
    (change(["nodes", 2, "id"], "L0.mlb"), r"^nodes\[2\]\.id .* is 'L0.mlb', which"),
    (change(["nodes", 5, "id"], "embed"), r"^nodes\[5\]\.id .* is 'embed'; write \"readout\""),
    (
        change(["nodes", 3, "layer"], "three"),
        r"^nodes\[3\]\.layer \(node 'L1N7'\) is 'three'; write an integer\. Layer of the comp",
    ),
    (
        change(["nodes", 3, "layer"], -1),
        r"^nodes\[3\]\.layer .* is -1; write a number of at least 0",
    ),
    (change(["nodes", 3, "layer"], None), r"^nodes\[3\]\.layer .* is null; write an integer"),
    (change(["nodes", 0, "layer"], 0), r"^nodes\[0\]\.layer .* is 0 but must be absent; remove"),
    (change(["nodes", 1, "effect"], True), r"^nodes\[1\]\.effect .* is true; write a number"),
    (
        change(["nodes", 1, "effect"], float("nan")),
        r"^nodes\[1\]\.effect \(node 'L0H1'\) is nan, not a finite number",
    ),
    (change(["nodes", 1, "effect"], 10**400), r"^nodes\[1\]\.effect .* is too large a number"),
    (
        change(["nodes", 1, "colour"], "red"),
        r"^nodes\[1\] .* has 'colour', which the form lacks; remove it\. Fields are 'id', 'kind'",
    ),
    (change(["nodes", 1], "L0H1"), r"^nodes\[1\] is 'L0H1'; write an object"),
    (change(["nodes"], {}), r"^nodes is an object; write an array"),
    (change(["edges", 1, "kind"], "road"), r"^edges\[1\]\.kind \(edge 'L0H1' -> 'L0.attn'\) is"),
    (change(["edges", 1, "kind"], "path"), r"^edges\[1\] \(edge 'L0H1' -> 'L0.attn'\) lacks 'via'"),
    (change(["edges", 1, "via"], "q"), r"^edges\[1\]\.via .* is 'q' but must be absent"),
    (change(["edges", 0, "causal"], True), r"^edges\[0\]\.causal .* must be absent"),
    (change(["edges", 0, "weight"], 0.5), r"^edges\[0\]\.weight .* is 0.5 but must be absent"),
    (change(["edges", 1, "source"], "H1"), r"^edges\[1\]\.source .* is 'H1', which does not"),
    (change(["scores", "share"], "high"), r"^scores\.share is 'high'; write a number"),
    (change(["graph", "emotion"], "a\nb"), r"^graph\.emotion is 'a\\nb', which does not have"),
    (change(["graph", "emotion"], 5), r"^graph\.emotion is 5; write a string"),
    (change(["graph", "emotion"], []), r"^graph\.emotion is a list; write a string"),
    (change(["provenance", "parents", 0], 7), r"^provenance\.parents\[0\] is 7; write a string"),
    (change(["provenance", "model", "n_layers"], 0), r"^provenance\.model\.n_layers is 0; write a"),
    (change(["provenance", "seed"], 0), r"^provenance has 'seed', which the form lacks"),
    (change(["format"], "emotion-circuit/3"), r"^format 'emotion-circuit/3' is not the version"),
    (change(["format"], "record/1"), r"^format is 'record/1', not 'emotion-circuit/2'; this is"),
    (remove("format"), r"^'format' is missing; this is no saved circuit"),
]


@pytest.mark.parametrize(("mutate", "message"), MUTATIONS, ids=[m for _, m in MUTATIONS])
def test_a_mutation_is_refused_with_its_place_and_what_to_do(values, mutate, message):
    broken = copy.deepcopy(values)
    mutate(broken)
    with pytest.raises(DataError, match=message):
        circuit_from_json(broken)


@pytest.mark.parametrize(("found", "name"), [([], "a list"), (None, "null"), ("x", "'x'")])
def test_json_that_is_no_object_is_refused(found, name):
    with pytest.raises(DataError, match=f"^expected a circuit, found {name}; give a file in"):
        circuit_from_json(found)


def test_a_refusal_names_the_file(values, tmp_path):
    values["nodes"][3]["layer"] = "three"
    path = tmp_path / "anger.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"anger\.json: nodes\[3\]\.layer \(node 'L1N7'\) is 'three'"
    ):
        read_circuit(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_in_a_file_that_is_not_finite_is_refused(values, number, tmp_path):
    path = tmp_path / "anger.json"
    text = json.dumps(values).replace('"effect": 0.5', f'"effect": {number}')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"nodes\[1\]\.effect \(node 'L0H1'\) is -?(nan|inf)"):
        read_circuit(path)


def test_a_long_value_is_shortened_in_the_message(values):
    values["graph"]["emotion"] = "x\n" * 100
    with pytest.raises(DataError) as caught:
        circuit_from_json(values)
    assert len(str(caught.value)) < 250
