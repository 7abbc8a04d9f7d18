"""Traces as figures and as coloured text."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import plots as plot
from circuits.effects.inspection import TokenTrace
from circuits.errors import AxisError
from circuits.names import EMOTIONS
from circuits.provenance import Provenance

WORDS = ("<s>", "I", " am", " <script>alert(1)</script>", "\n", '" onmouseover="x', " &amp;")


def trace(tokens=WORDS, emotions=EMOTIONS, layers=3, n_prompt=3):
    values = torch.linspace(-1.5, 1.5, len(emotions) * layers * len(tokens))
    return TokenTrace(
        provenance=Provenance(), value=values.reshape(len(emotions), layers, len(tokens)),
        emotion=emotions, layer=tuple(range(layers)), n_prompt=n_prompt,
        pos=tuple(f"{i} {token}" for i, token in enumerate(tokens)),
    )  # fmt: skip


def draw(record) -> Any:
    return plot.draw(record)


class Reader(HTMLParser):
    """What a browser takes for text, and what for markup."""

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.spans = "", [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "span":
            self.spans.append(dict(attrs))

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_map_draws_every_token_at_every_layer_and_a_menu_picks_the_emotion():
    found, record = draw(trace()), trace()
    assert len(found.data) == len(EMOTIONS)
    for e in range(len(EMOTIONS)):
        drawn = torch.tensor(found.data[e].z)
        torch.testing.assert_close(drawn, record.value[e].T, atol=1e-5, rtol=1e-5)
        assert (found.data[e].zmin, found.data[e].zmax) == (-1, 1)
    (menu,) = found.layout.updatemenus
    assert [button.label for button in menu.buttons] == list(EMOTIONS)
    assert [own.visible for own in found.data] == [True] + [False] * 5
    assert found.layout.yaxis.autorange == "reversed"
    assert found.layout.xaxis.title.text == "layer"


def test_one_emotion_needs_no_menu_and_is_named_in_the_title():
    found = draw(trace().sel(emotion="fear"))
    assert not found.layout.updatemenus
    assert "direction of fear" in found.layout.title.text.replace("<br>", " ")


def test_the_reply_begins_at_a_line_also_where_tokens_were_picked():
    record = trace()
    assert draw(record).layout.shapes[0].y0 == 2.5
    assert draw(record.sel(pos=record.pos[2:])).layout.shapes[0].y0 == 0.5
    assert not draw(trace(n_prompt=7)).layout.shapes


def test_what_is_not_known_is_a_gap_and_never_a_number():
    record = trace()
    record.value[0, 1] = torch.nan
    assert "NaN" not in draw(record).to_json()
    page = plot.token_html(record, "anger")
    assert page.count('title="not known"') == len(WORDS)
    assert "nan" not in page


def test_tokens_are_text_in_the_map():
    found = draw(trace(emotions=("<i>awe</i>", "joy")))
    text = found.to_json()
    for markup in ("<script>", "<s>", "<i>"):
        assert markup not in text.replace("\\u003c", "<").replace("\\u003e", ">")
    assert "␣" not in found.layout.yaxis.ticktext
    assert "⏎" in found.layout.yaxis.ticktext


def test_tokens_are_text_in_the_coloured_text():
    page = plot.token_html(trace(), "fear")
    found = read(page)
    assert "<script" not in page
    assert set(found.tags) == {"div", "b", "span"}
    assert found.text.count("".join(WORDS)) == 3
    assert all(set(span) <= {"title", "style"} for span in found.spans)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.text(max_size=8))
def test_no_text_and_no_emotion_can_become_markup(tokens, emotion):
    page = plot.token_html(trace(tuple(tokens), (emotion,), 2), emotion)
    found = read(page)
    assert set(found.tags) == {"div", "b", "span"}
    assert len(found.spans) == 2 * len(tokens)


def test_colour_underline_and_hover_say_the_same_number():
    record = trace()
    spans = read(plot.token_html(record, "fear", [1])).spans
    values = record.sel(emotion="fear", layer=1).value[0, 0].tolist()
    assert len(spans) == len(WORDS)
    for span, value in zip(spans, values, strict=True):
        style = span["style"]
        red, _, blue, alpha = map(float, re.findall(r"[\d.]+", style.split("rgba")[1])[:4])
        assert (red > blue) == (value > 0)
        assert alpha == pytest.approx(0.6 * min(abs(value), 1), abs=1e-3)
        assert span["title"] == f"{value:+.2f}"
        assert ("border-bottom" in style) == (abs(value) >= 0.25)
        if abs(value) >= 0.25:
            assert ("solid" in style) == (value > 0)


def test_only_the_layers_asked_for_are_shown_and_unknown_ones_refused():
    page = plot.token_html(trace(), "fear", [2, 0])
    assert re.findall(r"layer (\d)", page) == ["2", "0"]
    with pytest.raises(AxisError, match="no label 7"):
        plot.token_html(trace(), "fear", [7])
    with pytest.raises(AxisError, match="no label 'awe'"):
        plot.token_html(trace(), "awe")
