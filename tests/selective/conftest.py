import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

from circuits.data.prompts import EMOTION_REQUEST
from circuits.data.texts import LabelledText, Split, Texts
from circuits.model.protocol import Model
from circuits.provenance import Provenance
from circuits.selective.profile import Profile, profile_texts

WORDS = ("door", "river", "cat", "late", "train", "letter", "storm", "bread", "they", "ran")
CUES = {"anger": ("furious", "shouted"), "fear": ("afraid", "hid"), "sadness": ("wept", "lonely")}


@pytest.fixture(scope="session")
def plainly() -> ModuleType:
    """``plain_profile.py``; test folders are not packages, so it is loaded by path."""
    path = Path(__file__).parent / "plain_profile.py"
    spec = importlib.util.spec_from_file_location("plain_profile", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
def texts() -> Texts:
    return some_texts()


@pytest.fixture(scope="session")
def make_texts():
    """The builder of texts, for tests that need other ones."""
    return some_texts


@pytest.fixture(scope="session")
def profile(llama: Model, texts: Texts) -> Profile:
    """Of the random model."""
    return profile_texts(llama, texts, EMOTION_REQUEST, Provenance(), n_shuffles=3)
