"""The site is built strictly, names everything, and fetches nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

import circuits

pytest.importorskip("mkdocs", reason="needs mkdocs; install the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a link to a page or heading that is not there is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not re.search("WARNING|ERROR", done.stderr), done.stderr
    return folder


def test_every_public_name_has_its_place(site):
    pages = [*sorted((site / "reference/api").glob("*.html")), site / "reference/api.html"]
    page = "".join(own.read_text() for own in pages)
    shown = {place.rpartition(".")[2] for place in re.findall(r'id="(circuits\.[\w.]+)"', page)}
    assert {*circuits.__all__} - {"read_scenarios", "plot"} <= shown
    assert {"read", "plots"} <= shown  # by their own names
    assert "Float[Tensor" in re.sub(r"<[^>]+>", "", page)
    assert ":class:" not in page
    assert ":func:" not in page


def test_formulas_are_drawn_by_the_browser_alone(site):
    page = (site / "glossary.html").read_text()
    assert page.count("<math") > 20
    assert "\\frac" not in re.sub(r"<[^>]+>", "", page)
    assert "arithmatex" not in page


def test_every_command_and_option_has_its_place(site):
    from typer.main import get_command

    from circuits.cli.app import app

    page = re.sub(r"<[^>]+>", "", (site / "reference/commands.html").read_text())
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"emotion-circuits {name}" in page
        options = [p.opts[0] for p in command.params if p.name != "help"]
        assert all(option in page for option in options if option.startswith("--"))


def test_every_difference_from_the_scripts_has_its_row(site):
    from circuits.published.quirks import METHOD, QUIRKS

    page = (site / "reference/quirks.html").read_text()
    assert page.count("<tr>") == len(QUIRKS) + len(METHOD) + 2


def test_nothing_is_fetched_from_elsewhere(site):
    elsewhere = r'="(?:https?:)?//'
    fetched = re.compile(
        rf"<(?:script|img|iframe|source)[^>]+src{elsewhere}|<link[^>]+href{elsewhere}"
    )
    for page in site.rglob("*.html"):
        assert not fetched.search(page.read_text()), page.name
    assert len(json.loads((site / "search/search_index.json").read_text())["docs"]) > 100


def test_only_pages_and_pictures_are_published(site):
    kinds = {path.suffix for path in site.rglob("*") if path.is_file()}
    assert not kinds & {".py", ".md", ".jsonl"}
    assert not (site / "trials.json").exists()


def test_pictures_are_small(site):
    del site
    pictures = [p for p in Path(ROOT, "docs/images").iterdir() if p.suffix in (".png", ".svg")]
    assert pictures
    assert all(picture.stat().st_size < 300_000 for picture in pictures)
