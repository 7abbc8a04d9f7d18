"""Graph JSON of EAP-IG: its graph of a model, our circuits in it, and its circuits as ours."""

import dataclasses
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.errors import CircuitError, DataError
from circuits.export.eap_ig import (
    check_eap_ig,
    eap_ig,
    eap_ig_edges,
    eap_ig_losses,
    eap_ig_nodes,
    read_eap_ig,
)

FEW = settings(max_examples=20, deadline=None)
SCORES = st.floats(-1e6, 1e6)


def sized(circuit, **sizes):
    model = {**circuit.provenance.model, "d_model": 4, **sizes}
    return dataclasses.replace(
        circuit, provenance=dataclasses.replace(circuit.provenance, model=model)
    )


def graph_of(circuit, **sizes):
    return json.loads(eap_ig(sized(circuit, **sizes)))


def back(values, folder, emotion="anger"):
    path = folder / "g.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return read_eap_ig(path, emotion)


@st.composite
def graphs(draw):
    """Graph JSON as its own tool writes it: consistent, with what is outside at 0."""
    cfg = {
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": draw(st.integers(1, 2)),
        "parallel_attn_mlp": draw(st.booleans()),
        "d_model": 8,
    }
    # A type checker at run time looks at items drawn by chance, which hypothesis would mind.
    before = random.getstate()
    nodes, edges = {}, {}
    for name in eap_ig_nodes(cfg):
        nodes[name] = {"in_graph": name == "logits" or draw(st.booleans())}
        if name != "logits" and nodes[name]["in_graph"] and draw(st.booleans()):
            nodes[name]["score"] = draw(SCORES)
    for name in eap_ig_edges(cfg):
        ends = re.split("->|<", name)[:2]
        inside = all(nodes[end]["in_graph"] for end in ends) and draw(st.booleans())
        edges[name] = {"score": draw(SCORES) if inside else 0.0, "in_graph": inside}
    random.setstate(before)
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


@settings(max_examples=30, deadline=None)
@given(values=graphs())
def test_a_graph_comes_back_as_it_was(tmp_path_factory, values):
    check_eap_ig(values)
    circuit, losses = back(values, tmp_path_factory.mktemp("graph"))
    assert losses == []
    assert json.loads(eap_ig(circuit)) == values


@FEW
@given(circuit=st.from_type(Circuit))
def test_every_circuit_makes_a_valid_graph_with_every_edge_of_its_model(circuit):
    try:
        values = graph_of(circuit)
    except CircuitError as error:
        if "a sum of its numbers is too large" not in str(error):
            raise
        return
    check_eap_ig(values)
    assert list(values["edges"]) == list(eap_ig_edges(values["cfg"]))
    inside = {name for name, node in values["nodes"].items() if node["in_graph"]}
    for name, edge in values["edges"].items():
        assert not edge["in_graph"] or set(re.split("->|<", name)[:2]) <= inside


def test_the_graph_of_gpt2_has_the_size_that_its_paper_gives():
    cfg = {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False}
    names = list(eap_ig_edges(cfg))
    assert len(names) == len(set(names)) == 32_491
    assert len(eap_ig_nodes(cfg)) == 158
    assert {"input->a0.h0<q>", "a0.h0->m0", "m10->a11.h3<v>", "m11->logits"} <= set(names)
    parallel = set(eap_ig_edges({**cfg, "parallel_attn_mlp": True}))
    assert ("a0.h0->m0" in parallel, "a0.h0->m1" in parallel) == (False, True)


def test_paths_are_edges_into_q_k_and_v_and_without_paths_direct_effects_are(circuit, pathed):
    with_paths, without = graph_of(pathed)["edges"], graph_of(circuit)["edges"]
    inside = {name: e["score"] for name, e in with_paths.items() if e["in_graph"]}
    assert inside == {"a0.h1->a1.h0<q>": 0.5, "a0.h1->a1.h0<k>": -0.25, "a0.h1->logits": 0.125}
    inside = {name: e["score"] for name, e in without.items() if e["in_graph"]}
    assert inside == {"a0.h1->logits": 0.25}


def test_neurons_become_part_of_their_mlp_unless_it_was_measured_as_a_whole(circuit):
    neurons = tuple(Node(f"L1N{i}", "neuron", 1, total=2.0 + i) for i in (0, 1))
    nodes = (circuit.nodes[0], circuit.nodes[1], *neurons, *circuit.nodes[4:])

    def of(*more):
        paths = [Edge(n.id, "readout", "path", 1.0, "readout") for n in neurons]
        return graph_of(dataclasses.replace(circuit, nodes=nodes, edges=(*paths, *more)))

    assert of()["edges"]["m1->logits"] == {"score": 2.0, "in_graph": True}
    assert of()["nodes"]["m1"] == {"in_graph": True, "score": 5.0}
    whole = of(Edge("L1.mlp", "readout", "path", 7.0, "readout"))
    assert whole["edges"]["m1->logits"]["score"] == 7.0


def test_an_mlp_that_only_stands_in_the_order_of_the_stream_is_outside(circuit):
    nodes = tuple(node for node in circuit.nodes if node.kind != "neuron")
    edges = tuple(edge for edge in circuit.edges if "N" not in edge.source)
    bare = graph_of(dataclasses.replace(circuit, nodes=nodes, edges=edges))["nodes"]
    assert not bare["m1"]["in_graph"]
    assert graph_of(circuit)["nodes"]["m1"]["in_graph"]
    assert not bare["m0"]["in_graph"]
    assert bare["a0.h1"]["in_graph"]


def test_losses_are_counted_in_both_directions(pathed, tmp_path):
    found = {loss.what: loss.size for loss in eap_ig_losses(sized(pathed, n_key_value_heads=1))}
    names = ("neurons", "attentions", "paths.groups", "edges.direct", "emotion")
    assert [found[name] for name in names] == [1] * 5
    values = graph_of(pathed)
    values["edges"]["input->m0"]["score"] = 3.0
    values["edges"]["input->m1"]["in_graph"] = True
    values["nodes"]["m1"]["in_graph"] = False
    values["nodes"]["m0"]["score"] = 1.0
    values["nodes"]["a0.h1"]["neurons"] = [True]
    _, losses = back(values, tmp_path)
    assert {loss.what: loss.size for loss in losses} == {
        "edges of outer nodes": 1,
        "edges": 1,
        "nodes": 1,
        "output dimensions": 1,
    }


def test_a_path_that_the_models_graph_lacks_is_refused(circuit):
    path = Edge("L1H0", "L1.mlp", "path", 1.0, "mlp")
    nodes = (*circuit.nodes[:3], Node("L1H0", "head", 1), *circuit.nodes[3:])
    inside = dataclasses.replace(circuit, nodes=nodes, edges=(path,))
    assert graph_of(inside)["edges"]["a1.h0->m1"]["in_graph"]
    with pytest.raises(CircuitError, match=r"a1\.h0->m1, which the graph of its model lacks"):
        graph_of(inside, parallel_attn_mlp=True)
    with pytest.raises(CircuitError, match="does not say d_model of its model"):
        eap_ig(circuit)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda g: g.update(extra=1), r"'extra' was unexpected"),
        (lambda g: g["cfg"].pop("d_model"), r"g\.json: cfg: 'd_model' is a required property"),
        (lambda g: g["nodes"].update(a0={"in_graph": True}), r"nodes: 'a0' does not match"),
        (lambda g: g["nodes"].update({"m7": {"in_graph": True}}), r"nodes\['m7'\] is not in the"),
        (
            lambda g: g["edges"]["input->m0"].pop("score"),
            r"edges\['input->m0'\]: 'score' is a required",
        ),
        (lambda g: g["edges"]["input->m0"].update(score=float("nan")), r"not a finite number"),
        (
            lambda g: g["edges"].update({"m1->m0": {"score": 1, "in_graph": False}}),
            r"edges\['m1->m0'\] is not in the graph",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place(pathed, tmp_path, break_it, said):
    values = graph_of(pathed)
    break_it(values)
    with pytest.raises(DataError, match=said):
        back(values, tmp_path)
