"""One pass: where its values lie and how its batches are cut change no number."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.effects.activations import component_means, mean_stderr, read_activations
from circuits.effects.directions import direction_generality, emotion_directions
from circuits.effects.heads import head_effects
from circuits.effects.neurons import neuron_effects
from circuits.models.generate import batches
from circuits.models.memory import counted
from circuits.models.run import read, reading
from circuits.models.tokens import pad_left
from circuits.running import execution

TINY = 1e-4
"""Gigabytes that hold the values of fewer prompts than the grid has."""


def results(model, swept):
    directions = emotion_directions(swept)
    return [
        directions,
        direction_generality(swept, n_splits=5),
        head_effects(model, swept, directions),
        neuron_effects(model, swept, directions),
        component_means(swept),
    ]


@pytest.fixture(scope="module")
def measured_here(llama, swept):
    return results(llama, swept)


@pytest.mark.parametrize(
    ("how", "where"),
    [({"memory": TINY}, "a temporary file: "), ({"batch_size": 1}, "memory: ")],
    ids=["in a file", "one by one"],
)
def test_neither_a_file_nor_batches_change_a_number(llama, grid, measured_here, how, where):
    with execution(**how), counted() as receipt:
        swept = read_activations(llama, grid)
        found = results(llama, swept)
    assert receipt.passes == len(grid.cells)
    assert swept.stored.startswith(where)
    for one, other in zip(found, measured_here, strict=True):
        for name in one.axes:
            torch.testing.assert_close(
                getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-4, equal_nan=True
            )


def test_where_values_lie_is_said_with_their_size_and_the_budget(swept):
    # Two streams, four heads and 48 neurons in each of three layers, missing cells included.
    assert 4 * 3 * (2 * 32 + 4 * 8 + 48) * 72 == 124_416
    assert swept.stored == "memory: 0.1 MB for 72 prompts, budget 1 GB"


def test_a_missing_cell_is_zero(swept, grid):
    for values in (swept.resid_mid, swept.resid_post, swept.z, swept.post):
        assert values[~grid.present].abs().max() == 0
        assert bool(values[grid.present].flatten(1).any(1).all())


def test_a_small_budget_runs_fewer_prompts_at_once(llama, grid):
    sizes = []
    for memory in (1.0, TINY):
        rows = []
        with execution(memory=memory, progress=rows.append):
            read_activations(llama, grid)
        assert sum(rows) == len(grid.cells)
        sizes.append(max(rows))
    assert sizes[0] == len(grid.cells) > 8 > sizes[1]


def test_what_is_taken_of_an_activation_does_not_hold_all_of_it(llama):
    tokens = pad_left([[1, 2, 3, 4, 5]], torch.device("cpu"))
    with torch.no_grad(), reading(llama, {"post": lambda x: x[:, -1]}) as table:
        read(llama, tokens)
    assert [own.untyped_storage().nbytes() for own in table["post"].values()] == [48 * 4] * 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 7), st.integers(1, 20))
def test_batches_hold_every_row_once_and_no_more_tokens_than_fit(lengths, size, most):
    rows = [[0] * n for n in lengths]
    found = list(batches(rows, size, lambda count, width: count * width <= most))
    assert sorted(i for batch in found for i in batch) == list(range(len(rows)))
    for batch in found:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= most


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(-1e4, 1e4))
def test_mean_and_standard_error_are_those_of_numpy(seed, n, offset):
    rows = torch.randn(n, 2, 3, generator=torch.Generator().manual_seed(seed)) + offset
    mean, stderr = mean_stderr(rows)
    exact = rows.double().numpy()
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(stderr, exact.std(0, ddof=1) / n**0.5, rtol=1e-6)


def test_too_few_rows_have_no_mean_or_no_error():
    for count in (0, 1):
        mean, stderr = mean_stderr(torch.full((count, 2), 1e6))
        assert stderr.isnan().all()
        assert bool(mean.isnan().all()) == (count == 0)
