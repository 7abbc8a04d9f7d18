"""Every model twice: as the bridge of TransformerLens 3.9, and as its HookedTransformer."""

from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import transformers
from families.models import OLD, WIDE_HEADS, Study, random_model
from hooked import hooked_transformer
from torch import Tensor

from circuits.files import shipped
from circuits.models.load import wrap_model
from circuits.provenance import Provenance

HAS_IT = find_spec("transformer_lens.HookedTransformer") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "tl3" and not HAS_IT:
            item.add_marker(pytest.mark.skip(reason="needs TransformerLens 3.9: make test-tl3"))


def hf_model(name: str, tokenizer: Any) -> Any:
    """The model as Hugging Face has it."""
    if name == "sev-mini":
        return transformers.AutoModelForCausalLM.from_pretrained(shipped(name))
    if name == "GPT-2-like":
        return random_model("GPT2", {**OLD, "n_layer": 3}, tokenizer)
    return random_model("Llama", {**WIDE_HEADS, "head_dim": 8, "num_hidden_layers": 3}, tokenizer)


@pytest.fixture(scope="module", params=["sev-mini", "GPT-2-like", "Llama-like"])
def twice(request: Any, tokenizer: Any, contexts: Any) -> tuple[Study, Study]:
    """The model's studies: by the bridge and by the HookedTransformer."""
    hf = hf_model(request.param, tokenizer)
    plain = wrap_model(hooked_transformer(hf), tokenizer)
    bridge = wrap_model(hf, tokenizer)
    return Study(bridge, contexts[:4]), Study(plain, contexts[:4])


@pytest.fixture(scope="module")
def random_gpt2(tokenizer: Any) -> Any:
    return hf_model("GPT-2-like", tokenizer)


@pytest.fixture(scope="module")
def random_llama_like(tokenizer: Any) -> Any:
    return hf_model("Llama-like", tokenizer)


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
    return {k: v for key, part in parts.items() for k, v in flat(part, f"{name}.{key}").items()}


@pytest.fixture(scope="session")
def apart() -> Any:
    """How far two results are apart, relative to the largest value of each table (or 1)."""

    def gap(one: Any, other: Any) -> float:
        left, right = flat(one), flat(other)
        assert left.keys() == right.keys()
        worst = 0.0
        for name, value in left.items():
            if not isinstance(value, float | Tensor):
                assert value == right[name], name
                continue
            own, found = (torch.as_tensor(x, dtype=torch.double) for x in (value, right[name]))
            assert torch.equal(own.isnan(), found.isnan()), name
            if own.numel():
                off = (own - found).nan_to_num().abs().max()
                worst = max(worst, float(off / own.nan_to_num().abs().max().clamp_min(1)))
        return worst

    return gap
