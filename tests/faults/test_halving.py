"""Work that does not fit into memory is done in halves, with the same result."""

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from circuits.circuit.ablate import Masks, begin_neutral, run_added, run_circuits, stand
from circuits.effects.activations import group_by_context, read_activations
from circuits.effects.directions import emotion_directions, own_differences
from circuits.effects.importance import sublayer_importance
from circuits.effects.inspection import trace_scale
from circuits.errors import ModelError
from circuits.judges.replies import Reply
from circuits.models.edits import Add, by_row
from circuits.models.generate import choice_logs, elicit, reply_losses
from circuits.models.load import wrap_model
from circuits.models.memory import counted, halving
from circuits.names import EMOTIONS, hook
from circuits.neurons.mask import donor_values
from circuits.neurons.profile import label_attribution, profile_texts
from circuits.patching.attribution import attribute
from circuits.patching.pairs import LogitDifference, Projection, make_pairs
from circuits.patching.patch import patch_components, patch_heads, patch_sites
from circuits.patching.paths import exact_paths, path_effects
from circuits.patching.totals import total_estimates
from circuits.prompts.prompt import EMOTION_REQUEST, LabelledText, Texts
from circuits.prompts.templates import emotion_prompts, neutral_prompts
from circuits.records import Record
from circuits.steering.interventions import residuals

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
def double(tokenizer) -> Any:
    """Of which sums in another order differ in the last digits only."""
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
    return model


@pytest.fixture(scope="module")
def texts() -> Texts:
    words = ("They shouted at the door.", "She hid.", "He wept by the river, late.", "They ran.")
    labels = ("anger", "fear", "sadness")
    rows = [LabelledText(f"{word} {label}", label) for label in labels for word in words]
    return Texts("train", labels, tuple(rows))


@pytest.fixture(scope="module")
def given(double, contexts, texts) -> SimpleNamespace:
    """What the pieces of work are about."""
    replies = [Reply(p, "Fine.", 2, p.emotion or "") for p in emotion_prompts(contexts[:4])]
    grid = group_by_context(replies, EMOTIONS)
    pairs = make_pairs(double, contexts[:3], "anger", "fear")
    cfg, random = double.cfg, torch.Generator().manual_seed(1)
    heads = torch.rand(9, cfg.n_layers, cfg.n_heads, generator=random) < 0.4
    neurons = torch.rand(9, cfg.n_layers, cfg.d_mlp, generator=random) < 0.3
    directions = emotion_directions(read_activations(double, grid))
    importance, _ = sublayer_importance(
        double, grid, directions, stable=(1,), doses=(0.1,), n_random=2
    )
    return SimpleNamespace(
        model=double,
        contexts=contexts,
        grid=grid,
        texts=texts,
        pairs=pairs,
        masks=Masks(heads, neurons),
        directions=directions,
        importance=importance,
        begun=begin_neutral(double, contexts[:2]),
        readout=LogitDifference(torch.tensor([5, 9]), torch.tensor([100, 200])),
        projection=Projection(importance.reference[0]),
    )


def written(given, **options) -> list[str]:
    prompts = emotion_prompts(given.contexts[:6], ("anger",))
    replies = elicit(given.model, prompts, max_new_tokens=5, **options)
    return [reply.text for reply in replies]


def edits_by_row(given) -> Any:
    random = torch.Generator().manual_seed(2)
    width = given.model.cfg.d_model
    groups = [[Add("mlp_out", 0, torch.randn(width, generator=random))] for _ in range(6)]
    return lambda places: by_row(groups, [place % 6 for place in places])


def added(given) -> Tensor:
    cfg = given.model.cfg
    z, post = torch.ones(cfg.n_layers, cfg.n_heads, cfg.d_head), torch.ones(cfg.n_layers, cfg.d_mlp)
    return run_added(given.model, given.begun, given.masks, z, post, [given.projection])


def circuits(given) -> Tensor:
    on = stand(given.model, given.pairs[:2], positions="matched")
    return run_circuits(on, given.masks, [given.projection])


def losses(given) -> Tensor:
    prompts = neutral_prompts(given.contexts[:6])
    return reply_losses(given.model, prompts, [f"How nice, {i}." for i in range(6)])


CHOSEN = torch.arange(2 * 48).reshape(2, 48) % 5 == 0
EDGES = [("L0H1", "L1H2.q"), ("L0.mlp", "L1.mlp"), ("L0H3", "readout")]
WORK: dict[str, Callable[[Any], Any]] = {
    "replies": lambda g: written(g),
    "replies under edits of their own": lambda g: written(g, edits=edits_by_row(g)),
    "likelihoods of labels": lambda g: choice_logs(
        g.model, neutral_prompts(g.contexts[:6]), ["Fine", "Oh no"]
    ),
    "likelihoods of replies": losses,
    "activations of donors": lambda g: donor_values(
        g.model, neutral_prompts(g.contexts[:6]), CHOSEN
    ),
    "residual streams": lambda g: residuals(g.model, g.contexts[:2], EMOTIONS[:3]),
    "a model's own differences": lambda g: own_differences(g.model, g.contexts[:2], EMOTIONS[:3]),
    "the sweep over prompts": lambda g: emotion_directions(read_activations(g.model, g.grid)),
    "injections": lambda g: sublayer_importance(
        g.model, g.grid, g.directions, stable=(1,), doses=(0.1,)
    ),
    "the scale of traces": lambda g: trace_scale(g.model, g.contexts[:2], g.directions),
    "attribution": lambda g: attribute(g.pairs, g.readout, sample=2),
    "patched sites": lambda g: patch_sites(g.pairs, g.readout),
    "patched heads": lambda g: patch_heads(g.pairs, g.readout, by="all"),
    "patched parts": lambda g: patch_components(g.pairs, g.readout, ["L0H1", "L1H2", "L0.mlp"]),
    "paths": lambda g: path_effects(g.pairs, g.readout),
    "exact paths": lambda g: exact_paths(g.pairs, g.readout, EDGES),
    "circuits": circuits,
    "added to sets": added,
    "total effects": lambda g: total_estimates(g.model, g.contexts[:2], g.importance, (3, 9)),
    "attribution of labels": lambda g: label_attribution(g.model, g.texts, EMOTION_REQUEST),
    "the profile of texts": lambda g: profile_texts(
        g.model, g.texts, EMOTION_REQUEST, n_shuffles=3
    ),
}


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
    prompts = emotion_prompts(given.contexts[:6], ("anger",))
    whole = elicit(given.model, prompts, max_new_tokens=3)
    with room_for(given.model, 200, ERRORS[kind]) as tried:
        assert elicit(given.model, prompts, max_new_tokens=3) == whole
    assert max(tried) > 200
    trial(times=1, outcome="halved; same texts")


@pytest.mark.trial("faults", "memory is short for a single prompt")
def test_one_prompt_that_does_not_fit_is_named_with_its_size_and_what_to_do(given, trial):
    for work in (written, losses, lambda given: read_activations(given.model, given.grid)):
        with (
            room_for(given.model, 20),
            pytest.raises(ModelError, match=r"alone does not fit.*--memory") as caught,
        ):
            work(given)
        assert re.search(r"^[a-z]+_00__|^a prompt of \d+ tokens", str(caught.value))
    trial(times=3, outcome="ModelError with the prompt and what to do")


def test_other_errors_are_not_taken_for_a_lack_of_memory(given):
    with (
        room_for(given.model, 200, RuntimeError("shapes do not match")) as tried,
        pytest.raises(RuntimeError, match="shapes do not match"),
    ):
        written(given)
    assert len(tried) == 1


def test_passes_that_failed_are_on_no_receipt(given):
    prompts = emotion_prompts(given.contexts[:4], ("anger",))
    with counted() as plainly:
        elicit(given.model, prompts, max_new_tokens=1)
    with counted() as receipt, room_for(given.model, 200) as tried:
        elicit(given.model, prompts, max_new_tokens=1)
    assert any(size > 200 for size in tried)
    assert receipt.passes == plainly.passes == len(prompts)


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
