"""A circuit of a thousand nodes stays fluid."""

import statistics

import pytest

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.report import explorer_document, explorer_page

LAYERS = 8
SLOWEST = 120  # milliseconds; a frame of a sixtieth of a second has 17

FRAMES = """(act) => new Promise((done) => {
    const times = [];
    let last = null;
    const frame = (now) => {
        if (last !== null) times.push(now - last);
        last = now;
        if (times.length >= 45) return done(times);
        acts[act](times.length);
        requestAnimationFrame(frame);
    };
    const acts = {
        still: () => null,
        shift: (n) => Camera.shift(n % 2 ? 7 : -5, 3),
        zoom: (n) => Camera.zoom(n % 2 ? 1.1 : 0.92),
        filter: (n) => State.set({ most: 200 + ((n * 37) % 800) }),
        edges: (n) => State.set({ edgeShare: ((n * 7) % 100) / 100 }),
        select: (n) => State.set({ selected: 20 + n }),
    };
    requestAnimationFrame(frame);
})"""


def large() -> Circuit:
    """Eight heads and 117 neurons per layer, a direct edge from each, and a thousand paths."""
    nodes, edges = [Node("embed", "embed")], []
    for layer in range(LAYERS):
        own = [f"L{layer}H{i}" for i in range(8)] + [f"L{layer}N{i}" for i in range(117)]
        for number, name in enumerate(own):
            effect = (-1 if number % 5 == 4 else 1) / (1 + number % 40)
            kind = "head" if "H" in name else "neuron"
            nodes.append(Node(name, kind, layer, effect=effect, stderr=0.01, direct=effect))
            edges.append(
                Edge(name, f"L{layer}.{'attn' if kind == 'head' else 'mlp'}", "part", effect)
            )
            edges.append(Edge(name, "readout", "direct", effect))
            if layer:
                edges.append(
                    Edge(
                        f"L{layer - 1}N{number}" if number < 117 else f"L0N{number - 117}",
                        name,
                        "path",
                        effect,
                        "q" if kind == "head" else "mlp",
                    )
                )
        nodes += [
            Node(f"L{layer}.attn", "sublayer", layer),
            Node(f"L{layer}.mlp", "sublayer", layer),
        ]
    nodes.append(Node("readout", "readout"))
    return Circuit("anger", tuple(nodes), tuple(edges))


@pytest.fixture(scope="module")
def opened(browser, make_content, tmp_path_factory):
    content = make_content(
        circuits={"anger": large()},
        scores={},
        **dict.fromkeys(
            ("heads", "neurons", "importance", "direct", "totals", "lens", "examples", "patterns")
        ),
    )
    path = tmp_path_factory.mktemp("large") / "explorer.html"
    path.write_text(explorer_page(explorer_document(content)), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    page.close()


def test_all_thousand_nodes_are_drawn(opened):
    assert opened.locator(".node").count() == 125 * LAYERS + 2 * LAYERS + 2
    assert opened.locator("#said").inner_text().startswith("anger: 1,000 of 1,000 parts")


@pytest.mark.parametrize("act", ["still", "shift", "zoom", "filter", "edges", "select"])
def test_most_frames_of_a_thousand_nodes_are_quick(opened, act):
    times = opened.evaluate(FRAMES, act)
    assert statistics.median(times) < SLOWEST
