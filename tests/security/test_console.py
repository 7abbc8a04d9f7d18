"""Texts of data sets and models are shown on a terminal, never obeyed by it."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from circuits.cli import console
from circuits.cli.console import Bars, accuracy_table, visible
from circuits.cli.run import model_card

HOSTILE = [
    "[bold red]joy[/]",
    "[/]",
    "[link=https://host]joy[/link]",
    "\x1b[2J\x1b[31mjoy",
    ":smile:",
    "\x1b]0;title\x07",
    "\x1b]8;;https://host\x1b\\joy",
    "\x9b31m",
    "joy\rfear",
    "\u202eyoj",
    "[not a tag",
    "joy\x00",
    "\x08\x08\x08",
]
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture
def screen(monkeypatch):
    """What is written by the two consoles of the command line."""
    file = io.StringIO()
    for own in (console.OUT, console.ERRORS):
        monkeypatch.setattr(own, "_file", file)
        monkeypatch.setattr(own, "_width", 300)
    return file


@pytest.mark.trial("security", "hostile texts on the console: markup, and what steers a terminal")
@pytest.mark.parametrize("name", ["OUT", "ERRORS"])
def test_a_text_is_shown_as_it_is(screen, name, trial):
    own = getattr(console, name)
    for text in HOSTILE:
        own.print(text, soft_wrap=True)
        table = Table(title=text)
        table.add_column(text)
        table.add_row(text)
        own.print(table)
        assert screen.getvalue().count(visible(text)) == 4
        screen.seek(0)
        screen.truncate()
    trial(times=4 * len(HOSTILE), outcome="shown letter by letter, nothing obeyed")


@given(st.text(max_size=40))
def test_nothing_that_steers_a_terminal_is_left(text):
    assert not OBEYED.search(visible(text))
    if text.isascii() and text.isprintable():
        assert visible(text) == text


def test_tables_of_results_and_bars_show_hostile_emotions(screen):
    row = {"overall": 50.0, "perplexity_ratio": None, "repetition": 0.0}
    for text in HOSTILE:
        table = accuracy_table({"methods": {"steer": {**row, "by_emotion": {text: 50.0}}}})
        console.OUT.print(table)
        with Bars().task(text, 1) as done:
            done(1)
        assert visible(text)[:5].strip() in screen.getvalue()
    assert not OBEYED.search(screen.getvalue())


def test_a_model_card_cannot_steer_the_terminal(screen, tmp_path):
    (tmp_path / "README.md").write_text("# A card\n\n\x1b[2J\x1b]0;title\x07\n")
    model_card(tmp_path)
    assert "A card" in screen.getvalue()
    assert not OBEYED.search(screen.getvalue())
