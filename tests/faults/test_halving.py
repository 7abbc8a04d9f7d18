"""Work that does not fit into memory is done in halves, with the same result."""

import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from faults.work import WORK, replies, what_it_needs
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from circuits.errors import ModelError
from circuits.models.load import wrap_model
from circuits.models.memory import counted, halving
from circuits.names import hook
from circuits.records import Record

ERRORS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    "Windows": RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"
    ),
    "Python": MemoryError(),
}


@contextmanager
def room_for(
    model: Any, tokens: float = torch.inf, error: Exception = ERRORS["CUDA"]
) -> Iterator[list[int]]:
    """Every pass of more tokens fails, half way through its layers; the sizes that were tried."""
    tried: list[int] = []

    def allocate(activation: Tensor, hook: object) -> None:
        size = activation.shape[0] * activation.shape[1]
        tried.append(size)
        if size > tokens:
            raise error

    with model.hooks(fwd_hooks=[(hook("resid_mid", model.cfg.n_layers - 1), allocate)]):
        yield tried


@pytest.fixture(scope="module")
def given(tokenizer, contexts) -> Any:
    """Of a model of which sums in another order differ in the last digits only."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = wrap_model(LlamaForCausalLM(config).double(), tokenizer, name="random-llama")
    for block in model.blocks:
        # TransformerLens rounds the pattern to float32 in every model, and gets NaN where a row of
        # a float64 model is masked throughout.
        block.attn._masked_softmax = lambda scores, dtype=None: scores.softmax(-1)
    return what_it_needs(model, contexts[::3])


def numbers(found: Any) -> list[Any]:
    if isinstance(found, Record):
        return [getattr(found, name) for name in found.axes]
    if isinstance(found, list | tuple):
        return [number for part in found for number in numbers(part)]
    return [found]


@pytest.mark.trial("faults", "memory is short for a batch of: {what}")
@pytest.mark.parametrize("what", WORK)
def test_halves_give_what_the_whole_gives(given, trial, what):
    work = WORK[what]
    with room_for(given.model) as sizes:
        whole = work(given)
    room = int(0.6 * max(sizes))
    with room_for(given.model, room) as tried:
        found = work(given)
    refused = sum(size > room for size in tried)
    assert refused > 0
    for one, other in zip(numbers(found), numbers(whole), strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6, equal_nan=True)
        else:
            assert one == other
    trial(times=refused, outcome="halved; same numbers to 1e-6, same texts")


@pytest.mark.trial("faults", "an allocator of {kind} fails")
@pytest.mark.parametrize("kind", ERRORS)
def test_what_does_not_fit_is_known_by_every_allocators_words(given, trial, kind):
    with counted() as plainly:
        whole = replies(given)
    with room_for(given.model, 200, ERRORS[kind]) as tried, counted() as receipt:
        assert replies(given) == whole
    assert max(tried) > 200
    assert receipt.passes == plainly.passes  # passes that failed are on no receipt
    trial(times=1, outcome="halved; same texts")


@pytest.mark.trial("faults", "memory is short for a single prompt")
def test_one_prompt_that_does_not_fit_is_named_with_its_size_and_what_to_do(given, trial):
    names = ("replies", "likelihoods of replies", "the sweep over prompts")
    for name in names:
        with (
            room_for(given.model, 20),
            pytest.raises(ModelError, match=r"alone does not fit.*--memory") as caught,
        ):
            WORK[name](given)
        assert re.search(r"^[a-z]+_00__|^a prompt of \d+ tokens", str(caught.value))
    trial(times=len(names), outcome="ModelError with the prompt and what to do")


def test_other_errors_are_not_taken_for_a_lack_of_memory(given):
    error = RuntimeError("shapes do not match")
    with room_for(given.model, 200, error) as tried, pytest.raises(RuntimeError, match="shapes do"):
        replies(given)
    assert len(tried) == 1


def test_parts_are_in_order_and_together_the_whole():
    sizes = []

    def work(some):
        sizes.append(len(some))
        if len(some) > 3:
            raise MemoryError
        return list(some)

    assert sum(halving(work, list(range(11)), str), []) == list(range(11))
    assert sizes[:3] == [11, 5, 2]


def test_tensors_of_a_try_that_failed_are_gone_before_the_next(given):
    held: list[Any] = []

    def work(some):
        assert not any(reference() is not None for reference in held)
        values = torch.zeros(len(some), 3)
        held.append(weakref.ref(values))
        if len(some) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float(values.sum())

    assert halving(work, range(4), str) == [0.0] * 4
