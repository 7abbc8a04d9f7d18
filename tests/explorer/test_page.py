"""The page is one file that asks for nothing and runs nothing but its own program."""

import base64
import hashlib
import html
import json
import re
from importlib import resources

import pytest

from circuits.report import explorer_document, explorer_page
from circuits.report.explorer import SCRIPTS

FILES = sorted(file.name for file in resources.files("circuits.report").joinpath("js").iterdir())


@pytest.fixture(scope="module")
def page(page_file):
    return page_file.read_text(encoding="utf-8")


def test_every_script_and_style_stands_in_the_policy_by_its_digest(page):
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="(.*?)">', page)[0])
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.S)
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_page_names_no_address(page):
    found = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert found == {"http://www.w3.org/2000/svg"}
    assert re.findall(r"(?:src|href)=\"[^\"]*", page) == ['href="data:,']


def test_no_text_ends_the_element_that_holds_it(page):
    assert page.count("<script") == page.count("</script>") == 2
    assert "<!--" not in page
    assert "<i>" not in page


def test_the_data_come_back_as_they_were(content, page):
    (text,) = re.findall(r'id="data">(.*?)</script>', page, re.S)
    assert json.loads(text) == json.loads(json.dumps(explorer_document(content)))


def test_every_program_file_is_in_the_page_and_short():
    assert {f"{name}.js" for name in SCRIPTS} == set(FILES)
    home = resources.files("circuits.report").joinpath("js")
    for name in FILES:
        assert len(home.joinpath(name).read_text("utf-8").splitlines()) <= 300


@pytest.mark.parametrize("name", FILES)
def test_no_program_makes_markup_or_code_of_text(name):
    text = resources.files("circuits.report").joinpath(f"js/{name}").read_text("utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(", text
    )
    assert not re.search(r"\bfetch\b|XMLHttpRequest|WebSocket|sendBeacon|EventSource", text)


def test_one_emotion_is_enough(bare_content, samples):
    content = bare_content(circuits={"anger": samples.circuit("anger")}, scores={}, notes=())
    assert '"emotions":[{"name":"anger"' in explorer_page(explorer_document(content))
