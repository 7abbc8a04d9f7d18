"""Maps of all paths, and attributed beside patched effects."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from circuits import plots as plot
from circuits.patching.exact_paths import ExactPaths
from circuits.patching.paths import PathEffects
from circuits.provenance import Provenance

SENDERS, RECEIVERS = ("embed", "L0H0", "L0.mlp"), ("L0H0.q", "L0.mlp", "L1G0.v", "readout")
EXISTS = torch.tensor([[True] * 4, [False, True, True, True], [False, False, True, True]])


@pytest.fixture
def paths():
    mean = torch.arange(12.0).reshape(3, 4) * EXISTS - 6.0 * EXISTS
    return PathEffects(
        provenance=Provenance(),
        mean=mean,
        stderr=mean.abs() / 10,
        random_baseline=torch.ones(3, 4),
        exists=EXISTS,
        node=mean.sum(1),
        by_role=torch.zeros(3, 4, 0),
        sender=SENDERS,
        receiver=RECEIVERS,
        role=(),
        emotion="fear",
        other="<b>",
        readout="projection",
        mode="noising",
        method="eap",
        steps=1,
        n_contexts=3,
        draws=5,
        gap=0.0,
        receipt={},
    )


@pytest.fixture
def exact():
    effect = torch.tensor([[-6.0, 4.0], [-4.0, 8.0]])
    return ExactPaths(
        provenance=Provenance(),
        effect=effect,
        context=("a", "b"),
        edge=("embed->L0H0.q", "L0.mlp->readout"),
        emotion="fear",
        other=None,
        readout="projection",
        mode="noising",
        receipt={},
    )


def drawn(figure: Any) -> Any:
    # Plotly declares no types for what is inside a figure.
    return figure


def test_the_map_shows_every_path_and_leaves_a_gap_where_none_can_be(paths):
    (cells,) = drawn(plot.draw(paths)).data
    assert cells.x == RECEIVERS
    assert cells.y == SENDERS
    for i, row in enumerate(cells.z):
        for j, shown in enumerate(row):
            assert (shown is None) == (not EXISTS[i, j])
            assert shown is None or shown == pytest.approx(paths.mean[i, j].item())
    assert (cells.zmin, cells.zmax) == (-6, 6)
    assert cells.customdata[0][0] == pytest.approx([1.96 * 0.6, 1.0])


def test_of_many_paths_the_ends_of_the_strongest_are_shown_in_their_order(paths):
    (cells,) = drawn(plot.path_map(paths, most=2)).data
    assert cells.y == ("embed", "L0.mlp")
    assert cells.x == ("L0H0.q", "L0.mlp")


def test_a_map_says_how_many_paths_there_are_and_escapes_names(paths):
    title = drawn(plot.draw(paths)).layout.title.text.replace("<br>", " ")
    assert "fear against &lt;b&gt;" in title
    assert f"of {int(EXISTS.sum())}" in title
    assert "no emotion" in drawn(
        plot.draw(dataclasses.replace(paths, other=None))
    ).layout.title.text.replace("<br>", " ")


def test_estimates_stand_against_what_patching_gave(paths, exact):
    line, points = drawn(plot.path_agreement(paths, exact)).data
    assert points.x == (-6, 5)
    assert points.y == (-5, 6)
    assert points.customdata == ("embed-&gt;L0H0.q", "L0.mlp-&gt;readout")
    assert points.error_y.array == pytest.approx((1.96 * exact.stderr).tolist(), rel=1e-5)
    assert line.x == line.y == (-6, 6)


def test_one_context_has_no_interval(paths, exact):
    one = dataclasses.replace(exact, effect=exact.effect[:1], context=("a",))
    assert math.isnan(one.stderr[0])
    _, points = drawn(plot.path_agreement(paths, one)).data
    assert points.error_y.array == (None, None)
