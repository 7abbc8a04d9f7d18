"""The document says what the records say."""

import base64

import pytest
import torch

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.errors import CircuitError
from circuits.report import explorer_document, trimmed
from circuits.report.explorer import MOST, check_document


@pytest.fixture(scope="module")
def document(content):
    return explorer_document(content)


@pytest.fixture(scope="module")
def node(document):
    by_name = {node["id"]: node for node in document["nodes"]}
    return by_name.__getitem__


def test_nodes_are_those_of_all_circuits_in_the_order_of_the_stream(content, document):
    names = [node["id"] for node in document["nodes"]]
    assert set(names) == {n.id for c in content.circuits.values() for n in c.nodes}
    assert names[0] == "embed"
    assert names[-1] == "readout"
    layers = [node["layer"] for node in document["nodes"][1:-1]]
    assert layers == sorted(layers)
    assert names.index("L1H0") < names.index("L1.attn") < names.index("L1N0")


def test_a_row_is_value_interval_control_and_verdict_of_the_record(content, node):
    for e, row in enumerate(node("L2H1")["scores"]["effect"]):
        value, error = content.heads.centred[e, 2, 1], content.heads.centred_stderr[e, 2, 1]
        baseline = float(content.heads.random_baseline[e, 2])
        own = Node("L2H1", "head", 2, float(value), float(error), baseline)
        assert own.interval is not None
        assert row[:4] == pytest.approx([own.effect, *own.interval, baseline], rel=1e-3)
        assert row[4] == own.above_baseline


def test_a_rank_counts_the_parts_of_the_model_that_are_larger(content, node):
    for measure, values in (
        ("effect", content.neurons.centred),
        ("direct", content.direct.neuron_effect),
        ("total", content.totals.neuron_effect),
    ):
        rows = node("L3N4")["scores"][measure]
        larger = [int((own.abs() > own[3, 4].abs()).sum()) for own in values]
        assert [row[5] for row in rows] == [count + 1 for count in larger]


def test_sublayers_are_ranked_by_importance_among_sublayers(content, document, node):
    slope = content.importance.slope[1]
    row = node("L1.mlp")["scores"]["effect"][1]
    assert row[0] == pytest.approx(float(slope[1, 1]), rel=1e-3)
    assert row[5] == 1 + int((slope.abs() > slope[1, 1].abs()).sum())
    assert document["ranked"]["sublayer"]["effect"] == slope.numel()


def test_the_mean_effect_is_shown_where_circuits_were_made_from_it(make_content):
    found = explorer_document(make_content(effect="mean"))
    at = [node["id"] for node in found["nodes"]].index("L2H1")
    mean = make_content().heads.mean[0, 2, 1]
    assert found["nodes"][at]["scores"]["effect"][0][0] == pytest.approx(float(mean), rel=1e-3)


def test_without_records_a_node_shows_what_its_circuits_say(bare_content):
    content = bare_content()
    found = explorer_document(content)
    at = [node["id"] for node in found["nodes"]].index("L1H2")
    rows = found["nodes"][at]["scores"]["effect"]
    # Only fear's circuit has the third head.
    assert [row is None for row in rows] == [True, False, True]
    own = content.circuits["fear"].node("L1H2")
    assert rows[1][:2] == pytest.approx([own.effect, own.interval[0]], rel=1e-3)
    assert found["ranked"] == {}
    assert found["nodes"][at]["tokens"] is None


def test_lists_of_tokens_that_change_sides_are_kept_once(document, node):
    (up, down), second, third = node("L0N0")["tokens"]
    assert len(document["token_lists"]) == 2
    assert (second, third) == ([down, up], [up, down])
    words = [document["words"][word] for word, _ in document["token_lists"][up]]
    assert words[:2] == [" calm", " rage"]
    assert [size for _, size in document["token_lists"][up]] == [3, 2, 1]


def test_top_contexts_are_the_highest_and_the_lowest(content, node):
    effects = content.examples.sel(node="L1N2").effect[:, 1, 0]
    places = [place for place, _ in node("L1N2")["contexts"][1]]
    assert places == [*effects.argsort(descending=True)[:3].tolist(), int(effects.argmin())]


def test_a_pattern_is_the_lower_triangle_of_the_prompt_itself(content, document):
    row = document["patterns"][-1]
    prompt = document["prompts"][row["prompt"]]
    size, name = len(prompt["tokens"]), row["node"]
    weights = list(base64.b64decode(row["weights"]))
    at = content.patterns.context.index(document["contexts"][prompt["context"]]["id"])
    whole = content.patterns.sel(node=name).weight[at, prompt["emotion"], 0]
    whole = whole[-size:, -size:]
    assert weights == whole[torch.ones(size, size).tril().bool()].tolist()


def test_patterns_are_shown_for_the_emotions_whose_circuit_has_the_head(content, document):
    for row in document["patterns"]:
        emotion = content.patterns.emotion[document["prompts"][row["prompt"]]["emotion"]]
        assert row["node"] in {node.id for node in content.circuits[emotion].nodes}


def test_numbers_that_are_none_are_left_out_and_not_written_as_nan(make_content, samples):
    heads = samples.heads(4, 3, ("anger", "fear", "awe </script><i>"))
    heads.centred[0, 0, 0] = torch.nan
    heads.centred_stderr[1, 0, 0] = torch.nan
    found = explorer_document(make_content(heads=heads))
    at = [node["id"] for node in found["nodes"]].index("L0H0")
    first, second, _ = found["nodes"][at]["scores"]["effect"]
    assert first is None
    assert second[1:3] == [None, None]


def test_a_document_of_another_form_is_refused_with_its_place(document):
    with pytest.raises(CircuitError, match=r"^the explorer cannot show \$\.nodes\[1\]\.kind: "):
        check_document(
            {**document, "nodes": [document["nodes"][0], {**document["nodes"][1], "kind": "x"}]}
        )


def test_nothing_to_explore_is_refused(make_content):
    with pytest.raises(CircuitError, match="^there is no circuit to explore"):
        explorer_document(make_content(circuits={}))


def test_records_of_other_emotions_are_refused(make_content, samples):
    heads = samples.heads(4, 3, ("fear", "anger"))
    with pytest.raises(
        CircuitError, match="^heads are of fear, anger, the circuits of anger, fear"
    ):
        explorer_document(make_content(heads=heads))


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
    names = "embed L0H0 L0H1 L0H2 L0N0 L0N18 L0N19 L0.mlp readout"
    assert [node.id for node in found.nodes] == names.split()
    assert {edge.source for edge in found.edges} == {"L0N0", "L0N18", "L0N19"}


def test_a_circuit_that_fits_stays_as_it_is():
    whole = circuit(20)
    assert trimmed(whole, 23) is whole


def test_a_page_says_how_large_the_whole_circuit_is(bare_content):
    whole = bare_content(circuits={"anger": circuit(MOST + 50)}, scores={})
    (found,) = explorer_document(whole)["circuits"]
    assert (found["heads"], found["neurons"]) == (3, MOST + 50)
    assert len(found["nodes"]) == MOST + 3
