"""Every model twice: as the bridge of TransformerLens 3.9, and as its HookedTransformer."""

from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import transformers
from hooked import hooked_transformer
from torch import Tensor

from circuits.effects.activations import (
    Activations,
    ContextGroups,
    Differences,
    component_means,
    differences,
    group_by_context,
    read_activations,
)
from circuits.effects.directions import Directions, emotion_directions
from circuits.effects.importance import Importance, sublayer_importance
from circuits.files import shipped
from circuits.judges.replies import Reply
from circuits.models import load as loading
from circuits.models.protocol import Model
from circuits.patching.pairs import CleanCorrupt, Projection, make_pairs
from circuits.patching.totals import TotalEstimates, total_estimates
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompts
from circuits.provenance import Provenance

EMOTIONS = ("anger", "fear")
HAS_IT = find_spec("transformer_lens.HookedTransformer") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "tl3" and not HAS_IT:
            item.add_marker(pytest.mark.skip(reason="needs TransformerLens 3.9: make test-tl3"))


def sev_mini() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(shipped("sev-mini"))


def random_model(kind: str, vocabulary: int, **sizes: Any) -> Any:
    """Random weights, large enough for effects to be visible; no gain is 1 and no bias 0."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": vocabulary}
    config = getattr(transformers, f"{kind}Config")(**ids, **sizes, initializer_range=0.3)
    head = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, head)(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return model.eval()


GPT2 = {"n_embd": 32, "n_inner": 48, "n_layer": 3, "n_head": 4, "n_positions": 512}
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "sev-mini": lambda size: sev_mini(),
    "GPT-2-like": lambda size: random_model("GPT2", size, **GPT2),
    "Llama-like": lambda size: random_model("Llama", size, **LLAMA),
}


@dataclass(frozen=True, eq=False)
class Study:
    """A model and what has been measured on it."""

    model: Model
    contexts: tuple[Context, ...]

    @cached_property
    def grid(self) -> ContextGroups:
        prompts = emotion_prompts(self.contexts, EMOTIONS)
        return group_by_context([Reply(p, "", 0, p.emotion or "") for p in prompts], EMOTIONS)

    @cached_property
    def swept(self) -> Activations:
        return read_activations(self.model, self.grid)

    @cached_property
    def directions(self) -> Directions:
        return emotion_directions(self.swept)

    @cached_property
    def importance(self) -> Importance:
        return sublayer_importance(
            self.model, self.grid, self.directions, stable=(1, 2), doses=(0.5,)
        )[0]

    @cached_property
    def differences(self) -> Differences:
        return differences(component_means(self.swept))

    @cached_property
    def totals(self) -> TotalEstimates:
        return total_estimates(self.model, self.contexts, self.importance, (4, 9))

    @cached_property
    def pairs(self) -> CleanCorrupt:
        # The larger model is slow to patch.
        count = 2 if self.model.cfg.n_layers == 3 else 1
        return make_pairs(self.model, self.contexts[:count], *EMOTIONS)

    @cached_property
    def readout(self) -> Projection:
        d_model = self.model.cfg.d_model
        vector = torch.randn(d_model, generator=torch.Generator().manual_seed(3))
        return Projection(vector / vector.norm())


@pytest.fixture(scope="module", params=MODELS)
def twice(request: Any, tokenizer: Any, contexts: tuple[Context, ...]) -> tuple[str, Study, Study]:
    """Name of the model, and its studies: by the bridge and by the HookedTransformer."""
    make = MODELS[request.param]
    hf_model = make(len(tokenizer))
    plain = loading.wrap_model(hooked_transformer(hf_model), tokenizer)
    bridge = loading.wrap_model(hf_model, tokenizer)
    return request.param, Study(bridge, contexts[:4]), Study(plain, contexts[:4])


def flat(found: Any, name: str = "") -> dict[str, Any]:
    """The tensors, numbers and texts of a result, by their place in it."""
    if isinstance(found, Provenance):
        return {}
    if isinstance(found, Tensor | int | float | str) or found is None:
        return {name: found}
    if is_dataclass(found):
        parts: Any = {field.name: getattr(found, field.name) for field in fields(found)}
    else:
        parts = found if isinstance(found, dict) else dict(enumerate(found))
    table: dict[str, Any] = {}
    for key, part in parts.items():
        table |= flat(part, f"{name}.{key}")
    return table


def gap(one: Any, other: Any) -> float:
    """Largest difference of two results, relative to the largest value of its table (or 1)."""
    left, right = flat(one), flat(other)
    assert left.keys() == right.keys()
    worst = 0.0
    for name, value in left.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            size = max(1.0, float(value.nan_to_num().abs().max())) if value.numel() else 1.0
            off = (value.double() - right[name].double()).nan_to_num().abs()
            worst = max(worst, float(off.max()) / size if value.numel() else 0.0)
            assert torch.equal(value.isnan(), right[name].isnan()), name
        elif isinstance(value, Tensor):
            assert torch.equal(value, right[name]), name
        elif isinstance(value, float):
            assert (value == value) == (right[name] == right[name]), name
            off = 0.0 if value != value else abs(value - right[name])
            worst = max(worst, off / max(1.0, abs(value)) if value == value else 0.0)
        else:
            assert value == right[name], name
    return worst


@pytest.fixture(scope="module")
def random_gpt2(tokenizer: Any) -> Any:
    """A random GPT-2 as Hugging Face has it."""
    return random_model("GPT2", len(tokenizer), **GPT2)


@pytest.fixture(scope="module")
def random_llama_like(tokenizer: Any) -> Any:
    """A random grouped-query Llama as Hugging Face has it."""
    return random_model("Llama", len(tokenizer), **LLAMA)


@pytest.fixture(scope="session")
def study_of() -> type[Study]:
    """Makes a study of a model and contexts."""
    return Study


@pytest.fixture(scope="session")
def apart() -> Any:
    """How far two results are apart; see :func:`gap`."""
    return gap
