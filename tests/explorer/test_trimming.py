from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.report import explorer_document, trimmed
from circuits.report.explorer import MOST


def circuit(neurons: int) -> Circuit:
    """Three heads, and neurons whose effects grow with their number; the first ends a path."""
    nodes = [Node("embed", "embed"), *(Node(f"L0H{i}", "head", 0, effect=1e-6) for i in range(3))]
    nodes += [Node(f"L0N{i}", "neuron", 0, effect=float(i) * (-1) ** i) for i in range(neurons)]
    nodes += [Node("L0.mlp", "sublayer", 0), Node("readout", "readout")]
    edges = [Edge(node.id, "L0.mlp", "part", node.effect) for node in nodes if "N" in node.id]
    edges.append(Edge("L0N0", "readout", "path", 0.1, "readout"))
    return Circuit("anger", tuple(nodes), tuple(edges))


def test_heads_and_ends_of_paths_stay_and_then_the_largest_effects():
    found = trimmed(circuit(20), 6)
    assert [node.id for node in found.nodes] == [
        "embed",
        "L0H0",
        "L0H1",
        "L0H2",
        "L0N0",
        "L0N18",
        "L0N19",
        "L0.mlp",
        "readout",
    ]
    assert {edge.source for edge in found.edges} == {"L0N0", "L0N18", "L0N19"}


def test_a_circuit_that_fits_stays_as_it_is():
    whole = circuit(20)
    assert trimmed(whole, 23) is whole


def test_a_page_says_how_large_the_whole_circuit_is(make_content):
    nothing = dict.fromkeys(
        ("heads", "neurons", "importance", "direct", "totals", "lens", "examples", "patterns")
    )
    content = make_content(circuits={"anger": circuit(MOST + 50)}, scores={}, **nothing)
    (found,) = explorer_document(content)["circuits"]
    assert (found["heads"], found["neurons"]) == (3, MOST + 50)
    assert len(found["nodes"]) == MOST + 3
