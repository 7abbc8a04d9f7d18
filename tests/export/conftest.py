"""Circuits to export: a small one to look at, and a strategy for all others."""

import dataclasses
import random

import pytest
from hypothesis import strategies as st

from circuits.circuit.circuit import VIAS, Circuit, Edge, Node
from circuits.names import head_name, neuron_name, sublayer_name
from circuits.provenance import Provenance

# One line of text: what an emotion's name may be made of.
LABELS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufffe\uffff"),
    min_size=1,
    max_size=12,
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SIZES = st.floats(min_value=0, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | NUMBERS | LABELS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LABELS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def provenances(draw):
    model = {
        "name": draw(LABELS),
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": draw(st.integers(1, 3)),
        "d_mlp": draw(st.integers(1, 12)),
    }
    parents = tuple(draw(st.lists(LABELS, max_size=2)))
    options = draw(st.dictionaries(LABELS, JSON, max_size=3))
    return Provenance(model, draw(LABELS), options, {"python": "3"}, parents)


@st.composite
def members(draw, layer, sublayer, model):
    kind, size, name = {
        "attn": ("head", model["n_heads"], head_name),
        "mlp": ("neuron", model["d_mlp"], neuron_name),
    }[sublayer]
    indices = draw(st.sets(st.integers(0, size - 1), max_size=3))
    return [
        Node(
            name(layer, index),
            kind,
            layer,
            effect=draw(st.none() | NUMBERS),
            stderr=draw(st.none() | SIZES),
            random_baseline=draw(st.none() | SIZES),
            direct=draw(st.none() | NUMBERS),
        )
        for index in sorted(indices)
    ]


def possible_paths(nodes):
    """Every (source, target, input) that a path of these nodes could be."""
    found = []
    for number, target in enumerate(nodes):
        for source in nodes[:number]:
            inside = source.layer == target.layer and source.layer is not None
            through = source.kind == "head" and target.id.endswith(".mlp")
            if "attn" in source.id + target.id or (inside and not through):
                continue
            found += [(source.id, target.id, via) for via in VIAS[target.kind]]
    return found


@st.composite
def paths(draw, nodes):
    chosen = draw(st.lists(st.sampled_from(possible_paths(nodes)), max_size=3, unique=True))
    return [
        Edge(
            source,
            target,
            "path",
            draw(st.none() | NUMBERS),
            via,
            draw(st.none() | SIZES),
            exact=draw(st.none() | NUMBERS),
            causal=draw(st.none() | st.booleans()),
        )
        for source, target, via in chosen
    ]


@st.composite
def circuits(draw):
    # A type checker at run time looks at items drawn by chance, which hypothesis would mind.
    before = random.getstate()
    provenance = draw(provenances())
    nodes, edges, previous = [Node("embed", "embed")], [], "embed"
    for layer in range(provenance.model["n_layers"]):
        for sublayer in ("attn", "mlp"):
            if not draw(st.booleans()):
                continue
            site = Node(
                sublayer_name(layer, sublayer),
                "sublayer",
                layer,
                stderr=draw(st.none() | SIZES),
                random_baseline=draw(st.none() | SIZES),
                importance=draw(st.none() | NUMBERS),
                direct=draw(st.none() | NUMBERS),
            )
            own = draw(members(layer, sublayer, provenance.model))
            nodes += [*own, site]
            edges.append(Edge(previous, site.id, "residual"))
            edges += [Edge(node.id, site.id, "part", node.effect) for node in own]
            edges += [Edge(node.id, "readout", "direct", node.direct) for node in [*own, site]]
            previous = site.id
    nodes.append(Node("readout", "readout"))
    edges += draw(paths(nodes))
    scores = draw(st.dictionaries(LABELS, NUMBERS, max_size=3))
    circuit = Circuit(draw(LABELS), tuple(nodes), tuple(edges), scores, provenance)
    random.setstate(before)
    return circuit


st.register_type_strategy(Circuit, circuits())


@pytest.fixture
def circuit():
    nodes = (
        Node("embed", "embed"),
        Node("L0H1", "head", 0, effect=0.5, stderr=0.1, random_baseline=0.2, direct=0.25),
        Node(
            "L0.attn", "sublayer", 0, stderr=0.5, random_baseline=1.0, importance=-2.0, direct=0.75
        ),
        Node("L1N7", "neuron", 1, effect=-0.125, stderr=0.25, random_baseline=0.2),
        Node("L1.mlp", "sublayer", 1, importance=1.0),
        Node("readout", "readout"),
    )
    edges = (
        Edge("embed", "L0.attn", "residual"),
        Edge("L0H1", "L0.attn", "part", 0.5),
        Edge("L0H1", "readout", "direct", 0.25),
        Edge("L0.attn", "L1.mlp", "residual"),
        Edge("L1N7", "L1.mlp", "part", -0.125),
    )
    model = {"name": "tiny", "revision": "abc", "n_layers": 2, "n_heads": 2, "d_mlp": 8}
    options = {"heads": 0.1, "rank_by": "centred"}
    provenance = Provenance(model, "sha256:00", options, {"python": "3.11"}, ("f00d",))
    return Circuit("anger", nodes, edges, {"direct_share": 0.5}, provenance)


@pytest.fixture
def pathed(circuit):
    """The same circuit with paths, two of them between the same nodes."""
    added = (
        Node("L1H0", "head", 1, effect=0.25),
        *(node for node in circuit.nodes if node.id in ("L1N7", "L1.mlp", "readout")),
    )
    first = tuple(node for node in circuit.nodes if node not in added)
    paths = (
        Edge("L0H1", "L1H0", "path", 0.5, "q", 0.1, 0.2, 0.4, 0.1, True),
        Edge("L0H1", "L1H0", "path", -0.25, "k", 0.2, 0.1, causal=False),
        Edge("L0H1", "readout", "path", 0.125, "readout"),
    )
    return dataclasses.replace(circuit, nodes=(*first, *added), edges=(*circuit.edges, *paths))
