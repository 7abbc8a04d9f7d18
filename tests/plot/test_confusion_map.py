"""What the judge hears, by what was asked for; a comparison as it is drawn."""

from typing import Any

import pytest
import torch

from circuits import plots as plot
from circuits.judges.replies import JudgeConfusion
from circuits.steering.evaluate import Comparison


def drawn(record) -> Any:
    # Plotly declares no types for what is inside a figure.
    return plot.draw(record)


def test_the_map_shows_every_share_and_calls_plain_prompts_by_what_they_ask_for():
    share = torch.tensor([[90.0, 5.0], [0.0, 10.0], [2.0, 3.0]])
    found = JudgeConfusion(
        share,
        share - 1,
        share + 1,
        torch.tensor([20, 10, 5]),
        ("fear", "<i>awe</i>", "neutral"),
        ("fear", "<i>awe</i>"),
    )
    figure = drawn(found)
    (cells,) = figure.data
    assert [list(row) for row in cells.z] == share.tolist()
    assert cells.y == ("fear", "&lt;i&gt;awe&lt;/i&gt;", "no emotion")
    assert cells.customdata[0][1] == pytest.approx([4, 6, 20])
    assert (cells.zmin, cells.zmax) == (0, 100)
    assert figure.layout.title.text
    assert figure.layout.xaxis.title.text == "judged emotion"


def test_a_comparison_is_drawn_as_the_bars_of_its_methods_and_controls(samples):
    known = samples.accuracy()
    found = Comparison(known["methods"], known["baselines"], {}, {})
    assert drawn(found) == plot.accuracy_bars(known)
