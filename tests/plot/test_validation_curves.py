"""Curves of validation show the numbers of their records."""

from typing import Any

import pytest
import torch

from circuits import plots as plot
from circuits.plots.style import BASELINE, colour


def draw(record) -> Any:
    # Plotly declares no types for what is inside a figure.
    return plot.draw(record)


def shown(figure, emotion):
    """The traces that the menu shows for an emotion."""
    buttons = {
        button.label: button.args[0]["visible"] for button in figure.layout.updatemenus[0].buttons
    }
    return [trace for trace, seen in zip(figure.data, buttons[emotion], strict=True) if seen]


@pytest.mark.parametrize("emotion", ["anger", "fear"])
def test_every_panel_has_the_curves_and_bands_of_its_change(samples, emotion):
    record = samples.validation()
    e, traces = record.emotion.index(emotion), shown(draw(record), emotion)
    per_panel = 2 + 3 + 5
    assert len(traces) == len(record.method) * per_panel
    for m in range(len(record.method)):
        random, interval, *lines = traces[m * per_panel : (m + 1) * per_panel]
        for o, line in enumerate(lines[:3]):
            assert list(line.y) == pytest.approx(record.effect[e, m, o, :, e].tolist(), rel=1e-4)
            assert list(line.x) == list(record.size)
            assert line.line.color == colour(emotion)
        half = len(record.size)
        assert list(random.y[:half]) == pytest.approx(
            record.random_baseline_low[e, m, :, e].tolist(), rel=1e-4
        )
        assert list(interval.y[:half]) == pytest.approx(
            record.low[e, m, 0, :, e].tolist(), rel=1e-4
        )
        others = [f for f in range(len(record.emotion)) if f != e]
        for f, line in zip(others, lines[3:], strict=True):
            assert line.line.color == colour(record.emotion[f])
            assert list(line.y) == pytest.approx(record.effect[e, m, 0, :, f].tolist(), rel=1e-4)


def test_a_name_stands_once_in_the_legend(samples):
    figure = draw(samples.validation("neuron"))
    names = [trace.name for trace in shown(figure, "anger") if trace.showlegend]
    assert len(names) == len(set(names)) == 9
    assert figure.layout.xaxis4.title.text == "neurons (k)"


def test_judged_replies_are_drawn_by_emotion_with_random_sets_in_grey(samples):
    record = samples.heard()
    figure = draw(record)
    assert len(figure.data) == 2 * 3 * len(record.emotion)
    for place, trace in enumerate(figure.data):
        m, rest = divmod(place, 3 * len(record.emotion))
        o, e = divmod(rest, len(record.emotion))
        assert list(trace.y) == pytest.approx(record.judged[e, m, o].tolist(), rel=1e-4)
        grey = record.order[o] == "random"
        assert trace.line.color == (BASELINE if grey else colour(record.emotion[e]))
        up = torch.tensor(trace.y) + torch.tensor(trace.error_y.array)
        torch.testing.assert_close(up, record.high[e, m, o], atol=1e-3, rtol=1e-4)
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert legend == [*record.emotion, "ranked last", "random, same layers (baseline)"]
