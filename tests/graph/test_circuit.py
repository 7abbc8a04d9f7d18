import json

import networkx as nx
import pytest

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.errors import CircuitError
from circuits.provenance import Provenance

EMBED, READOUT = Node("embed", "embed"), Node("readout", "readout")
HEAD, NEURON = Node("L0H1", "head", 0), Node("L1N7", "neuron", 1)
ATTN, MLP = Node("L0.attn", "sublayer", 0), Node("L1.mlp", "sublayer", 1)
ALL = (EMBED, HEAD, ATTN, NEURON, MLP, READOUT)
SMALL = Provenance({"n_layers": 2, "n_heads": 2, "d_mlp": 8})


def of(*nodes, edges=(), provenance=SMALL):
    return Circuit("anger", nodes, tuple(edges), {}, provenance)


ID = "names no component; write L3H5 for a head"
AS = "but is described as a"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        *((Node(id, "head", 0), ID) for id in ("head", "L0", "L0H", "0H1", "L-1H0", "")),
        (Node("L0H1", "neuron", 0), f"is a head of layer 0, {AS} neuron of layer 0"),
        (Node("L0H1", "head", 1), f"is a head of layer 0, {AS} head of layer 1"),
        (Node("L0H1", "head"), f"is a head of layer 0, {AS} head of layer None"),
        (Node("embed", "embed", 0), f"is a embed of layer None, {AS} embed"),
        (Node("readout", "embed"), f"is a readout of layer None, {AS} embed"),
        (Node("L2.mlp", "sublayer", 2), "'L2.mlp' lies outside the model, which has 2 layers"),
        (Node("L0H2", "head", 0), "'L0H2' lies outside the model, which has 2 heads"),
        (Node("L1N8", "neuron", 1), "'L1N8' lies outside the model, which has 8 neurons"),
    ],
)
def test_a_node_is_a_component_of_the_model_and_says_so(node, message):
    with pytest.raises(CircuitError, match=message):
        of(node)
    if "outside" in message:
        assert of(node, provenance=Provenance()).nodes == (node,)


AGAINST = "goes against the residual stream"


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (Edge("L0H0", "L0.attn", "part"), "the circuit has no node 'L0H0'"),
        (Edge("L0H1", "L9H9", "part"), "the circuit has no node 'L9H9'"),
        (Edge("L1.mlp", "L0.attn", "residual"), f"^edge L1.mlp -> L0.attn {AGAINST}"),
        (Edge("L0.attn", "L0H1", "residual"), AGAINST),
        (Edge("readout", "L1.mlp", "residual"), AGAINST),
        (Edge("L0.attn", "embed", "residual"), AGAINST),
        (Edge("L0H1", "L0H1", "residual"), AGAINST),
        (Edge("embed", "L0.attn", "residual", 0.5), "residual and has the weight 0.5; such an"),
        (Edge("embed", "L0H1", "path"), "is a path into None"),
        (Edge("embed", "L0H1", "path", via="mlp"), "is a path into 'mlp'"),
        (Edge("embed", "L0.attn", "path", via="mlp"), "is a path into 'mlp'"),
        (Edge("embed", "readout", "path", via="q"), "is a path into 'q'"),
        (Edge("L0.attn", "readout", "path", via="readout"), "from a whole attention"),
        (Edge("embed", "L0H1", "direct", via="q"), "only a path has via"),
        (Edge("embed", "L0H1", "direct", 1.0, causal=True), "only a path has via"),
        (Edge("L1N7", "L1.mlp", "path", via="mlp"), r"L1N7 -> L1\.mlp is a path inside one"),
    ],
)
def test_an_edge_joins_nodes_along_the_stream_and_says_what_its_kind_can(edge, message):
    with pytest.raises(CircuitError, match=message):
        of(*ALL, edges=[edge])


def test_heads_of_one_layer_do_not_follow_each_other_and_nodes_and_edges_occur_once():
    other = Node("L0H0", "head", 0)
    with pytest.raises(CircuitError, match=AGAINST):
        of(HEAD, other, edges=[Edge("L0H0", "L0H1", "direct")])
    with pytest.raises(CircuitError, match="^node 'L0H1' occurs twice$"):
        of(HEAD, ATTN, HEAD)
    edges = [Edge("L0H1", "L0.attn", "part", 1.0), Edge("L0H1", "L0.attn", "direct", 2.0)]
    with pytest.raises(CircuitError, match="^edge L0H1 -> L0.attn occurs twice$"):
        of(*ALL, edges=edges)


def test_a_circuit_is_looked_up_by_id_and_kind():
    circuit = of(*ALL)
    assert circuit.node("L1N7") is NEURON
    assert circuit.of_kind("sublayer") == (ATTN, MLP)
    with pytest.raises(CircuitError, match="^the circuit of 'anger' has no node 'L9H9'$"):
        circuit.node("L9H9")


def test_heads_and_neurons_are_layer_and_index():
    circuit = of(NEURON, HEAD, ATTN, Node("L1H0", "head", 1))
    assert circuit.heads == ((0, 1), (1, 0))
    assert circuit.neurons == ((1, 7),)


def test_networkx_gets_a_directed_acyclic_graph_with_what_was_measured():
    head = Node("L0H1", "head", 0, effect=0.5)
    edges = [
        Edge("embed", "L0.attn", "residual"),
        Edge("L0H1", "L0.attn", "part", 0.5),
        Edge("L0.attn", "L1.mlp", "residual"),
        Edge("L1.mlp", "readout", "direct"),
        Edge("L0H1", "readout", "direct", 0.25),
    ]
    circuit = of(EMBED, head, ATTN, MLP, READOUT, edges=edges).with_scores(share=0.5)
    graph = circuit.to_networkx()
    assert nx.is_directed_acyclic_graph(graph)
    assert graph.nodes["L0H1"] == {"kind": "head", "layer": 0, "effect": 0.5}
    assert graph.nodes["embed"] == {"kind": "embed"}
    assert graph.edges["embed", "L0.attn"] == {"kind": "residual"}
    assert graph.edges["L0H1", "readout"] == {"kind": "direct", "weight": 0.25}
    assert graph.graph == {
        "format": "emotion-circuit/2",
        "emotion": "anger",
        "score_share": 0.5,
        "provenance": json.dumps(circuit.provenance.to_json()),
        "edge_order": "[0,1,4,2,3]",
    }


def test_scores_are_added_to_a_new_circuit():
    circuit = of(*ALL)
    scored = circuit.with_scores(a=1.0).with_scores(b=2.0)
    assert scored.scores == {"a": 1.0, "b": 2.0}
    assert circuit.scores == {}


def test_the_score_of_a_sublayer_is_its_importance():
    assert Node("L0.attn", "sublayer", 0, effect=1.0, importance=2.0).score == 2.0
    assert Node("L0H1", "head", 0, effect=1.0, importance=2.0).score == 1.0
    assert HEAD.score is None


def test_an_interval_is_the_score_within_two_standard_errors():
    node = Node("L0H1", "head", 0, effect=1.0, stderr=0.5)
    assert node.interval == pytest.approx((1 - 0.98, 1 + 0.98))
    assert Node("L0H1", "head", 0, effect=1.0).interval is None
    assert Node("L0H1", "head", 0, stderr=1.0).interval is None


@pytest.mark.parametrize(
    ("effect", "stderr", "baseline", "beats"),
    [
        (1.0, 0.1, 0.5, True),
        (-1.0, 0.1, 0.5, True),
        (1.0, 0.1, 0.9, False),
        (0.1, 10.0, 0.5, False),
        (0.0, 1.0, 0.0, False),
        (1.0, 0.0, 1.0, False),
        (1.0, None, 0.5, None),
        (1.0, 0.1, None, None),
        (None, 0.1, 0.5, None),
    ],
)
def test_a_score_beats_its_control_with_its_whole_interval(effect, stderr, baseline, beats):
    node = Node("L0H1", "head", 0, effect=effect, stderr=stderr, random_baseline=baseline)
    assert node.above_baseline is beats


def test_two_nodes_may_have_a_path_by_every_input():
    edges = [Edge("embed", "L0H1", "path", 1.0, via) for via in ("q", "k", "v")]
    circuit = of(*ALL, edges=edges)
    assert circuit.paths == tuple(edges)
    assert list(circuit.to_networkx().edges) == [("embed", "L0H1", via) for via in "qkv"]
    with pytest.raises(CircuitError, match=r"edge embed -> L0H1\.k occurs twice"):
        of(*ALL, edges=[*edges, edges[1]])
