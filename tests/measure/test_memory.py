"""The memory budget: kept or made again, the numbers are the same, and nothing grows."""

import gc
from dataclasses import fields, is_dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.effects.activations import (
    SecondPass,
    cache_decision,
    component_means,
    group_by_context,
    read_activations,
)
from circuits.effects.directions import GeneralityPass, direction_generality, emotion_directions
from circuits.effects.heads import HeadPass, head_effects
from circuits.effects.importance import sublayer_importance
from circuits.files import shipped
from circuits.judges.replies import Reply
from circuits.models.generate import batches
from circuits.models.memory import counted
from circuits.models.run import read, reading
from circuits.models.tokens import pad_left
from circuits.names import EMOTIONS
from circuits.prompts import sev
from circuits.prompts.templates import emotion_prompts
from circuits.running import execution

TINY = 1e-4
"""Gigabytes that hold the values of fewer prompts than the grid has."""

BYTES_KEPT = 4 * 3 * (2 * 32 + 4 * 8)
"""Of one prompt: float32, three layers, two streams and four heads."""


def grid_of(contexts):
    replies = [Reply(p, "Fine.", 2, p.emotion or "") for p in emotion_prompts(contexts)]
    return group_by_context(replies, EMOTIONS)


def results(model, swept):
    directions = emotion_directions(swept)
    return [
        directions,
        direction_generality(swept, n_splits=5),
        head_effects(model, swept, directions),
        component_means(swept),
    ]


def test_values_made_again_give_the_numbers_of_kept_ones(llama, grid):
    with execution(batch_size=6):
        kept = read_activations(llama, grid)
    with execution(batch_size=6, memory=TINY):
        again = read_activations(llama, grid)
    assert (kept.keeping.kept, again.keeping.kept) == (True, False)
    pairs = zip(results(llama, kept), results(llama, again), strict=True)
    for one, other in pairs:
        for name in one.axes:
            torch.testing.assert_close(
                getattr(one, name), getattr(other, name), rtol=1e-6, atol=0, equal_nan=True
            )


@pytest.mark.parametrize("post_norm", [False, True])
def test_batches_do_not_change_head_effects(llama, swept, grid, directions, post_norm):
    readout = "post_norm" if post_norm else "resid_mid"
    with execution(batch_size=1):
        alone = read_activations(llama, grid)
    one = head_effects(llama, alone, directions, readout=readout)
    other = head_effects(llama, swept, directions, readout=readout)
    for name in ("mean", "stderr", "centred", "centred_stderr", "baseline", "random_baseline"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-4)


def test_kept_values_cost_no_pass_and_others_one_pass_per_look(llama, grid, directions):
    for memory, times in ((1.0, 0), (TINY, 1)):
        with execution(memory=memory), counted() as first:
            swept = read_activations(llama, grid)
        with counted() as second:
            head_effects(llama, swept, directions)
        assert first.passes == len(grid.cells)
        assert second.passes == times * len(grid.cells)


def held(result, seen=None):
    """Bytes of the tensors that can be reached from a result; the model's weights are not its."""
    seen = set() if seen is None else seen
    if isinstance(result, torch.Tensor):
        storage = result.untyped_storage()
        new = storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        return storage.nbytes() if new else 0
    if isinstance(result, SecondPass):
        return 0
    if isinstance(result, dict):
        return sum(held(value, seen) for value in result.values())
    if isinstance(result, tuple | list):
        return sum(held(value, seen) for value in result)
    if is_dataclass(result):
        return sum(held(getattr(result, field.name), seen) for field in fields(result))
    return 0


def live():
    """Bytes of all tensors that are alive."""
    gc.collect()
    # Not isinstance, which asks every object for its class and so wakes lazy modules.
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class Watch:
    """Notes how many bytes are alive once all of ``total`` is done, more than at the start."""

    def __init__(self, total):
        self.start, self.left, self.more = live(), total, 0

    def __call__(self, finished):
        self.left -= finished
        if not self.left:
            self.more = live() - self.start


@pytest.fixture(scope="module")
def few_and_many():
    """Grids of 12 and of 48 contexts of the same eight themes."""
    contexts = sev.contexts(sev.spread(sev.read(shipped("sev/train.jsonl")), 16))
    few, many = grid_of(contexts[::4]), grid_of(contexts)
    assert len(many.cells) == 4 * len(few.cells) == 288
    assert len(few.themes.theme) == len(many.themes.theme) == 8
    return few, many


def test_what_a_sweep_holds_does_not_grow_with_the_number_of_prompts(llama, few_and_many):
    after, meanwhile = [], []
    for grid in few_and_many:
        watch = Watch(len(grid.cells))
        with execution(memory=TINY, batch_size=6, progress=watch):
            swept = read_activations(llama, grid)
        after.append(held(swept))
        meanwhile.append(watch.more)
    more = len(few_and_many[1].contexts) - len(few_and_many[0].contexts)
    # A flag per cell stays of a prompt; a place of 8 bytes per cell, for shuffling, meanwhile.
    assert after[1] - after[0] == more * len(EMOTIONS)
    assert abs(meanwhile[1] - meanwhile[0]) <= more * len(EMOTIONS) * (1 + 8) + 2048
    with execution(batch_size=6):
        kept = [held(read_activations(llama, grid)) for grid in few_and_many]
    assert kept[1] - kept[0] > more * len(EMOTIONS) * BYTES_KEPT


def test_what_effects_and_generality_hold_does_not_grow_either(llama, few_and_many, directions):
    def more(grid):
        with execution(memory=TINY, batch_size=6):
            swept = read_activations(llama, grid)
        watch = Watch(len(grid.contexts))
        looks = HeadPass(llama, swept, directions), GeneralityPass(swept, n_splits=5)
        for batch in swept.values:
            for look in looks:
                look.update(batch)
            watch(len(batch.places))
        assert all(look.result() for look in looks)
        return watch.more

    few, many = map(more, few_and_many)
    assert many > 100_000
    assert abs(many - few) <= 4096


def test_kept_values_grow_and_are_counted_before_they_are_made(llama, contexts):
    grid = grid_of(contexts)
    swept = read_activations(llama, grid)
    values = [(b.resid_mid, b.resid_post, b.z) for b in swept.values]
    assert held(values) == len(grid.cells) * BYTES_KEPT
    bound = 2 * len(grid.cells) * BYTES_KEPT / 1e9
    with execution(memory=bound):
        assert cache_decision(llama, len(grid.cells)).kept
    with execution(memory=0.999 * bound):
        assert not cache_decision(llama, len(grid.cells)).kept


def test_the_reason_names_what_was_needed_and_what_there_was(llama):
    assert cache_decision(llama, 1000).reason == (
        "kept: values of 1000 prompts at the position that is read take 1.2 MB, "
        "at most 500.0 MB, half of the budget of 1 GB"
    )
    with execution(memory=0.001):
        assert cache_decision(llama, 1000).reason.startswith("made again by a second pass: ")


def test_a_small_budget_runs_fewer_prompts_at_once(llama, grid):
    sizes = []
    for memory in (1.0, TINY):
        rows = []
        with execution(memory=memory, progress=rows.append):
            read_activations(llama, grid)
        assert sum(rows) == len(grid.cells)
        sizes.append(max(rows))
    assert sizes == [len(grid.cells), 6]


def test_what_is_taken_of_an_activation_does_not_hold_all_of_it(llama):
    tokens = pad_left([[1, 2, 3, 4, 5]], torch.device("cpu"))
    whole: list[int] = []

    def last(activation):
        whole.append(activation.nbytes)
        return activation[:, -1]

    with torch.no_grad(), reading(llama, {"post": last}) as table:
        read(llama, tokens)
    assert whole == [5 * 48 * 4] * 3
    assert held(table) == 3 * 48 * 4


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 7), st.integers(1, 20))
def test_batches_hold_every_row_once_and_no_more_tokens_than_fit(lengths, size, most):
    rows = [[0] * n for n in lengths]
    found = list(batches(rows, size, lambda count, width: count * width <= most))
    assert sorted(i for batch in found for i in batch) == list(range(len(rows)))
    for batch in found:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= most


def test_importance_holds_sums_only(llama, directions, few_and_many):
    found = []
    for grid in few_and_many:
        watch = Watch(len(grid.contexts))
        with execution(progress=watch):
            sublayer_importance(llama, grid, directions, stable=(1, 2), doses=(0.1,), n_random=2)
        found.append(watch.more)
    assert found[0] > 1000
    assert abs(found[1] - found[0]) <= 4096
