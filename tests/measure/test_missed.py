"""The bound on missed effects holds where effects add, and is known not to where they do not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from circuits.errors import DataError
from circuits.patching.attribution import halves, missed, order
from circuits.running import execution

NAMES = [f"L0N{i}" for i in range(60)]


def adding(effects):
    """Groups' effects if effects add."""
    own = dict(zip(NAMES, effects, strict=True))
    return lambda groups: torch.tensor([sum(own[name] for name in group) for group in groups])


def share_bounded(effects_of, largest, seeds=300):
    bounds = []
    for seed in range(seeds):
        with execution(seed=seed):
            bounds.append(missed(effects_of, NAMES).bound)
    return float((torch.tensor(bounds) >= largest - 1e-9).double().mean())


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_a_planted_effect_is_below_the_bound_in_95_of_100_draws(scale):
    effects = (scale * torch.randn(60, generator=torch.Generator().manual_seed(1))).tolist()
    effects[7] = 3.0
    assert share_bounded(adding(effects), 3.0) >= 0.95


def test_effects_that_cancel_in_sum_are_bounded_all_the_same():
    effects = [0.0] * 60
    effects[3], effects[40] = 2.0, -2.0
    # The hardest case: two opposite effects differ by 4 or by 0, each in half of the splits.
    assert share_bounded(adding(effects), 2.0) >= 0.95
    assert missed(adding(effects), NAMES).departure == pytest.approx(0, abs=1e-12)


def test_nothing_is_missed_where_nothing_has_an_effect():
    found = missed(adding([0.0] * 60), NAMES)
    assert found.bound == 0
    assert found.departure == 0


def test_a_component_that_others_stand_in_for_is_missed():
    """Alone it has an effect of 1, with any other one it has none: no half shows it."""

    def backed_up(groups):
        return torch.tensor([float("L0N7" in group and len(group) == 1) for group in groups])

    assert float(backed_up([["L0N7"]])) == 1.0
    assert share_bounded(backed_up, 1.0, seeds=20) == 0.0


def test_effects_that_do_not_add_show_in_the_departure():
    """Half of the components together do what none does alone."""

    def by_number(groups):
        return torch.tensor([float(len(group)) ** 2 for group in groups])

    added = missed(adding([1.0] * 60), NAMES)
    squared = missed(by_number, NAMES)
    assert added.departure == pytest.approx(0, abs=1e-9)
    assert squared.departure > 0.05


@given(draws=st.integers(5, 60), confidence=st.floats(0.5, 0.96))
@settings(max_examples=50, deadline=None)
def test_the_order_is_the_largest_that_the_binomial_allows(draws, confidence):
    place = order(draws, confidence)
    assert binom.cdf(place - 1, draws, 0.5) <= 1 - confidence + 1e-12
    assert binom.cdf(place, draws, 0.5) > 1 - confidence - 1e-12


@given(draws=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_halves_are_splits_of_all_names(draws, seed):
    with execution(seed=seed):
        groups = halves(NAMES, draws)
    assert len(groups) == 2 * draws
    for one, other in zip(groups[0::2], groups[1::2], strict=True):
        assert sorted(one + other) == sorted(NAMES)
        assert one
        assert other


def test_too_few_draws_or_names_are_refused():
    with pytest.raises(DataError, match=r"4 random halves are too few for confidence 0\.95"):
        order(4, 0.95)
    assert order(5, 0.95) == 1
    with pytest.raises(DataError, match="between 0 and 1, found 1"):
        order(20, 1.0)
    with pytest.raises(DataError, match="two components or more, found 1"):
        halves(["L0H0"], 5)
