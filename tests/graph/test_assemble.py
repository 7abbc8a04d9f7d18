"""Assembly: which components enter a circuit, and how they hang together."""

import networkx as nx
import pytest
import torch

from circuits.circuit.find import Budget, assemble, select, select_by_layer
from circuits.errors import AxisError

BUDGET = Budget(heads=0.5, neurons=0.1)


@pytest.fixture(scope="module")
def circuit(measured):
    return assemble(measured, "fear", budget=BUDGET)


def test_a_circuit_has_as_many_parts_as_its_budget_allows(circuit):
    assert len(circuit.heads) == 6
    assert len(circuit.neurons) == 14
    assert circuit.scores["heads_fraction"] == 0.5


def test_only_components_that_push_towards_the_emotion_are_taken(circuit):
    for kind in ("head", "neuron"):
        assert all(node.total > 0 for node in circuit.of_kind(kind))


def test_the_components_with_the_largest_estimated_total_effect_are_taken(circuit, measured):
    e = measured.totals.index("emotion", "fear")
    weakest = min(node.total for node in circuit.of_kind("head"))
    left_out = measured.totals.head_effect[e].clone()
    for layer, head in circuit.heads:
        left_out[layer, head] = -1
    assert left_out.max() <= weakest


def test_by_layer_the_strongest_of_each_are_taken(measured):
    circuit = assemble(measured, "fear", budget=BUDGET, rank_by="centred")
    effects = measured.neurons.centred[measured.neurons.index("emotion", "fear")]
    assert len(circuit.neurons) == 14
    for layer in measured.neurons.layer:
        taken = [index for place, index in circuit.neurons if place == layer]
        strongest = effects[layer].topk(len(taken)).indices.tolist()
        assert sorted(taken) == sorted(strongest)


def test_heads_go_to_the_layers_that_matter():
    chosen = select_by_layer(torch.ones(3, 4), torch.tensor([0.0, 3.0, 1.0]), 4)
    assert [layer for layer, _ in chosen] == [1, 1, 1, 2]


def test_room_that_important_layers_cannot_fill_goes_to_others():
    effects = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert select_by_layer(effects, torch.tensor([0.0, 1.0]), 3) == [(0, 0), (0, 1), (1, 0)]


def test_over_all_layers_only_positive_effects_are_taken():
    effects = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert select(effects, 4) == [(0, 0), (1, 0)]
    assert select(effects, 1) == [(1, 0)]


def test_a_circuit_is_an_acyclic_graph_from_the_embedding_to_the_readout(circuit, llama):
    graph = circuit.to_networkx()
    assert nx.is_directed_acyclic_graph(graph)
    assert all(nx.has_path(graph, node, "readout") for node in graph)
    sublayers = [n for n, kind in graph.nodes(data="kind") if kind == "sublayer"]
    assert len(sublayers) == 2 * llama.cfg.n_layers
    assert all(nx.has_path(graph, "embed", node) for node in sublayers)


def test_direct_edges_of_the_sublayers_add_up_to_the_readouts_difference(circuit):
    sites = {node.id for node in circuit.of_kind("sublayer")}
    direct = [e.weight for e in circuit.edges if e.kind == "direct" and e.source in sites]
    assert sum(direct) == pytest.approx(circuit.scores["readout_difference"], abs=1e-5)


def test_effects_in_a_circuit_are_those_that_were_measured(circuit, measured):
    layer, head = circuit.heads[0]
    node = circuit.node(f"L{layer}H{head}")
    assert node.effect == pytest.approx(
        measured.heads.at("centred", emotion="fear", layer=layer, head=head)
    )


def test_a_measurement_is_ranked_as_published_on_request(measured):
    circuit = assemble(measured, "anger", budget=BUDGET, rank_by="mean")
    layer, head = circuit.heads[0]
    assert circuit.node(f"L{layer}H{head}").effect == pytest.approx(
        measured.heads.at("mean", emotion="anger", layer=layer, head=head)
    )


def test_an_emotion_that_was_not_measured_is_refused(measured):
    with pytest.raises(AxisError, match="axis 'emotion' has no label 'awe'; it has anger"):
        assemble(measured, "awe")
