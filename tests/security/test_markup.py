"""Texts of data sets and models are text on every page and in every drawing, never markup."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.dom import minidom

import pytest

from circuits.export.diagrams import dot, mermaid
from circuits.export.tables import gexf, graphml
from circuits.provenance import Provenance
from circuits.report import write_report

PACKAGE = Path(__file__).parents[2] / "circuits"
RUNS = "document.title='hit'"
HOSTILE = (
    f'<img src=x onerror="{RUNS}">',
    f'<a href="javascript:{RUNS}" onmouseover="{RUNS}">joy</a>',
    f"</script><script>{RUNS}</script>",
    f"<svg onload={RUNS}><b>joy</b></svg>",
    f'" onload="{RUNS}" \'',
    "<!--<style>body{display:none}</style> {{7*7}} ${7*7} %{x} &lt;b&gt;",
)


def content(samples, names, title, text):
    model = {**samples.provenance().model, "name": text}
    origin = Provenance(model, text, {text: text, "read": text}, {"python": text})
    by = dataclasses.replace(samples.provenance(), model=model)
    circuits = {name: dataclasses.replace(samples.circuit(name), provenance=by) for name in names}
    themes = (text, "family", "school", "travel", "health")
    return samples.report(
        names,
        title=title,
        generality=dataclasses.replace(samples.generality(emotions=names), theme=themes),
        circuits=circuits,
        elicitation={**samples.elicitation(names), "dataset": text},
        replies=samples.judged(names, text=text),
        provenance=origin,
    )


@pytest.fixture(scope="module")
def pages(samples, tmp_path_factory):
    """A page whose every text is hostile, and the same with words in their place."""
    folder = tmp_path_factory.mktemp("pages")
    names = (" ".join(HOSTILE[:3]), " ".join(HOSTILE[3:]))
    hostile = content(samples, names, HOSTILE[0], " ".join(HOSTILE))
    tame = content(samples, ("word", "words"), "title", "words and more words")
    write_report(hostile, folder / "hostile.html")
    write_report(tame, folder / "tame.html")
    return folder


class Elements(HTMLParser):
    """Every element with its attributes, in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, sorted(attrs, key=str)))


@pytest.mark.trial("security", "every text of a report is hostile markup; the page is parsed")
def test_a_hostile_report_has_the_elements_of_a_tame_one(pages, trial):
    hostile, tame = (
        [
            (tag, *(name for name, _ in attributes))
            for tag, attributes in Elements((pages / f"{page}.html").read_text("utf-8")).found
            if tag != "wbr"  # after every dot of an option's name
        ]
        for page in ("hostile", "tame")
    )
    assert len(tame) > 300
    assert hostile == tame
    trial(times=len(hostile), outcome="the same elements and attributes as with plain words")


def opened(browser, path, ready):
    """A page as it is when an element of a selector is on it."""
    page = browser.new_page(viewport={"width": 1280, "height": 16000})
    page.goto(path.as_uri())
    page.locator(ready).first.wait_for(state="attached")
    page.wait_for_load_state("networkidle")
    found = page.content()
    page.close()
    return found


@pytest.mark.trial("security", "a hostile report in a browser, its content policy {policy}")
@pytest.mark.parametrize("policy", ["kept", "taken away"])
def test_nothing_runs_in_a_browser(browser, pages, tmp_path, policy, trial):
    text = (pages / "hostile.html").read_text(encoding="utf-8")
    if policy == "taken away":
        text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        assert count == 1
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    found = opened(browser, tmp_path / "page.html", "[data-drawn=yes]")
    assert "<title>hit" not in found
    drawn = re.sub(r"<(script|style)\b.*?</\1>", "", found, flags=re.DOTALL)
    for tag, attributes in Elements(drawn).found:
        assert tag not in ("img", "iframe", "object", "embed")
        for name, value in attributes:
            assert not name.startswith("on"), tag
            assert not (value or "").strip().lower().startswith("javascript:"), tag
    trial(outcome="nothing runs, no element or attribute is added")


def test_the_same_texts_would_run_where_they_are_markup(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><title>page</title><p>{HOSTILE[0]}</p>")
    assert "<title>hit" in opened(browser, page, "img")


@pytest.mark.trial("security", "hostile names in the drawings of a circuit ({form})")
@pytest.mark.parametrize("form", ["graphml", "gexf", "dot", "mermaid"])
def test_drawings_hold_names_as_text(samples, form, trial):
    write = {"graphml": graphml, "gexf": gexf, "dot": dot, "mermaid": mermaid}[form]
    for name in HOSTILE:
        model = {**samples.provenance().model, "name": name}
        origin = dataclasses.replace(samples.provenance(), model=model)
        circuits = [
            dataclasses.replace(samples.circuit(own), provenance=by)
            for own, by in ((name, origin), ("joy", samples.provenance()))
        ]
        hostile, tame = (write(circuit) for circuit in circuits)
        if form in ("graphml", "gexf"):
            assert elements(hostile) == elements(tame)
        elif form == "mermaid":
            assert "<img" not in body(hostile)
            assert "<script" not in body(hostile)
            assert len(hostile.splitlines()) == len(tame.splitlines())
        else:
            outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', hostile)
            assert outside == re.sub(r'"(?:[^"\\]|\\.)*"', '""', tame)
    trial(times=len(HOSTILE), outcome="text only; the drawing is that of a plain name")


def elements(text):
    return [own.tagName for own in minidom.parseString(text).getElementsByTagName("*")]


def body(text):
    """Mermaid behind its title, which is a quoted text."""
    return text.split("---", 2)[2]


def test_no_template_lets_a_text_through_as_markup():
    found = {
        path.name: re.findall(r"\{\{[^}]*\|\s*safe[^}]*\}\}|autoescape", path.read_text())
        for path in (PACKAGE / "report").glob("*.j2")
    }
    # A separator that is markup; what it joins is escaped.
    allowed = '{{ name.split(".") | join(".<wbr>" | safe) }}'
    assert [own for forms in found.values() for own in forms] == [allowed]
