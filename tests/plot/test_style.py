"""Colours, cues and the one layout."""

import itertools
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from circuits.names import EMOTIONS
from circuits.plots.style import EMOTION_COLOURS, SIGN_COLOURS, chart, colour, cue

# Linear RGB as it looks without green or red receptors (Machado, Oliveira and Fernandes 2009).
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
PROTANOPIA = np.array(
    [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
)
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(shade):
    parts = np.array([int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(light):
    ratio = TO_XYZ @ np.clip(light, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(shade, background):
    first, second = (TO_XYZ[1] @ linear(one) + 0.05 for one in (shade, background))
    return max(first, second) / min(first, second)


@pytest.mark.parametrize("eyes", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_emotion_colours_are_far_apart_for_every_kind_of_eye(eyes):
    seen = [lab(eyes @ linear(shade)) for shade in EMOTION_COLOURS.values()]
    gaps = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(gaps) > 25


@pytest.mark.parametrize("eyes", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_the_two_signs_look_different_to_every_kind_of_eye(eyes):
    towards, away = (lab(eyes @ linear(shade)) for shade in SIGN_COLOURS.values())
    assert np.linalg.norm(towards - away) > 40


@pytest.mark.parametrize("background", ["#ffffff", "#16171b"])
def test_emotion_colours_stand_out_from_light_and_dark_pages(background):
    assert min(contrast(shade, background) for shade in EMOTION_COLOURS.values()) > 2


@pytest.mark.parametrize("kind", ["symbol", "dash", "hatch"])
def test_no_two_emotions_share_a_cue(kind):
    assert len({cue(emotion, kind) for emotion in EMOTIONS}) == len(EMOTIONS)


def test_every_emotion_has_a_colour_and_unknown_ones_get_a_lasting_one():
    assert set(EMOTION_COLOURS) == set(EMOTIONS)
    # Written down: a colour that changed between runs would be worse than an ugly one.
    assert colour("awe") == "#5c93d6"
    assert cue("awe", "symbol") == cue("awe", "symbol")
    assert colour("awe") != colour("joy")


def test_a_menu_shows_one_group_at_a_time_and_of_a_single_group_the_title_says_the_label():
    first, second, third = (go.Scatter(y=[number]) for number in range(3))
    groups = {"one": [first, second], "<b>": [third]}
    figure: Any = chart(groups, "Title", "x", "y", menu="Emotion")
    assert [trace.visible for trace in figure.data] == [True, True, False]
    buttons = figure.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["one", "&lt;b&gt;"]
    assert list(buttons[1].args[0]["visible"]) == [False, False, True]
    single: Any = chart({"<b>": [third]}, "Title", "x", "y", menu="Emotion")
    assert not single.layout.updatemenus
    assert single.layout.title.text == "Title: &lt;b&gt;"


def test_the_layout_changes_no_global_template():
    before = pio.templates.default
    figure: Any = chart([], "A title that is far too long for one line of a phone", "layer", "y")
    assert pio.templates.default == before
    assert "<br>" in figure.layout.title.text
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.xaxis.automargin
