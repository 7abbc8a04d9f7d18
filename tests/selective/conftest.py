import dataclasses
import random
from types import ModuleType
from typing import Any

import pytest
import torch
from planted.plant import SelectivePlant, plant_selective
from selective import plain_profile

from circuits.models.protocol import Model
from circuits.names import component
from circuits.neurons.profile import LabelAttribution, Profile, label_attribution, profile_texts
from circuits.neurons.select import Selection, select_neurons
from circuits.prompts.prompt import EMOTION_REQUEST, SPLITS, LabelledSet, LabelledText, Split, Texts

WORDS = ("door", "river", "cat", "late", "train", "letter", "storm", "bread", "they", "ran")
CUES = {"anger": ("furious", "shouted"), "fear": ("afraid", "hid"), "sadness": ("wept", "lonely")}


@pytest.fixture(scope="session")
def plainly() -> ModuleType:
    """Profiles as a plain, slow procedure."""
    return plain_profile


def some_texts(per_label=(5, 7, 4), *, seed: int = 0, split: Split = "train") -> Texts:
    """Texts of three classes, of many lengths."""
    rng = random.Random(seed)
    rows = []
    for (label, cues), count in zip(CUES.items(), per_label, strict=True):
        for _ in range(count):
            words = [rng.choice(WORDS) for _ in range(rng.randint(2, 12))] + [rng.choice(cues)]
            rng.shuffle(words)
            rows.append(LabelledText(" ".join(words), label))
    return Texts(split, tuple(CUES), tuple(rows))


@pytest.fixture(scope="session")
def make_selection():
    """Builder of a selection of a model with one neuron table, from who is chosen."""

    def make(chosen, labels=None) -> Selection:
        chosen = torch.as_tensor(chosen, dtype=torch.bool)
        chosen = chosen[:, None] if chosen.ndim == 2 else chosen
        layer, neuron = (tuple(range(size)) for size in chosen.shape[1:])
        names = labels or tuple("abcdefg"[: len(chosen)])
        how = "mad", 0.1, "label", "multi"
        return Selection(chosen.double(), chosen, names, layer, neuron, *how)

    return make


@pytest.fixture(scope="session")
def texts() -> Texts:
    return some_texts()


@pytest.fixture(scope="session")
def make_texts():
    """The builder of texts, for tests that need other ones."""
    return some_texts


@pytest.fixture(scope="session")
def profile(llama: Model, texts: Texts) -> Profile:
    """Of the random model."""
    return profile_texts(llama, texts, EMOTION_REQUEST, n_shuffles=3)


@pytest.fixture(scope="session")
def attribution(llama: Model, texts: Texts) -> LabelAttribution:
    return label_attribution(llama, texts, EMOTION_REQUEST)


@pytest.fixture(scope="session")
def planted() -> SelectivePlant:
    """A model of which two neurons for each of three classes are known."""
    return plant_selective(0, labels=tuple(CUES))


@pytest.fixture(scope="session")
def planted_set(planted: SelectivePlant) -> LabelledSet:
    """Texts of its classes."""
    train, dev, test = (
        planted.texts(count, split=split) for count, split in zip((6, 5, 8), SPLITS, strict=True)
    )
    return LabelledSet("planted", EMOTION_REQUEST, train, dev, test)


@pytest.fixture(scope="session")
def planted_profile(planted: SelectivePlant, planted_set: LabelledSet) -> Profile:
    return profile_texts(planted.model, planted_set.train, EMOTION_REQUEST, n_shuffles=1)


@pytest.fixture(scope="session")
def planted_selection(planted: SelectivePlant, planted_profile: Profile) -> Selection:
    """The known neurons of every class."""
    found = select_neurons(planted_profile, "mad", share=0.01)
    chosen = torch.zeros_like(found.chosen)
    for place, names in enumerate(planted.selective):
        for part in map(component, names):
            assert part.layer is not None
            assert part.index is not None
            chosen[place, part.layer, part.index] = True
    return dataclasses.replace(found, chosen=chosen)


@pytest.fixture(scope="session")
def parts(planted: SelectivePlant, planted_set, planted_selection, planted_profile) -> Any:
    """Model, texts, known neurons and profile: what every study takes."""
    return planted.model, planted_set, planted_selection, planted_profile


@pytest.fixture(scope="session")
def no_neurons(parts) -> tuple:
    """The same with no neuron selected for any class."""
    model, texts, selection, profile = parts
    empty = dataclasses.replace(selection, chosen=torch.zeros_like(selection.chosen))
    return model, texts, empty, profile


@pytest.fixture(scope="session")
def foreign(parts) -> tuple:
    """The same with neurons of a class that the texts do not have."""
    model, texts, selection, profile = parts
    return model, texts, dataclasses.replace(selection, label=("anger", "joy", "fear")), profile
