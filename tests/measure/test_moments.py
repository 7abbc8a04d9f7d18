import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.effects.activations import Moments

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def batched(values, groups, n_groups, cuts):
    moments = Moments((n_groups, *values.shape[1:]))
    edges = [0, *sorted(cuts), len(values)]
    for start, stop in zip(edges, edges[1:], strict=False):
        moments.update(values[start:stop], groups[start:stop])
    return moments.result()


@quick
@given(seeds, st.integers(2, 40), st.lists(st.integers(0, 40), max_size=5), st.floats(-1e4, 1e4))
def test_any_batching_gives_the_mean_and_error_of_the_whole(seed, n, cuts, offset):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, 2, 3, generator=generator, dtype=torch.float64) + offset
    groups = torch.randint(0, 3, (n,), generator=generator)
    found = batched(values, groups, 3, [min(cut, n) for cut in cuts])
    for group in range(3):
        rows = values[groups == group].numpy()
        assert found.count[group] == len(rows)
        if len(rows) > 0:
            np.testing.assert_allclose(found.mean[group], rows.mean(0), rtol=1e-5, atol=1e-5)
        if len(rows) > 1:
            stderr = rows.std(0, ddof=1) / len(rows) ** 0.5
            np.testing.assert_allclose(found.stderr[group], stderr, rtol=1e-4, atol=1e-7)


def test_a_group_without_rows_has_neither():
    found = batched(torch.tensor([[5.0], [7.0]]), torch.tensor([1, 1]), 2, [])
    assert found.count.tolist() == [0, 2]
    assert found.mean[0].isnan().all()
    assert found.stderr[0].isnan().all()


def test_equal_rows_have_no_spread_even_far_from_zero():
    found = batched(torch.full((9, 1), 1e6), torch.zeros(9, dtype=torch.long), 1, [2, 5])
    assert found.mean.tolist() == [[1e6]]
    assert found.stderr.tolist() == [[0.0]]


def test_small_spreads_far_from_zero_are_not_lost():
    near = torch.arange(8, dtype=torch.float64)[:, None]
    groups = torch.zeros(8, dtype=torch.long)
    far = batched(near + 1e9, groups, 1, range(8))
    assert far.stderr.item() == pytest.approx(batched(near, groups, 1, []).stderr.item())


def test_a_result_stays_as_it_was_when_more_rows_come():
    moments = Moments((1, 1))
    moments.update(torch.tensor([[1.0]]), torch.tensor([0]))
    before = moments.result()
    moments.update(torch.tensor([[9.0]]), torch.tensor([0]))
    assert (before.mean.item(), before.count.item()) == (1.0, 1)
    assert (moments.result().mean.item(), moments.result().count.item()) == (5.0, 2)


@quick
@given(seeds, st.integers(1, 30), st.integers(1, 6), st.floats(-1e4, 1e4))
def test_parts_merged_in_any_order_are_one_pass(seed, n, n_parts, offset):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, 2, 3, generator=generator, dtype=torch.float64) + offset
    groups = torch.randint(0, 3, (n,), generator=generator)
    parts = torch.randint(0, n_parts, (n,), generator=generator)
    merged = Moments((3, 2, 3))
    for part in torch.randperm(n_parts, generator=generator).tolist():
        own = Moments((3, 2, 3))
        own.update(values[parts == part], groups[parts == part])
        merged.merge(own)
    whole, found = batched(values, groups, 3, []), merged.result()
    assert torch.equal(found.count, whole.count)
    torch.testing.assert_close(found.mean, whole.mean, equal_nan=True)
    torch.testing.assert_close(found.stderr, whole.stderr, equal_nan=True, rtol=1e-5, atol=1e-7)


def test_merging_with_what_has_seen_nothing_changes_no_bit():
    moments = Moments((2, 3))
    moments.update(torch.rand(5, 3), torch.tensor([0, 0, 1, 1, 1]))
    before = moments.result()
    moments.merge(Moments((2, 3)))
    other = Moments((2, 3))
    other.merge(moments)
    for found in (moments.result(), other.result()):
        assert torch.equal(found.mean, before.mean)
        assert torch.equal(found.stderr, before.stderr)
