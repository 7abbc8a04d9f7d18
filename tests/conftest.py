"""Models and contexts for the tests: the embedded model, and tiny random ones without network."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import settings
from plot import samples as plot_samples
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from circuits.circuit.find import Measurements
from circuits.effects.activations import (
    Activations,
    ContextGroups,
    component_means,
    differences,
    group_by_context,
    read_activations,
)
from circuits.effects.directions import Directions, emotion_directions
from circuits.effects.heads import head_effects
from circuits.effects.importance import sublayer_importance
from circuits.effects.neurons import direct_effects, neuron_effects
from circuits.files import shipped
from circuits.judges.judge import Verdict
from circuits.judges.replies import Reply
from circuits.models import load as loading
from circuits.models.protocol import Model
from circuits.names import EMOTIONS
from circuits.patching.totals import total_estimates
from circuits.prompts import sev
from circuits.prompts.templates import emotion_prompts
from circuits.provenance import Provenance

pytest_plugins = ["trials", "kinds", "sharing"]

# The same examples each time, on a slow machine too; `--hypothesis-profile=default` draws others.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# One, or as many as `make test THREADS=2` says.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def samples() -> ModuleType:
    """Made-up results for figures and pages."""
    return plot_samples


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the reference data (../shared) are not here")
    return folder


@pytest.fixture(scope="session")
def mini() -> Model:
    """The embedded model."""
    return loading.load_model(shipped("sev-mini"))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The embedded model's tokenizer, for models that have none."""
    return AutoTokenizer.from_pretrained(shipped("sev-mini"))


@pytest.fixture(scope="session")
def llama(tokenizer: Any) -> Model:
    """A random grouped-query Llama whose weights are large enough for effects to be visible."""
    return random_llama(tokenizer)


@pytest.fixture(scope="session")
def make_llama() -> Any:
    """The builder of tiny random models, for tests that need one of their own."""
    return random_llama


def random_llama(tokenizer: Any, *, seed: int = 0, n_layers: int = 3) -> Model:
    """A tiny random Llama with grouped-query attention."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return loading.wrap_model(LlamaForCausalLM(config), tokenizer, name="random-llama")


@pytest.fixture(scope="session")
def contexts() -> tuple[sev.Context, ...]:
    """Twelve contexts of four themes."""
    scenarios = sev.read(shipped("sev/train.jsonl"))
    return sev.contexts(sev.spread(scenarios, 4))


@pytest.fixture(scope="session")
def grid(contexts: tuple[sev.Context, ...]) -> ContextGroups:
    """All contexts with all emotions, two cells missing."""
    replies = [Reply(p, "Fine.", 2, p.emotion or "") for p in emotion_prompts(contexts)]
    return group_by_context([r for i, r in enumerate(replies) if i not in (3, 40)], EMOTIONS)


@pytest.fixture(scope="session")
def swept(llama: Model, grid: ContextGroups) -> Activations:
    """One pass of the random model over the grid."""
    return read_activations(llama, grid)


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    """A provenance with nothing in it."""
    return Provenance()


@pytest.fixture(scope="session")
def directions(swept: Activations) -> Directions:
    """Directions of the random model."""
    return emotion_directions(swept)


@pytest.fixture(scope="session")
def measured(
    llama: Model,
    swept: Activations,
    grid: ContextGroups,
    contexts: tuple[sev.Context, ...],
    directions: Directions,
) -> Measurements:
    """All that circuits of the random model are made from."""
    importance, _ = sublayer_importance(llama, grid, directions, stable=(1, 2), doses=(0.1,))
    between = differences(component_means(swept))
    return Measurements(
        importance,
        head_effects(llama, swept, directions),
        neuron_effects(llama, swept, directions),
        direct_effects(llama, between, directions, importance.reference),
        total_estimates(llama, contexts, importance, (6, 14)),
    )


class WordJudge:
    """Hears an emotion where its name is written; for tests only."""

    name = "word"

    def judge(self, texts: Any, emotions: Any) -> list[Verdict]:
        """Match where the target emotion's name occurs."""
        return [
            Verdict(emotion in text, emotion if emotion in text else "neutral", "by name")
            for text, emotion in zip(texts, emotions, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Nothing to set."""
        return {}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless browser per test file."""
    names = ("chromium", "chromium-browser", "google-chrome")
    command = next((found for name in names if (found := shutil.which(name))), None)
    if command is None:
        pytest.skip("needs chromium; apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip)")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=command, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()
