"""Everything once, from texts to records, on the embedded model."""

from typing import Any

import pytest
import torch

from circuits.judges.replies import Reply
from circuits.models.memory import counted
from circuits.models.protocol import Model
from circuits.neurons.adaptive import Schedule, adaptive_masking
from circuits.neurons.mask import KINDS, Mask
from circuits.neurons.profile import Profile, profile_texts
from circuits.neurons.select import Selection, select_neurons
from circuits.neurons.steer import add_class_means, cross_signal
from circuits.neurons.study import mask_effects, range_sweep
from circuits.prompts.prompt import EMOTION_REQUEST, LabelledSet, LabelledText, Split, Texts
from circuits.prompts.templates import neutral_prompts

HOW: dict[str, Any] = {"per_label": 2, "draws": 2}
SAID = {
    "anger": "I am furious that {} again, how dare they!",
    "fear": "I was trembling and terrified because {} again.",
    "happiness": "What a joy, I am so glad that {} again!",
}
EVENTS = (
    "the door was left open", "the neighbours called", "my brother came home", "the train was late",
    "they sold the house", "it rained all day",
)  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> LabelledSet:
    def split(name: Split, events: tuple[str, ...]) -> Texts:
        rows = [LabelledText(said.format(e), label) for label, said in SAID.items() for e in events]
        return Texts(name, tuple(SAID), tuple(rows))

    return LabelledSet(
        "said", EMOTION_REQUEST, split("train", EVENTS[:2]), split("dev", EVENTS[2:4]),
        split("test", EVENTS[4:]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def profile(mini: Model, texts: LabelledSet) -> Profile:
    return profile_texts(mini, texts.train, EMOTION_REQUEST, n_shuffles=1)


@pytest.fixture(scope="module")
def selection(profile: Profile) -> Selection:
    return select_neurons(profile, "mad", share=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_every_mask_is_measured(mini, texts, selection, profile, contexts, kind):
    neutral = [Reply(prompt, "I see.", 2, "neutral") for prompt in neutral_prompts(contexts[:2])]
    mask = Mask(kind, 0.5)
    found = mask_effects(mini, texts, selection, profile, mask, neutral, **HOW)
    assert found.n_neurons.tolist() == [47] * 3
    assert found.n_texts.tolist() == [2] * 3
    assert bool((found.log_change != 0).all())
    assert bool((found.low <= found.change).all() and (found.change <= found.high).all())
    assert bool(found.perplexity_ratio.isnan().all()) == (kind == "resample")


def test_the_request_is_read_once_per_mask(mini, texts, selection, profile, contexts):
    neutral = [Reply(neutral_prompts(contexts[:1])[0], "I see.", 2, "neutral")]
    with counted() as receipt:
        mask_effects(mini, texts, selection, profile, Mask(), neutral, **HOW)
    # As it is, three masks, six random sets; and one reply, which each of these reads as well.
    assert receipt.passes == 10 + 10


def test_the_loop_the_sweep_and_the_signals_run(mini, texts, selection, profile):
    parts = mini, texts, selection, profile
    grown = adaptive_masking(*parts, schedule=Schedule(steps=2), **HOW)
    assert grown.trajectory.shape == (3, 2)
    swept = range_sweep(*parts, Mask(), shares=(0.5,), **HOW)
    assert torch.equal(swept.n_neurons[:, :3].sum(1), swept.n_neurons[:, 3])
    added = add_class_means(*parts, doses=(0.0, 2.0), **HOW)
    assert added.rate.shape == (3, 2)
    crossed = cross_signal(*parts, doses=(0.5,), **HOW)
    assert crossed.dose.unique().tolist() == [0.5]
