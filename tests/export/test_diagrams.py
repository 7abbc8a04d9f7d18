import dataclasses
import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.circuit import Circuit, Node
from circuits.export import dot, mermaid

FEW = settings(max_examples=20, deadline=None)

needs_graphviz = pytest.mark.skipif(
    shutil.which("dot") is None, reason="Graphviz's program `dot` is not installed"
)
AWKWARD = [
    'say "no"',
    "back\\slash",
    "ends with \\",
    "\\N \\n \\L",
    "a &amp; b",
    "<b>怒り</b>",
    "a;b]",
]
TOWARDS, AWAY, NEITHER = "#D55E00", "#0072B2", "#888888"


def graphviz(form, text):
    done = subprocess.run(
        ["dot", f"-T{form}"], input=text.encode(), capture_output=True, check=True
    )
    return done.stdout.decode()


@needs_graphviz
@FEW
@given(st.from_type(Circuit))
def test_graphviz_reads_the_same_nodes_and_edges(circuit):
    graph = json.loads(graphviz("json0", dot(circuit)))
    nodes = {item["_gvid"]: item for item in graph["objects"] if "nodes" not in item}
    assert {item["name"] for item in nodes.values()} == {node.id for node in circuit.nodes}
    ends = {(nodes[e["tail"]]["name"], nodes[e["head"]]["name"]) for e in graph.get("edges", [])}
    assert ends == {(edge.source, edge.target) for edge in circuit.edges}


@needs_graphviz
@pytest.mark.parametrize("emotion", AWKWARD)
def test_graphviz_draws_an_awkward_emotion_as_it_is_written(circuit, emotion):
    drawing = graphviz("svg", dot(dataclasses.replace(circuit, emotion=emotion)))
    texts = {text.text for text in ElementTree.fromstring(drawing).iter() if text.text}
    # Graphviz draws spaces as spaces that do not break.
    plain = {text.replace("\N{NO-BREAK SPACE}", " ") for text in texts}
    assert {f"{emotion} in tiny", f"readout of {emotion}"} <= plain


def attributes(text, node):
    found = re.search(rf'^ *"{re.escape(node)}" \[(.*)\];$', text, re.MULTILINE)
    assert found is not None
    return dict(pair.split("=", 1) for pair in found[1].split(", "))


def test_shape_says_the_kind_and_colour_the_sign_in_dot(circuit):
    text = dot(circuit)
    head, sublayer, neuron = (attributes(text, name) for name in ("L0H1", "L0.attn", "L1N7"))
    assert (head["shape"], head["color"]) == ("ellipse", f'"{TOWARDS}"')
    assert (sublayer["shape"], sublayer["color"]) == ("box", f'"{AWAY}"')
    assert (neuron["shape"], neuron["color"]) == ("hexagon", f'"{AWAY}"')
    assert attributes(text, "embed")["color"] == f'"{NEITHER}"'
    assert head["label"] == '"L0H1\\n+0.5"'
    # A score that does not exceed its baseline is dashed.
    assert (head["style"], neuron["style"]) == ("solid", "dashed")
    assert "style L1N7 stroke:#0072B2,stroke-width:2.00px,stroke-dasharray:4" in mermaid(circuit)
    assert "style L0H1 stroke:#D55E00,stroke-width:5.00px\n" in mermaid(circuit)


def test_width_says_the_size_relative_to_the_same_quantity(circuit):
    text = dot(circuit)
    widths = {node.id: float(attributes(text, node.id)["penwidth"]) for node in circuit.nodes}
    assert widths == {"embed": 1, "L0H1": 5, "L0.attn": 5, "L1N7": 2, "L1.mlp": 3, "readout": 1}
    # Edges are compared within their kind.
    edges = (dataclasses.replace(circuit.edges[4], weight=-100.0), *circuit.edges[1:3])
    drawn = dot(dataclasses.replace(circuit, edges=edges))
    found = re.findall(r"-> .*color=\"(.*)\", penwidth=(.*)\]", drawn)
    assert found == [(AWAY, "5.00"), (TOWARDS, "1.02"), (TOWARDS, "5.00")]


@pytest.mark.parametrize("draw", [dot, mermaid])
def test_the_largest_and_the_smallest_numbers_can_be_drawn(draw):
    sizes = (1.7e308, -5e-324, 0.0)
    nodes = tuple(Node(f"L0H{i}", "head", 0, effect=size) for i, size in enumerate(sizes))
    text = draw(Circuit("anger", nodes, ()))
    assert "inf" not in text
    assert "nan" not in text
    assert "anger" in draw(Circuit("anger", (), ()))


def test_mermaid_has_a_quoted_title_a_subgraph_per_layer_and_plain_ids(circuit):
    awkward = dataclasses.replace(circuit, emotion='a "b": \\ #c')
    title = mermaid(awkward).splitlines()[1].removeprefix("title: ")
    assert json.loads(title) == 'a "b": \\ #c in tiny'
    lines = [line.strip() for line in mermaid(circuit).splitlines()]
    assert lines[:4] == ["---", 'title: "anger in tiny"', "---", "flowchart BT"]
    assert 'subgraph layer_0["layer 0"]' in lines
    assert 'L0_attn["L0.attn<br/>-2"]' in lines
    assert 'L1N7{{"L1N7<br/>-0.125"}}' in lines
    assert "embed -.-> L0_attn" in lines
    assert "L0H1 --> L0_attn" in lines
    assert "L0H1 ==> readout" in lines


@FEW
@given(st.from_type(Circuit))
def test_mermaid_declares_every_node_and_edge_once(circuit):
    lines = [line.strip() for line in mermaid(circuit).split("\n")]
    body = lines[lines.index("flowchart BT") + 1 :]
    declared = [found[1] for line in body if (found := re.match(r"(\w+)[\[({].*\"", line))]
    assert sorted(declared) == sorted(node.id.replace(".", "_") for node in circuit.nodes)
    drawn = [line for line in body if re.fullmatch(r"\w+ (-\.->|-->|==>)(\|\w+\??\|)? \w+", line)]
    assert len(drawn) == len(circuit.edges)
    assert sum(line.startswith("linkStyle ") for line in body) == len(circuit.edges)
    assert sum(line.startswith("subgraph ") for line in body) == body.count("end")


@FEW
@given(st.from_type(Circuit))
def test_mermaid_labels_hold_nothing_that_mermaid_would_read(circuit):
    for label in re.findall(r'"(.*)"', mermaid(circuit).split("flowchart BT")[1]):
        plain = re.sub(r"<br/>|#\d+;", "", label)
        assert not re.search(r"[\"#;<>&`{}\[\]()|%:\\]", plain)


def test_a_path_bears_its_input_and_says_where_it_is_not_shown(pathed):
    assert '"L0H1" -> "L1H0" [style=solid' in dot(pathed)
    assert 'label="q"];' in dot(pathed)
    assert 'label="k?", arrowhead="empty"];' in dot(pathed)
    assert "L0H1 -->|q| L1H0" in mermaid(pathed)
    assert "L0H1 -->|k?| L1H0" in mermaid(pathed)
