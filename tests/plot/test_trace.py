"""Traces as figures."""

from typing import Any

import torch

from circuits import plots as plot
from circuits.effects.inspection import TokenTrace
from circuits.names import EMOTIONS
from circuits.provenance import Provenance

WORDS = ("<s>", "I", " am", " <script>alert(1)</script>", "\n", '" onmouseover="x', " &amp;")


def trace(tokens=WORDS, emotions=EMOTIONS, layers=3, n_prompt=3):
    values = torch.linspace(-1.5, 1.5, len(emotions) * layers * len(tokens))
    return TokenTrace(
        provenance=Provenance(),
        value=values.reshape(len(emotions), layers, len(tokens)),
        emotion=emotions,
        layer=tuple(range(layers)),
        n_prompt=n_prompt,
        pos=tuple(f"{i} {token}" for i, token in enumerate(tokens)),
    )


def draw(record) -> Any:
    return plot.draw(record)


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


def test_tokens_are_text_in_the_map():
    found = draw(trace(emotions=("<i>awe</i>", "joy")))
    text = found.to_json()
    for markup in ("<script>", "<s>", "<i>"):
        assert markup not in text.replace("\\u003c", "<").replace("\\u003e", ">")
    assert "␣" not in found.layout.yaxis.ticktext
    assert "⏎" in found.layout.yaxis.ticktext
