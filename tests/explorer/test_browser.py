"""The page in a real browser: what a person does, and what it then shows."""

import json
import statistics
import struct
from xml.etree import ElementTree

import pytest

from circuits.circuit.circuit import Circuit, Edge, Node
from circuits.report import explorer_document, explorer_page

SVG = "{http://www.w3.org/2000/svg}"
SHOWN = ".pane:nth-of-type({}) .node:not([style*='none'])"


@pytest.fixture(scope="module")
def tab(browser):
    """A tab that remembers what its page said and asked for."""
    page = browser.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    page.close()


@pytest.fixture
def opened(tab, page_file):
    """The page, loaded anew."""
    tab.said.clear()
    tab.asked.clear()
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.emulate_media(color_scheme="light")
    tab.goto(page_file.as_uri())
    tab.wait_for_selector("html[data-ready]")
    return tab


def shown(page, pane=1):
    """Names of the nodes that are drawn in a pane."""
    labels = page.eval_on_selector_all(
        SHOWN.format(pane), "own => own.map((node) => node.getAttribute('aria-label'))"
    )
    return {label.split(",")[0] for label in labels}


def parts(page, pane=1):
    return {name for name in shown(page, pane) if "H" in name or "N" in name}


def node(page, name, pane=1):
    return page.locator(f".pane:nth-of-type({pane}) .node[aria-label^='{name},']")


def slide(page, name, value):
    page.locator(f"#{name}").fill(str(value))
    settled(page)


def settled(page):
    """What was changed is drawn with the next frame."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def heading(page):
    return page.locator("#panel h2").inner_text()


def test_it_loads_in_silence_and_asks_for_nothing(opened, page_file):
    opened.wait_for_timeout(200)
    assert opened.said == []
    assert opened.asked == [page_file.as_uri()]
    assert opened.title() == "Emotion circuits of tiny <b>"


def test_the_first_sight_is_a_whole_circuit_and_its_scores(opened, content):
    assert shown(opened) == {node.id for node in content.circuits["anger"].nodes}
    assert heading(opened) == "anger"
    assert opened.locator("#panel").get_by_text("faithfulness").count() == 1
    assert opened.locator("#said").inner_text().startswith("anger: 28 of 28 parts, ")
    assert opened.locator("#panel").get_by_text("A note.").count() == 1


def test_a_click_on_a_node_shows_what_was_measured_of_it(opened, content):
    node(opened, "L2H1").click()
    panel = opened.locator("#panel")
    panel.get_by_role("heading", name="L2H1").wait_for()
    assert panel.locator("h3").all_inner_texts() == [
        "Effects",
        "Edges",
        "Attention pattern",
        "Tokens",
        "Top contexts",
        "Place in the tables",
    ]
    rows = panel.locator("table").first.locator("tbody tr")
    assert rows.count() == len(content.circuits)
    value = float(rows.nth(0).locator("td").nth(1).inner_text().replace("−", "-"))
    assert value == pytest.approx(float(content.heads.centred[0, 2, 1]), rel=6e-3)
    path = panel.locator(".edges li").filter(has_text="L0H0")
    assert path.inner_text().split("\n")[-1] == (
        "into k, patched (attributed 0.4) ± 0.039, random baseline 0.1, causal"
    )
    assert opened.locator("#said").inner_text().endswith("L2H1 selected")
    opened.locator("#close").click()
    panel.get_by_role("heading", name="anger").wait_for()
    node(opened, "L2H1").click()
    panel.locator(".edges").get_by_role("button", name="L0H0").click()
    panel.get_by_role("heading", name="L0H0").wait_for()


def test_the_node_sliders_keep_the_largest_effects(opened, content):
    slide(opened, "node-share", 60)
    kept = parts(opened)
    expected = set()
    for kind, values in (
        ("head", content.heads.centred[0]),
        ("neuron", content.neurons.centred[0]),
    ):
        own = content.circuits["anger"].of_kind(kind)
        index = {n.id: int(n.id.split("H" if kind == "head" else "N")[1]) for n in own}
        size = {n.id: abs(float(values[n.layer or 0, index[n.id]])) for n in own}
        expected |= {
            name for name, own_size in size.items() if own_size >= 0.36 * max(size.values())
        }
    assert kept == expected
    assert 0 < len(kept) < 28
    assert opened.locator("#node-share-value").inner_text() == "≥ 36 %"
    opened.locator("#reset").click()
    slide(opened, "most", 50)
    # The slider's middle is the root of the largest number.
    assert len(parts(opened)) == round(32**0.5)
    opened.locator("#reset").click()
    settled(opened)
    assert len(parts(opened)) == 28


def test_kinds_and_effects_of_edges_are_chosen(opened):
    def paths():
        return opened.locator(".edges .edge.path").count()

    def count():
        return int(opened.locator("#said").inner_text().split(", ")[1].split()[0])

    before = count()
    assert paths() > 0
    opened.locator("#kinds").get_by_label("paths").uncheck()
    settled(opened)
    assert (paths(), count()) == (0, before - 3)
    opened.locator("#kinds").get_by_label("direct").check()
    settled(opened)
    many = count()
    slide(opened, "edge-share", 90)
    assert count() < many


def test_filters_that_leave_nothing_say_so(opened, content):
    opened.evaluate("State.set({ other: 2, show: 'own' })")
    settled(opened)
    # The circuits of anger and awe have the same parts.
    opened.locator("#empty").wait_for(state="visible")
    assert parts(opened) == set()


def test_another_emotion_and_another_measure_redraw_the_graph(opened, content):
    opened.locator("#emotion").select_option(label="fear")
    opened.get_by_role("heading", name="fear").wait_for()
    assert shown(opened) == {node.id for node in content.circuits["fear"].nodes}
    before = node(opened, "L1H2").get_attribute("aria-label")
    opened.locator("#measure").select_option("total")
    settled(opened)
    after = node(opened, "L1H2").get_attribute("aria-label")
    assert before != after
    assert f"effect {float(content.totals.head_effect[1, 1, 2]):.3g}".replace("-", "−") in after


def test_two_emotions_side_by_side_show_shared_and_own_parts(opened, content):
    opened.locator("#other").select_option(label="fear")
    opened.locator(".pane:nth-of-type(2)").wait_for()
    anger, fear = ({n.id for n in content.circuits[e].nodes} for e in ("anger", "fear"))
    assert (shown(opened, 1), shown(opened, 2)) == (anger, fear)
    assert "in both circuits" in (node(opened, "L0H0").get_attribute("aria-label") or "")
    opened.get_by_label("shared", exact=True).check()
    settled(opened)
    assert (
        parts(opened, 1)
        == parts(opened, 2)
        == {n for n in anger & fear if "." not in n} - {"embed", "readout"}
    )
    opened.get_by_label("own", exact=True).check()
    settled(opened)
    assert parts(opened, 1) == set()
    assert parts(opened, 2) == {f"L{layer}H2" for layer in range(4)}
    rows = opened.locator("#panel table").first.locator("tbody tr")
    assert [r.split("\t")[-1] for r in rows.all_inner_texts()[:3]] == ["28", "0", "4"]


def test_two_panes_agree_in_place_and_the_panel_is_about_the_one_that_was_clicked(opened):
    opened.locator("#other").select_option(label="fear")
    opened.locator(".pane:nth-of-type(2)").wait_for()
    first, second = (node(opened, "L3N4", pane).get_attribute("transform") for pane in (1, 2))
    assert first == second
    pressed = opened.locator("#panel .tabs [aria-pressed=true]")
    assert pressed.inner_text() == "anger"
    node(opened, "L1N2", 2).click()
    opened.get_by_role("heading", name="L1N2").wait_for()
    assert pressed.inner_text() == "fear"
    opened.locator("#panel .tabs").get_by_text("anger").click()
    settled(opened)
    assert (pressed.inner_text(), heading(opened)) == ("anger", "L1N2")
    for pane in (1, 2):
        assert opened.locator(f".pane:nth-of-type({pane}) .node[tabindex='0']").count() == 1
    unnamed = opened.eval_on_selector_all(
        "button, input, select",
        "own => own.filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim()"
        " || one.labels?.length)).map((one) => one.outerHTML)",
    )
    assert unnamed == []


def test_search_finds_by_part_of_a_name(opened):
    opened.keyboard.press("/")
    opened.keyboard.type("h1")
    found = opened.locator("#results [role=option] b").all_inner_texts()
    assert sorted(found) == [f"L{layer}H1" for layer in range(4)]
    opened.keyboard.press("ArrowDown")
    assert opened.locator("#results [aria-selected=true]").count() == 1
    opened.locator("#search").fill("L2N3")
    opened.keyboard.press("Enter")
    opened.get_by_role("heading", name="L2N3").wait_for()
    assert node(opened, "L2N3").evaluate("(own) => own === document.activeElement")
    opened.locator("#search").fill("L9H9")
    assert "no part" in opened.locator("#results").inner_text()
    # Only fear's circuit has this one.
    opened.locator("#search").fill("L3H2")
    opened.keyboard.press("Enter")
    opened.get_by_role("heading", name="L3H2").wait_for()
    chosen = "(own) => own.selectedOptions[0].textContent"
    assert opened.locator("#emotion").evaluate(chosen) == "fear"


def test_the_keyboard_alone_is_enough(opened):
    for _ in range(40):
        opened.keyboard.press("Tab")
        if opened.evaluate("Boolean(document.activeElement.closest('.node'))"):
            break
    first = opened.evaluate("document.activeElement.getAttribute('aria-label')")
    assert first.startswith("L0") or first.startswith("embed")
    opened.keyboard.press("End")
    assert opened.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        "readout"
    )
    opened.keyboard.press("ArrowLeft")
    left = opened.evaluate("document.activeElement.getAttribute('aria-label')")
    assert not left.startswith("readout")
    stroke = "getComputedStyle(document.activeElement.querySelector('path')).strokeWidth"
    opened.wait_for_function(f"() => {stroke} === '4px'")
    opened.keyboard.press("Enter")
    opened.get_by_role("heading", name=left.split(",")[0]).wait_for()
    opened.keyboard.press("Escape")
    opened.get_by_role("heading", name="anger").wait_for()
    assert opened.evaluate("Boolean(document.activeElement.closest('.node'))")


def download(page, name):
    with page.expect_download() as waiting:
        page.locator(f"#{name}").click()
    path = waiting.value.path()
    return waiting.value.suggested_filename, path


def test_the_view_is_saved_as_svg_without_what_is_hidden(opened):
    slide(opened, "most", 50)
    name, path = download(opened, "svg")
    assert name == "circuit-anger.svg"
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    nodes = [own for own in root.iter(f"{SVG}g") if own.get("class") == "node"]
    assert len(nodes) == len(shown(opened))
    text = path.read_text(encoding="utf-8")
    assert "var(" not in text
    assert "<script" not in text


def test_the_view_is_saved_as_png_at_twice_its_size(opened):
    _, path = download(opened, "png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    box = opened.locator("#stage").bounding_box()
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == pytest.approx((2 * box["width"], 2 * box["height"]), abs=3)
    assert len(data) > 10_000


def test_the_view_is_saved_as_json_with_its_numbers(opened, content):
    opened.locator("#other").select_option(label="fear")
    opened.locator(".pane:nth-of-type(2)").wait_for()
    slide(opened, "most", 50)
    name, path = download(opened, "json")
    assert name == "circuit-anger-fear.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert [own["emotion"] for own in saved["circuits"]] == ["anger", "fear"]
    first = {own["id"]: own for own in saved["circuits"][0]["nodes"]}
    assert set(first) == shown(opened, 1)
    (some, *_) = [name for name in first if "H" in name]
    layer, head = map(int, some[1:].split("H"))
    assert first[some]["effect"] == pytest.approx(
        float(content.heads.centred[0, layer, head]), rel=1e-3
    )
    assert saved["settings"]["most_nodes"] < 28


def test_text_of_contexts_tokens_and_emotions_is_shown_and_never_run(opened, content):
    hostile = content.examples.event[0]
    opened.locator("#emotion").select_option(index=2)
    for name in ("L0H0", "L0H1", "L1N2"):
        opened.locator("#search").fill(name)
        opened.keyboard.press("Enter")
        opened.get_by_role("heading", name=name).wait_for()
    assert (
        opened.locator("#panel .context")
        .first.inner_text()
        .endswith(hostile.split("\u2028")[0][-20:] + hostile[hostile.index("\u2028") :])
    )
    assert "</script><i>" in opened.locator("#panel").inner_text()
    assert opened.locator("#panel img, #panel script, #panel i").count() == 0
    assert opened.evaluate("window.broken") is None
    assert opened.said == []


def test_a_head_shows_where_each_token_looks(opened):
    node(opened, "L0H0").click()
    panel = opened.locator("#panel")
    panel.locator("canvas.pattern").wait_for()
    assert panel.locator(".strip .token").count() == 5
    assert panel.locator(".strip .looks").inner_text() == "<|end|>"
    slide(opened, "looks", 1)
    assert panel.locator(".strip .looks").inner_text() == " Always"
    assert panel.locator(".strip .later").count() == 3
    assert "attends most to" in panel.locator("output").inner_text()
    panel.locator("#context").select_option(index=1)
    assert panel.locator(".strip .token").count() == 3
    painted = (
        "(own) => new Set(own.getContext('2d').getImageData(0, 0, own.width, own.height).data).size"
    )
    assert panel.locator("canvas.pattern").evaluate(painted) > 5


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    light, dark = "rgb(255, 255, 255)", "rgb(22, 23, 27)"
    first, second = (light, dark) if scheme == "light" else (dark, light)
    assert background(opened) == first
    opened.locator("#theme").click()
    assert background(opened) == second
    paper = opened.locator("#graph > rect").get_attribute("fill")
    assert paper == ("#ffffff" if second == light else "#16171b")


def test_a_narrow_page_has_no_overflow_and_a_choice_brings_its_panel_into_sight(opened):
    opened.set_viewport_size({"width": 390, "height": 844})
    for act in (
        "null",
        "Panel.choose(Data.places.get('L0H0'))",
        "State.set({ other: 1 })",
        "document.getElementById('filters').open = true",
        "State.set({ selected: null })",
    ):
        opened.evaluate(act)
        settled(opened)
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390, act
    opened.emulate_media(reduced_motion="reduce")
    node(opened, "L0H0").click()
    opened.get_by_role("heading", name="L0H0").wait_for()
    assert 0 < opened.locator("#panel").bounding_box()["y"] < 0.75 * 844


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_no_node_covers_another(opened, size):
    opened.set_viewport_size({"width": size[0], "height": size[1]})
    settled(opened)
    boxes = opened.evaluate(
        """() => [...document.querySelectorAll('.node')].map((own) => {
            const box = own.querySelector('path:last-of-type').getBBox();
            const { e, f } = own.transform.baseVal[0].matrix;
            return [e, f, box.width / 2];
        })"""
    )
    for i, (x, y, r) in enumerate(boxes):
        for other_x, other_y, other_r in boxes[:i]:
            assert max(abs(x - other_x), abs(y - other_y)) >= 0.99 * max(r, other_r)
            assert ((x - other_x) ** 2 + (y - other_y) ** 2) ** 0.5 >= 0.9 * (r + other_r)


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
            kind, side = ("head", "attn") if "H" in name else ("neuron", "mlp")
            nodes.append(Node(name, kind, layer, effect=effect, stderr=0.01, direct=effect))
            edges.append(Edge(name, f"L{layer}.{side}", "part", effect))
            edges.append(Edge(name, "readout", "direct", effect))
            if layer:
                source = f"L{layer - 1}N{number}" if number < 117 else f"L0N{number - 117}"
                via = "q" if kind == "head" else "mlp"
                edges.append(Edge(source, name, "path", effect, via))
        nodes += [Node(f"L{layer}.{side}", "sublayer", layer) for side in ("attn", "mlp")]
    return Circuit("anger", (*nodes, Node("readout", "readout")), tuple(edges))


@pytest.fixture(scope="module")
def thousand(browser, bare_content, tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "explorer.html"
    document = explorer_document(bare_content(circuits={"anger": large()}, scores={}))
    path.write_text(explorer_page(document), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    page.close()


@pytest.mark.parametrize("act", ["still", "shift", "zoom", "filter", "edges", "select"])
def test_most_frames_of_a_thousand_nodes_are_quick(thousand, act):
    assert thousand.locator(".node").count() == 125 * LAYERS + 2 * LAYERS + 2
    assert statistics.median(thousand.evaluate(FRAMES, act)) < SLOWEST
