"""The report is one page that shows everything, runs nothing foreign and asks no network.

A real browser opens it too: figures are drawn and the console stays silent.
"""

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from circuits.names import EMOTIONS
from circuits.report import write_report


class Page(HTMLParser):
    """Elements with their attributes, scripts with their text, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = attributes, before + data
        elif self.cdata_elem is None:
            self.words.append(data)


@pytest.fixture(scope="module")
def written(samples, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(samples.report(), path)
    return path


@pytest.fixture(scope="module")
def page(written):
    return Page(written.read_text(encoding="utf-8"))


def test_the_page_has_every_section_and_every_emotion(page):
    text = " ".join(page.words)
    headings = "Summary,Sample replies,Elicitation,Directions,Attention heads,MLP neurons"
    headings += ",Sublayers,Circuits,Cost,Provenance"
    values = ("64.0 (60–68)", "random, same layers (baseline)", "lexicon", "L3H0", "5,000,000")
    for shown in (*headings.split(","), *EMOTIONS, *values, "once, in the prompt"):
        assert shown in text
    sections = {a["id"] for tag, a in page.elements if tag == "section" and "id" in a}
    assert {f"#{own}" for own in sections} == {
        a["href"] for tag, a in page.elements if tag == "a" and a["href"] != "data:,"
    }


def test_a_circuit_that_does_not_beat_random_ones_is_named(page):
    text = " ".join(page.words)
    assert f"The circuit of {EMOTIONS[-1]} does not beat random circuits" in text
    assert f"The circuit of {EMOTIONS[0]} does not beat" not in text


def test_every_figure_has_its_data_and_each_is_valid_json(page):
    wanted = {a["data-figure"] for _, a in page.elements if "data-figure" in a}
    data = {a["id"]: text for a, text in page.scripts if a.get("type") == "application/json"}
    assert {f"data-{name}" for name in wanted} == set(data)
    assert len(wanted) == 10 + len(EMOTIONS)
    for text in data.values():
        figure = json.loads(text)
        assert figure["data"]
        assert figure["layout"]["title"]["text"]


def test_nothing_on_the_page_loads_anything(page):
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "poster", "action", "background"):
            assert name not in attributes, tag
        assert tag not in ("iframe", "object", "embed", "base", "img")
        assert attributes.get("href", "#").startswith(("#", "data:,"))
        assert not any(name.startswith("on") for name in attributes)
    data = [text for a, text in page.scripts if a.get("type") == "application/json"]
    assert not any("http" in text for text in data)


def test_the_policy_allows_the_page_s_own_scripts_and_no_network(page):
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "http" not in policy.replace("http-equiv", "")
    scripts = re.search(r"script-src ([^;]*)", policy)
    assert scripts is not None
    assert "unsafe" not in scripts[1]
    for attributes, text in page.scripts:
        if "type" not in attributes:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in scripts[1]


def test_plotly_is_embedded_once_and_the_page_stays_light(written):
    text = written.read_text(encoding="utf-8")
    assert text.count("Copyright 2012-") == 1
    assert len(text.encode()) < 8_000_000


def test_tables_have_captions_and_headers(page):
    tables = sum(tag == "table" for tag, _ in page.elements)
    replies = sum(a.get("class") == "replies" for tag, a in page.elements if tag == "table")
    assert sum(tag == "caption" for tag, _ in page.elements) == tables - replies
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")


def test_tabs_name_the_panels_that_they_show(page):
    tabs = [a for _, a in page.elements if a.get("role") == "tab"]
    panels = {a["id"]: a for _, a in page.elements if a.get("role") == "tabpanel"}
    assert [tab["aria-controls"] for tab in tabs] == list(panels)
    assert [panel["aria-labelledby"] for panel in panels.values()] == [tab["id"] for tab in tabs]


def test_a_run_without_judge_calibration_or_test_replies_still_makes_a_page(samples, tmp_path):
    made = samples.report()
    bare = dataclasses.replace(
        made, replies={}, steering={"methods": made.steering["methods"]}, receipts={}
    )
    write_report(bare, tmp_path / "bare.html")
    text = " ".join(Page((tmp_path / "bare.html").read_text(encoding="utf-8")).words)
    assert "kept no replies" in text
    assert "The judge and what is known" not in text


def test_validation_is_shown_where_it_was_measured(samples, page, tmp_path):
    assert ("a", {"href": "#validation"}) not in page.elements
    measured = samples.report(
        validation=[samples.validation("head"), samples.validation("neuron")],
        reply_validation=[samples.heard("head"), samples.heard("neuron")],
        ablation=samples.ablation(),
    )
    write_report(measured, tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert ("a", {"href": "#validation"}) in found.elements
    shown = " ".join(found.words)
    assert "Points of judged expression lost (36 replies; 8.3% of the heads" in shown
    assert "81.2 to 93.8" in shown
    figures = [attributes.get("data-figure", "") for _, attributes in found.elements]
    drawn = [name for name in figures if name.startswith("validation-")]
    assert drawn == [f"validation-{number}" for number in range(4)]


def test_a_browser_draws_what_is_shown_and_its_console_stays_silent(written, browser):
    opened, said = browser.new_page(viewport={"width": 1280, "height": 12000}), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(written.as_uri())
    # Ten figures and one circuit; the others wait for their tab.
    opened.locator("[data-drawn=yes]").nth(10).wait_for(state="attached")
    opened.wait_for_load_state("networkidle")
    main = opened.locator("main")
    counts = {
        "[data-drawn=yes]": 11,
        "[data-drawn=yes][role=img][aria-label]": 11,
        "[aria-selected=true]": 1,
        "[role=tabpanel]": 6,
        "select": 1 + 5,
        "[type=range]": 1,
        ".updatemenu-button": 0,
    }
    assert {own: main.locator(own).count() for own in counts} == counts
    cut = "own => own.filter((box) => box.scrollWidth > box.clientWidth).length"
    assert opened.eval_on_selector_all(".box", cut) == 0
    opened.set_viewport_size({"width": 390, "height": 844})
    opened.wait_for_function("() => document.documentElement.scrollWidth <= 390")
    assert said == []
    opened.close()
