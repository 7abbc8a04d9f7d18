import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import CircuitError
from circuits.published.assembling import Settings, deal_out


def dealt(scores, available, count, minimum=2, cap_ratio=0.4):
    return deal_out(scores, available, count, minimum=minimum, cap_ratio=cap_ratio)


def test_the_published_constants_give_392_neurons_and_168_heads():
    assert Settings().split(56, [1.0], [2.0]) == (392, 168)
    assert Settings(total=560).split(8, [1.0], [2.0]) == (392, 168)


def test_in_auto_mode_importance_decides_between_neurons_and_heads():
    assert Settings(ratio_mode="auto").split(10, [1.0], [3.0]) == (25, 75)
    assert Settings(ratio_mode="auto").split(10, [0.0], [0.0]) == (70, 30)


def test_negative_importance_weighs_nothing_but_keeps_the_minimum():
    found = dealt([-3.0, 1.0, 1.0], [99] * 3, 16)
    assert found.weights == (0.0, 1.0, 1.0)
    assert found.planned == (2, 7, 7)


def test_without_any_importance_layers_share_alike():
    assert dealt([-1.0, 0.0, -2.0], [99] * 3, 12).planned == (4, 4, 4)


def test_too_few_places_for_the_minimum_give_one_each_or_none():
    assert dealt([1.0, 1.0, 1.0], [9] * 3, 5, minimum=2).base == (1, 1, 1)
    assert dealt([1.0, 0.0, 0.0], [9] * 3, 2, minimum=2, cap_ratio=1.0).planned == (2, 0, 0)


def test_a_cap_and_two_rounds_may_leave_places_undealt():
    found = dealt([1.0, 0.0, 0.0], [99] * 3, 20, minimum=0, cap_ratio=0.4)
    # 8 for the layer with all the weight, then two for each of the others, as released.
    assert found.planned == (8, 2, 2)


def test_the_largest_fraction_gets_the_remainder_first():
    assert dealt([5.0, 3.0, 2.0], [99] * 3, 3, minimum=0, cap_ratio=1.0).planned == (1, 1, 1)
    assert dealt([5.5, 3.5, 1.0], [99] * 3, 2, minimum=0, cap_ratio=1.0).planned == (1, 1, 0)


def test_what_a_layer_lacks_goes_to_those_with_most_places():
    found = dealt([4.0, 2.0, 2.0], [3, 9, 5], 14, minimum=2)
    assert found.planned == (6, 4, 4)
    assert found.used == (3, 7, 4)


def test_an_unknown_number_of_components_is_no_limit():
    assert dealt([1.0, 1.0], [None, None], 10).used == (5, 5)


def test_importance_that_is_no_number_is_refused():
    with pytest.raises(CircuitError, match="not finite"):
        dealt([math.nan, 1.0], [9, 9], 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total": 0}, "too few"),
        ({"ratio": (0.7, 0.7)}, "sum to 1"),
        ({"min_mlp": -1}, "minima"),
        ({"cap_ratio": 2.0}, "minima"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(CircuitError, match=message):
        Settings(**values)


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
    st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    st.integers(0, 200),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_places_are_those_of_the_rule_step_by_step(scores, count, minimum, cap_ratio):
    found = dealt(scores, [None] * len(scores), count, minimum, cap_ratio)
    assert list(found.planned) == oracle(scores, count, minimum, cap_ratio)
    assert sum(found.planned) <= count


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 9)), min_size=1, max_size=8),
    st.integers(0, 60),
)
def test_no_layer_uses_more_than_it_has_and_nothing_is_left_that_fits(layers, count):
    scores, available = zip(*layers, strict=True)
    found = dealt(list(scores), list(available), count)
    assert all(used <= most for used, most in zip(found.used, available, strict=True))
    assert sum(found.used) == min(sum(found.planned), sum(available))
