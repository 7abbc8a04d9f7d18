import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuits.neurons.mask import above, below, corrected, gains, hits, interval
from circuits.running import execution

quick = settings(deadline=None, max_examples=40)

PROBABILITIES = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12)


def some_logs(n_texts: int, n_labels: int, seed: int = 0) -> Tensor:
    return torch.randn(n_texts, n_labels, generator=torch.Generator().manual_seed(seed))


def test_the_interval_contains_the_mean_and_shrinks_with_the_number_of_texts():
    few = gains(some_logs(20, 2), some_logs(20, 2, seed=1), torch.zeros(20, dtype=torch.long))
    many = few.repeat(25)
    (low, high), (lower, higher) = interval(few), interval(many)
    assert low <= few.mean() <= high
    assert low < lower < few.mean() < higher < high
    # Of a mean of n values: 1.96 standard errors to either side.
    width = 2 * 1.96 * float(many.std() / len(many) ** 0.5)
    assert float(higher - lower) == pytest.approx(width, rel=0.1)


def test_the_interval_of_a_class_is_that_of_its_own_texts():
    truth = torch.tensor([0, 1] * 10)
    values = torch.where(truth == 0, 5.0, torch.arange(20.0))
    with execution(seed=3):
        low, high = interval(values[None], truth, 2)
    assert low.shape == high.shape == (1, 2)
    assert (float(low[0, 0]), float(high[0, 0])) == (5.0, 5.0)
    assert float(low[0, 1]) < float(values[truth == 1].mean()) < float(high[0, 1])


def test_the_paired_interval_is_narrower_than_that_of_two_separate_samples():
    truth = torch.zeros(200, dtype=torch.long)
    base = some_logs(200, 2)
    masked = base.clone()
    masked[:10] = base[:10].flip(-1)
    low, high = interval(gains(masked, base, truth))
    alone = [100.0 * hits(logs, truth).double() for logs in (base, masked)]
    ends = [interval(values) for values in alone]
    assert float(high - low) < 0.6 * min(float(own[1] - own[0]) for own in ends)


@quick
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.floats(-100, 100))
def test_a_p_value_is_never_zero_and_counts_ties(draws: list[float], observed: float):
    random = torch.tensor(draws, dtype=torch.float64)
    value = torch.tensor(observed, dtype=torch.float64)
    low = sum(draw <= observed + 1e-6 for draw in draws)
    assert float(below(value, random)) == pytest.approx((1 + low) / (1 + len(draws)))
    assert 0 < float(above(value, random)) <= 1
    assert float(below(value, random) + above(value, random)) > 1


def test_p_values_of_draws_like_the_rest_are_uniform():
    draws = torch.randn(20, 2000, generator=torch.Generator().manual_seed(0))
    p = below(draws[0], draws[1:])
    expected = torch.full((20,), 100.0)
    found = torch.bincount((p * 20).round().long() - 1, minlength=20).double()
    # Chi-squared with 19 degrees of freedom: 43.8 is exceeded once in a thousand.
    assert float(((found - expected) ** 2 / expected).sum()) < 43.8


@quick
@given(PROBABILITIES)
def test_correction_is_that_of_benjamini_and_hochberg(p: list[float]):
    order = sorted(range(len(p)), key=lambda i: -p[i])
    lowest, wanted = 1.0, [0.0] * len(p)
    for rank, place in zip(range(len(p), 0, -1), order, strict=True):
        lowest = min(lowest, p[place] * len(p) / rank)
        wanted[place] = lowest
    found = corrected(torch.tensor(p, dtype=torch.float64))
    assert found.tolist() == pytest.approx(wanted)
    assert corrected(torch.tensor(p)[None]).shape == (1, len(p))
