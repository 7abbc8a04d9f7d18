"""Attribution graphs: what the pages of Neuronpedia and circuit-tracer need, and what they lose."""

import copy
import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit
from circuits.errors import CircuitError, DataError
from circuits.export.neuronpedia import (
    check_neuronpedia,
    neuronpedia,
    neuronpedia_losses,
    page_name,
)

FEW = settings(max_examples=20, deadline=None)


@pytest.fixture
def graph(pathed):
    return json.loads(neuronpedia(pathed))


def by_id(graph):
    return {node["node_id"]: node for node in graph["nodes"]}


def test_heads_neurons_embedding_and_emotion_are_nodes_of_their_types(graph):
    found = {
        name: (n["feature_type"], n["feature"], n["layer"]) for name, n in by_id(graph).items()
    }
    assert found == {
        "E_0_0": ("embedding", None, "E"),
        "L0H1_0": ("attention head", 1, "0"),
        "L1H0_0": ("attention head", 0, "1"),
        "L1N7_0": ("mlp neuron", 7, "1"),
        "emotion_0": ("logit", None, "2"),
    }
    assert by_id(graph)["emotion_0"]["clerp"] == "anger (p=0.000)"
    assert graph["qParams"]["supernodes"] == [["L0.attn", "L0H1_0"], ["L1.mlp", "L1N7_0"]]
    # All of the readout's influence comes from L0H1; nothing through L1H0, which no path leaves.
    assert by_id(graph)["L0H1_0"]["influence"] == by_id(graph)["L1H0_0"]["influence"] == 1.0


def test_the_inputs_of_a_head_are_one_link_that_names_them(graph, circuit):
    links = {(link["source"], link["target"]): link for link in graph["links"]}
    assert links["L0H1_0", "L1H0_0"]["weight"] == 0.5 - 0.25
    assert links["L0H1_0", "L1H0_0"]["circuit"] == {"q": 0.5, "k": -0.25}
    assert set(links) == {("L0H1_0", "L1H0_0"), ("L0H1_0", "emotion_0")}
    # Without paths the links are the direct effects.
    (link,) = json.loads(neuronpedia(circuit))["links"]
    assert (link["source"], link["target"], link["weight"]) == ("L0H1_0", "emotion_0", 0.25)


def test_influence_is_the_share_that_a_node_and_all_stronger_ones_hold(circuit):
    direct = {"L0H1": 6.0, "L1N7": -2.0, "embed": 2.0}
    own = dataclasses.replace(
        circuit,
        edges=tuple(
            dataclasses.replace(circuit.edges[2], source=name, weight=weight)
            for name, weight in direct.items()
        ),
    )
    nodes = by_id(json.loads(neuronpedia(own)))
    shares = {name: nodes[name].get("influence") for name in ("L0H1_0", "E_0_0", "L1N7_0")}
    assert shares == pytest.approx({"L0H1_0": 0.6, "E_0_0": 0.8, "L1N7_0": 1.0})
    assert "influence" not in nodes["emotion_0"]


def shown_or_refused(circuit):
    try:
        return json.loads(neuronpedia(circuit))
    except CircuitError as error:
        if not re.search("no head or neuron above layer 0|sum of its numbers is too", str(error)):
            raise
        return None


@FEW
@given(st.from_type(Circuit))
def test_every_circuit_makes_a_graph_that_the_page_opens_or_is_refused(circuit):
    found = shown_or_refused(circuit)
    above = any(node.layer and node.kind in ("head", "neuron") for node in circuit.nodes)
    if found is None:
        return
    assert above or circuit.paths
    check_neuronpedia(found)
    ids = [node["node_id"] for node in found["nodes"]]
    assert len(set(ids)) == len(ids)
    assert all(0 <= node.get("influence", 0) <= 1 for node in found["nodes"])
    for name in ("slug", "scan"):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", found["metadata"][name])


def test_a_circuit_in_layer_0_alone_is_refused_since_the_page_throws(circuit):
    low = tuple(node for node in circuit.nodes if node.layer != 1)
    edges = tuple(edge for edge in circuit.edges if "L1" not in edge.source + edge.target)
    with pytest.raises(CircuitError, match="no head or neuron above layer 0"):
        neuronpedia(dataclasses.replace(circuit, nodes=low, edges=edges))


def test_losses_count_what_the_page_does_not_show(pathed):
    found = {loss.what: loss.size for loss in neuronpedia_losses(pathed)}
    assert found == {
        "sublayers": 2,
        "nodes.effect": 3,
        "nodes.stderr": 3,
        "nodes.random_baseline": 3,
        "nodes.importance": 2,
        "nodes.direct": 2,
        "edges.stderr": 2,
        "edges.random_baseline": 2,
        "edges.exact": 1,
        "edges.exact_stderr": 1,
        "edges.causal": 2,
        "edges.residual": 2,
        "edges.part": 2,
        "edges.direct": 1,
        "positions": 1,
    }


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda g: g["metadata"].pop("slug"), r"metadata: 'slug' is a required property"),
        (lambda g: g["metadata"].update(scan="a/b"), r"metadata\.scan: 'a/b' does not match"),
        (lambda g: g["nodes"][0].pop("jsNodeId"), r"nodes\[0\].*: 'jsNodeId' is a required"),
        (lambda g: g["nodes"][1].update(node_id="E_0_0"), r"nodes\[1\]\.node_id is 'E_0_0', as is"),
        (
            lambda g: g["nodes"][1].update(influence=1.5),
            r"nodes\[1\]\.influence.* greater than the maximum",
        ),
        (lambda g: g["nodes"][1].update(ctx_idx=1), r"ctx_idx is 1, but .* has 1 tokens"),
        (lambda g: g["nodes"][-1].update(clerp="anger"), r"needs a probability"),
        (lambda g: g["links"][0].update(target="x"), r"links\[0\]\.target is 'x'"),
        (lambda g: g["links"][0].update(weight=float("nan")), r"links\[0\]\.weight is nan"),
        (lambda g: g["qParams"]["supernodes"][0].append("x"), r"supernodes\[0\]\[2\] is 'x'"),
        (lambda g: [n.update(layer="0") for n in g["nodes"]], r"layer above 0"),
    ],
)
def test_what_the_page_would_throw_at_is_named_with_its_place(graph, break_it, said):
    check_neuronpedia(graph)
    broken = copy.deepcopy(graph)
    break_it(broken)
    with pytest.raises(DataError, match=said):
        check_neuronpedia(broken)


@given(st.lists(st.text(), unique=True, max_size=8))
def test_different_names_stay_different_and_are_taken_by_the_server(texts):
    names = [page_name(text, "model") for text in texts]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)
