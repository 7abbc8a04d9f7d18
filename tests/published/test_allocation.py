"""Places are dealt out to layers by the released rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import CircuitError
from circuits.published.assembling import Settings, deal_out


def dealt(scores, available, count, minimum=2, cap_ratio=0.4):
    return deal_out(scores, available, count, minimum=minimum, cap_ratio=cap_ratio)


@pytest.mark.parametrize(
    ("settings", "n_sublayers", "attention", "split"),
    [
        (Settings(), 56, 2.0, (392, 168)),  # the published constants
        (Settings(total=560), 8, 2.0, (392, 168)),
        (Settings(ratio_mode="auto"), 10, 3.0, (25, 75)),
        (Settings(ratio_mode="auto"), 10, -1.0, (70, 30)),
    ],
)
def test_a_budget_is_split_between_neurons_and_heads(settings, n_sublayers, attention, split):
    mlp = 0.0 if attention < 0 else 1.0
    assert settings.split(n_sublayers, mlp, max(attention, 0.0)) == split


@pytest.mark.parametrize(
    ("scores", "count", "options", "planned"),
    [
        ([-3.0, 1.0, 1.0], 16, {}, (2, 7, 7)),  # negative: the minimum alone
        ([-1.0, 0.0, -2.0], 12, {}, (4, 4, 4)),  # no importance at all: alike
        ([1.0, 1.0, 1.0], 3, {}, (1, 1, 1)),  # too few for the minimum: one each, or none
        ([1.0, 0.0, 0.0], 2, {"cap_ratio": 1.0}, (2, 0, 0)),
        # 8 for the layer with all the weight, then two for each of the others, as released.
        ([1.0, 0.0, 0.0], 20, {"minimum": 0}, (8, 2, 2)),
        # The largest fraction gets the remainder first.
        ([5.0, 3.0, 2.0], 3, {"minimum": 0, "cap_ratio": 1.0}, (1, 1, 1)),
        ([5.5, 3.5, 1.0], 2, {"minimum": 0, "cap_ratio": 1.0}, (1, 1, 0)),
    ],
)
def test_places_follow_importance(scores, count, options, planned):
    assert dealt(scores, [99] * 3, count, **options).assigned == planned


def test_what_a_layer_lacks_goes_to_those_with_most_places():
    found = dealt([4.0, 2.0, 2.0], [3, 9, 5], 14)
    assert (found.assigned, found.used) == ((6, 4, 4), (3, 7, 4))
    assert dealt([1.0, 1.0], [None, None], 10).used == (5, 5)  # not known: no limit


def test_what_makes_no_sense_is_refused():
    with pytest.raises(CircuitError, match="not finite"):
        dealt([math.nan, 1.0], [9, 9], 4)
    with pytest.raises(CircuitError, match="too few"):
        Settings(total=0)


def oracle(scores, count, minimum, cap_ratio):
    """The rule of the method's description, step by step."""
    n = len(scores)
    w = [max(score, 0) for score in scores]
    share = [x / sum(w) if sum(w) > 1e-12 else 1 / n for x in w]
    base = minimum if count >= minimum * n else (1 if count >= n else 0)
    rest = count - base * n
    cap = math.floor(cap_ratio * count)
    raw = [x * rest for x in share]
    add = [min(math.floor(x), cap) for x in raw]
    left = rest - sum(add)
    for _ in range(2):
        for i in sorted(range(n), key=lambda i: -(raw[i] - math.floor(raw[i]))):
            if left <= 0:
                break
            if add[i] < cap:
                add[i], left = add[i] + 1, left - 1
    return [base + x for x in add]


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 99)), min_size=1, max_size=12),
    st.integers(0, 200),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_places_are_those_of_the_rule_step_by_step(layers, count, minimum, cap_ratio):
    scores, available = map(list, zip(*layers, strict=True))
    found = dealt(scores, available, count, minimum, cap_ratio)
    assert list(found.assigned) == oracle(scores, count, minimum, cap_ratio)
    assert sum(found.assigned) <= count
    assert all(used <= most for used, most in zip(found.used, available, strict=True))
    assert sum(found.used) == min(sum(found.assigned), sum(available))
