import dataclasses
from itertools import product

import pytest
import torch

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.circuit.find import connect, strongest_paths
from circuits.errors import CircuitError
from circuits.patching.paths import ExactPaths, PathEffects, edge_name, sees
from circuits.provenance import Provenance

SENDERS = ("embed", *(f"L{i}{part}" for i in (0, 1) for part in ("H0", "H1", "H2", "H3", ".mlp")),
           "L1N7")  # fmt: skip
RECEIVERS = (
    *(name for i in (0, 1)
      for name in (*(f"L{i}H{h}.q" for h in range(4)), *(f"L{i}G{g}.{via}" for via in "kv"
                   for g in (0, 1)), f"L{i}.mlp")),
    "L1N7", "readout",
)  # fmt: skip


@pytest.fixture
def circuit():
    """One head of layer 0, two of a group of layer 1, a neuron, and what every circuit has."""
    nodes = (
        Node("embed", "embed"),
        Node("L0H1", "head", 0),
        Node("L0.attn", "sublayer", 0),
        Node("L0.mlp", "sublayer", 0),
        Node("L1H2", "head", 1),
        Node("L1H3", "head", 1),
        Node("L1.attn", "sublayer", 1),
        Node("L1N7", "neuron", 1),
        Node("L1.mlp", "sublayer", 1),
        Node("readout", "readout"),
    )
    edges = (Edge("L0H1", "L0.attn", "part", 1.0), Edge("L0H1", "readout", "direct", 2.0))
    return Circuit("anger", nodes, edges)


@pytest.fixture
def effects():
    exists = torch.tensor([[sees(r, s) for r in RECEIVERS] for s in SENDERS])
    size = (len(SENDERS), len(RECEIVERS))
    mean = torch.randn(size, generator=torch.Generator().manual_seed(0)) * exists
    return PathEffects(
        provenance=Provenance(), mean=mean, stderr=torch.full(size, 0.1),
        random_baseline=torch.full(size, 0.2), exists=exists, node=mean.sum(1),
        by_role=torch.zeros(*size, 0), sender=SENDERS, receiver=RECEIVERS, role=(),
        emotion="anger", other=None, readout="projection", mode="noising", method="eap", steps=1,
        n_contexts=4, draws=16, gap=0.0, receipt={},
    )  # fmt: skip


def patched(paths, effect):
    return ExactPaths(
        provenance=Provenance(), effect=torch.tensor(effect), context=("a", "b"),
        edge=tuple(edge_name(*path) for path in paths), emotion="anger", other=None,
        readout="projection", mode="noising", receipt={},
    )  # fmt: skip


def test_every_path_between_the_nodes_of_a_circuit_is_found(circuit, effects):
    found = strongest_paths(circuit, effects, 1000)
    senders = ("embed", "L0H1", "L0.mlp", "L1H2", "L1H3", "L1N7", "L1.mlp")
    inputs = ("L0H1.q", "L0G0.k", "L0G0.v", "L0.mlp", "L1H2.q", "L1H3.q", "L1G1.k", "L1G1.v",
              "L1N7", "L1.mlp", "readout")  # fmt: skip
    assert set(found) == {(s, r) for s, r in product(senders, inputs) if sees(r, s)}
    sizes = [abs(effects.at("mean", sender=s, receiver=r)) for s, r in found]
    assert sizes == sorted(sizes, reverse=True)
    assert strongest_paths(circuit, effects, 5) == found[:5]


def test_the_strongest_paths_become_edges_beside_the_others(circuit, effects):
    connected = connect(circuit, effects, keep=7)
    assert connected.nodes == circuit.nodes
    assert connected.edges[:2] == circuit.edges
    chosen = strongest_paths(circuit, effects, 7)
    for edge in connected.paths:
        inputs = {"q": f"{edge.target}.q", "k": "L1G1.k", "v": "L1G1.v"}
        reader = inputs.get(str(edge.via), edge.target)
        if edge.target == "L0H1" and edge.via in ("k", "v"):
            reader = f"L0G0.{edge.via}"
        assert (edge.source, reader) in chosen
        assert edge.weight == effects.at("mean", sender=edge.source, receiver=reader)
    assert connect(connected, effects, keep=7) == connected


def test_a_path_into_a_group_enters_each_of_its_heads(circuit, effects):
    connected = connect(circuit, effects, keep=1000)
    keys = [e for e in connected.paths if e.via == "k" and e.source == "L0H1"]
    assert [e.target for e in keys] == ["L1H2", "L1H3"]
    assert keys[0].weight == keys[1].weight


def test_a_path_counts_as_causal_beyond_zero_and_beyond_the_control(circuit, effects):
    cases = {0.39: False, 0.40: True, -0.40: True, 0.15: False, 0.0: False}
    row, column = SENDERS.index("L0H1"), RECEIVERS.index("L1.mlp")
    for weight, causal in cases.items():
        mean = effects.mean.clone()
        mean[row, column] = weight
        connected = connect(circuit, dataclasses.replace(effects, mean=mean), keep=1000)
        edge = next(e for e in connected.paths if (e.source, e.target) == ("L0H1", "L1.mlp"))
        assert edge.causal is causal, weight
    none = dataclasses.replace(effects, stderr=effects.stderr * float("nan"))
    assert {e.causal for e in connect(circuit, none).paths} == {None}
    assert {e.stderr for e in connect(circuit, none).paths} == {None}


def test_the_patched_effect_decides_where_there_is_one(circuit, effects):
    path = ("embed", "L1.mlp")
    for values, causal in (([[1.0], [1.01]], True), ([[1.0], [-1.0]], False)):
        connected = connect(circuit, effects, patched([path], values), keep=1000)
        edge = next(e for e in connected.paths if (e.source, e.target) == path)
        assert edge.causal is causal
        assert edge.exact == pytest.approx(sum(v[0] for v in values) / 2)
        spread = abs(values[0][0] - values[1][0]) / 2
        assert edge.exact_stderr == pytest.approx(spread, abs=1e-6)
    assert sum(e.exact is not None for e in connected.paths) == 1


def test_paths_of_something_else_are_refused(circuit, effects):
    fear = dataclasses.replace(effects, emotion="fear")
    with pytest.raises(CircuitError, match="paths are those of 'fear', the circuit is that of"):
        connect(circuit, fear)
    other = dataclasses.replace(patched([("embed", "readout")], [[1.0], [1.0]]), mode="denoising")
    with pytest.raises(CircuitError, match="are of other runs: noising against neutral"):
        connect(circuit, effects, other)
