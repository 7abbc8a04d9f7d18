"""Areas under faithfulness curves, by hand and beside a plain re-implementation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits.circuit.score import SIZES, area, log_area, nested, size_at

CURVES = st.lists(st.floats(-2, 2, width=32), min_size=len(SIZES), max_size=len(SIZES))


def plain_area(ys, xs):
    return sum((xs[i + 1] - xs[i]) * (ys[i + 1] + ys[i]) / 2 for i in range(len(xs) - 1))


def test_each_size_has_its_weight_in_the_trapezoid():
    weights = [0.0005, 0.002, 0.004, 0.0075, 0.02, 0.04, 0.075, 0.2, 0.4, 0.25]
    for place, weight in enumerate(weights):
        spike = torch.zeros(10, dtype=torch.float64)
        spike[place] = 1
        assert float(area(spike)) == pytest.approx(weight)


@given(CURVES)
def test_areas_are_those_of_the_plain_sums(ys):
    curve = torch.tensor(ys, dtype=torch.float64)
    logs = [math.log(size) for size in SIZES]
    assert float(area(curve)) == pytest.approx(plain_area(ys, SIZES), abs=1e-12)
    expected = plain_area(ys, logs) / (logs[-1] - logs[0])
    assert float(log_area(curve)) == pytest.approx(expected, abs=1e-9)


@given(CURVES)
def test_the_size_that_is_enough_is_the_first_after_which_nothing_falls_below(ys):
    enough = [i for i in range(10) if all(y >= 0.8 for y in ys[i:])]
    expected = SIZES[enough[0]] if enough else SIZES[-1]
    assert float(size_at(torch.tensor(ys, dtype=torch.float64))) == expected


def test_circuits_of_growing_size_hold_the_largest_scores():
    scores = torch.randn(2340, generator=torch.Generator().manual_seed(0))
    found = nested(scores)
    for size, own in zip(SIZES, found, strict=True):
        count = int(size * 2340)
        assert own.sum() == count
        expected = sorted(range(2340), key=lambda i: -float(scores[i]))[:count]
        assert set(own.nonzero()[:, 0].tolist()) == set(expected)
    assert found[-1].all()
