"""Tiny random models of the families of the field, and what is measured in them, made once."""

from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from circuits.circuit.circuit import Circuit, Node
from circuits.effects.activations import (
    component_means,
    differences,
    group_by_context,
    read_activations,
)
from circuits.effects.directions import emotion_directions
from circuits.effects.heads import head_effects
from circuits.effects.importance import sublayer_importance
from circuits.effects.neurons import direct_effects, neuron_effects, without_neurons
from circuits.judges.replies import Reply
from circuits.models.load import wrap_model
from circuits.models.tokens import encode, pad_left
from circuits.names import hook
from circuits.patching.pairs import Projection, make_pairs
from circuits.patching.totals import total_estimates
from circuits.prompts.prompt import Prompt
from circuits.prompts.templates import emotion_prompts

EMOTIONS: tuple[str, ...] = ("anger", "fear")
N_LAYERS, N_HEADS, N_NEURONS, D_MODEL = 2, 4, 48, 32

SMALL: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": N_NEURONS,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 12}
OLD: dict[str, Any] = {
    "n_embd": D_MODEL,
    "n_inner": N_NEURONS,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "n_positions": 512,
    "initializer_range": 0.3,
}
OPT: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "ffn_dim": N_NEURONS,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": 512,
    "init_std": 0.3,
    "word_embed_proj_dim": D_MODEL,
}
LLAMA_3 = {
    **WIDE_HEADS,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
}
FALCON: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "ffn_hidden_size": N_NEURONS,
    "initializer_range": 0.3,
    "alibi": False,
}
GEMMA_2 = {**WIDE_HEADS, "sliding_window": 300}
EXPERTS = {**WIDE_HEADS, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_experts": 4}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2", OLD),
    "GPT-NeoX (Pythia)": ("GPTNeoX", SMALL),
    "GPT-J": ("GPTJ", {**OLD, "rotary_dim": 4}),
    "OPT": ("OPT", OPT),
    "Falcon": ("Falcon", FALCON),
    "Llama-3": ("Llama", LLAMA_3),
    "Mistral": ("Mistral", {**WIDE_HEADS, "sliding_window": 300}),
    "Qwen2.5": ("Qwen2", GROUPED),
    "Qwen3": ("Qwen3", WIDE_HEADS),
    "Phi-3": ("Phi3", GROUPED),
    "OLMo": ("Olmo", GROUPED),
    "OLMo-2": ("Olmo2", GROUPED),
    "Gemma": ("Gemma", WIDE_HEADS),
    "Gemma-2": ("Gemma2", GEMMA_2),
    "Gemma-3": ("Gemma3", GEMMA_2),
    "Mixtral": ("Mixtral", {**WIDE_HEADS, "num_local_experts": 4}),
    "Qwen3-MoE": ("Qwen3Moe", EXPERTS),
}


def random_model(family: str, sizes: dict[str, Any], tokenizer: Any) -> Any:
    """A random model in which no bias is zero and no norm's gain is one."""
    torch.manual_seed(0)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    named = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    config = getattr(transformers, named)(vocab_size=len(tokenizer), **ids, **sizes)
    kind = {"GPT2": "GPT2LMHeadModel", "OpenAIGPT": "OpenAIGPTLMHeadModel"}
    model = getattr(transformers, kind.get(family, f"{family}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return model


class Evaluator:
    """One family's random model, and what its tests need of it, measured when it is asked for."""

    def __init__(self, name: str, tokenizer: Any, contexts: Any) -> None:
        self.name, self.contexts, self.more, self.folder = name, contexts[:3], contexts[:6], Path()
        self.hf = random_model(*FAMILIES[name], tokenizer)
        self._seen: dict[Any, dict[str, torch.Tensor]] = {}
        # A copy: wrapping changes the modules of what is wrapped.
        self.model: Any = wrap_model(deepcopy(self.hf), tokenizer, name=name)

    @cached_property
    def prompts(self) -> list[Prompt]:
        return emotion_prompts(self.contexts, EMOTIONS)

    @cached_property
    def grid(self) -> Any:
        return group_by_context(
            [Reply(p, "Fine, then.", 3, p.emotion or "") for p in self.prompts], EMOTIONS
        )

    @cached_property
    def swept(self) -> Any:
        return read_activations(self.model, self.grid)

    @cached_property
    def directions(self) -> Any:
        return emotion_directions(self.swept)

    @cached_property
    def heads(self) -> Any:
        return head_effects(self.model, self.swept, self.directions)

    @cached_property
    def neurons(self) -> Any:
        return neuron_effects(self.model, self.swept, self.directions)

    @cached_property
    def no_neurons(self) -> Any:
        return without_neurons(self.swept, self.directions)

    @cached_property
    def means(self) -> Any:
        return component_means(self.swept)

    @cached_property
    def _importance(self) -> Any:
        return sublayer_importance(
            self.model, self.grid, self.directions, stable=(0, 1), doses=(0.5,), n_random=1
        )

    @property
    def importance(self) -> Any:
        return self._importance[0]

    @property
    def neutral_means(self) -> Any:
        return self._importance[1]

    @cached_property
    def direct(self) -> Any:
        between = differences(self.means)
        reference = self.importance.reference
        return direct_effects(self.model, between, self.directions, reference)

    @cached_property
    def totals(self) -> Any:
        counts = (N_LAYERS * N_HEADS, N_LAYERS * N_NEURONS)
        return total_estimates(self.model, self.contexts, self.importance, counts)

    @cached_property
    def pairs(self) -> Any:
        return make_pairs(self.model, self.contexts[:2], *EMOTIONS)

    @cached_property
    def asked_pairs(self) -> Any:
        return make_pairs(self.model, self.contexts, EMOTIONS[0])

    @cached_property
    def readout(self) -> Projection:
        drawn = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))
        return Projection(drawn / drawn.norm())

    @cached_property
    def circuit(self) -> Circuit:
        """A circuit by hand: what uses circuits is tried even where none can be measured."""
        nodes = [Node("L0H1", "head", 0, effect=1.0), Node("L1H2", "head", 1, effect=1.0)]
        if self.has_neurons:
            nodes += [Node(name, "neuron", int(name[1]), effect=1.0) for name in ("L1N3", "L1N7")]
        return Circuit("anger", tuple(nodes), ())

    @property
    def has_neurons(self) -> bool:
        return self.name not in ("Mixtral", "Qwen3-MoE")

    def rows(self, prompts: Any = None) -> list[list[int]]:
        return [encode(self.model, p) for p in prompts or self.prompts]

    @torch.no_grad()
    def plainly(self, ids: Any, sites: Any, hooks: Any = ()) -> dict[str, torch.Tensor]:
        """Activations of one prompt, unpadded, by hooks alone: ``{hook: [pos ...]}``."""
        asked = (tuple(ids), tuple(sites))
        if not hooks and asked in self._seen:
            return self._seen[asked]
        kept: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Any:
            return lambda x, hook: kept.__setitem__(name, x[0])

        tokens = pad_left([list(ids)], torch.device("cpu"))
        with self.model.hooks([*hooks, *((name, keep(name)) for name in sites)]):
            kept["logits"] = self.model(tokens.ids)[0]
        if not hooks:
            self._seen[asked] = kept
        return kept


def resid_mid(found: dict[str, torch.Tensor], layer: int) -> torch.Tensor:
    """The stream after attention, from what it is the sum of."""
    return found[hook("resid_pre", layer)] + found[hook("attn_out", layer)]
