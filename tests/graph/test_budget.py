import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.circuit.find import Budget, allocate
from circuits.errors import CircuitError

weights = st.integers(-5, 50).map(float) | st.floats(1e-3, 1e9)
layers = st.lists(st.tuples(weights, st.integers(0, 20)), min_size=1, max_size=12)
totals = st.integers(0, 60)
minima = st.integers(0, 3)
quick = settings(deadline=None, max_examples=60)


@quick
@given(layers, totals, minima)
def test_all_places_are_dealt_out_as_far_as_there_are_components(layers, total, minimum):
    weights, available = zip(*layers, strict=True)
    given = allocate(weights, available, total, minimum)
    assert sum(given) == min(total, sum(available))
    assert all(0 <= own <= most for own, most in zip(given, available, strict=True))


@quick
@given(st.lists(st.integers(0, 50), min_size=2, max_size=12), st.integers(0, 9), totals, minima)
def test_of_layers_of_one_size_the_heavier_never_gets_less(weights, most, total, minimum):
    given = allocate([float(w) for w in weights], [most] * len(weights), total, minimum)
    for i, heavy in enumerate(weights):
        for j, light in enumerate(weights):
            if heavy > light:
                assert given[i] >= given[j]


@quick
@given(st.integers(1, 12), st.integers(0, 9), totals)
def test_of_equal_layers_the_earlier_get_what_is_left_over(n, most, total):
    given = allocate([1.0] * n, [most] * n, total)
    assert given == sorted(given, reverse=True)
    assert given[0] - given[-1] <= 1


@quick
@given(layers, totals, minima)
def test_every_layer_gets_the_minimum_where_the_places_suffice(layers, total, minimum):
    weights, available = zip(*layers, strict=True)
    least = [min(minimum, most) for most in available]
    given = allocate(weights, available, total, minimum)
    if sum(least) <= total:
        assert all(own >= low for own, low in zip(given, least, strict=True))


@quick
@given(layers, totals, st.sampled_from([0.25, 2.0, 1024.0]))
def test_only_proportions_of_weights_count(layers, total, factor):
    weights, available = zip(*layers, strict=True)
    scaled = [w * factor for w in weights]
    assert allocate(scaled, available, total) == allocate(weights, available, total)


@pytest.mark.parametrize(
    ("weights", "available", "total", "minimum", "given"),
    [
        ([3, 1, 0], [8, 8, 8], 6, 0, [5, 1, 0]),
        ([2, 1, 1], [8, 8, 8], 8, 0, [4, 2, 2]),
        # The full layer's surplus goes to the others in proportion.
        ([8, 1, 1], [2, 8, 8], 8, 0, [2, 3, 3]),
        # Weightless layers share only what the others cannot use.
        ([1, 0, 0], [2, 8, 8], 7, 0, [2, 3, 2]),
        # A negative weight is no weight.
        ([1, -5], [9, 9], 4, 0, [4, 0]),
        ([0, 0, 0], [8, 8, 8], 4, 0, [2, 1, 1]),
        ([9, 1, 0], [8, 8, 8], 6, 1, [4, 1, 1]),
        # Fewer places than the minimum takes: importance alone decides.
        ([9, 1, 0], [8, 8, 8], 2, 1, [2, 0, 0]),
        ([1, 1], [0, 3], 2, 1, [0, 2]),
        ([1, 1], [2, 3], 99, 0, [2, 3]),
        ([1, 1], [2, 3], 0, 0, [0, 0]),
        ([], [], 4, 0, []),
    ],
)
def test_worked_examples(weights, available, total, minimum, given):
    assert allocate([float(w) for w in weights], available, total, minimum) == given


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(weight):
    with pytest.raises(CircuitError, match="^a layer's weight is not finite"):
        allocate([1.0, weight], [3, 3], 2)


@pytest.mark.parametrize("name", ["heads", "neurons"])
@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_a_share_outside_its_bounds_is_refused(name, share):
    with pytest.raises(CircuitError, match=rf"^budget: {name} is a share and must lie above 0"):
        Budget(**{name: share})


def test_a_negative_minimum_is_refused():
    with pytest.raises(CircuitError, match=r"^budget: min_per_layer is -1; give 0 or more$"):
        Budget(min_per_layer=-1)


@pytest.mark.parametrize(
    ("budget", "heads", "neurons"),
    [
        (Budget(), 134, 11468),
        (Budget(1.0, 1.0), 672, 229376),
        (Budget(1e-9, 1e-9), 1, 1),
        (Budget(0.5, 0.0001), 336, 22),
    ],
)
def test_shares_are_counted_of_a_model_of_three_billion(budget, heads, neurons):
    assert budget.counts(28 * 24, 28 * 8192) == (heads, neurons)


def test_so_many_percent_of_a_hundred_are_so_many():
    # 0.29 * 100 and its like are not whole numbers in binary.
    for percent in range(1, 101):
        share = percent / 100
        assert Budget(share, share).counts(100, 1000) == (percent, 10 * percent)
