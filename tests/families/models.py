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
from circuits.prompts.templates import emotion_prompts

EMOTIONS: tuple[str, ...] = ("anger", "fear")
N_LAYERS, N_HEADS, N_NEURONS, D_MODEL = 2, 4, 48, 32

SMALL: dict[str, Any] = {
    "hidden_size": D_MODEL, "intermediate_size": N_NEURONS, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS, "max_position_embeddings": 512, "initializer_range": 0.3,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 12}
OLD: dict[str, Any] = {
    "n_embd": D_MODEL, "n_inner": N_NEURONS, "n_layer": N_LAYERS, "n_head": N_HEADS,
    "n_positions": 512, "initializer_range": 0.3,
}  # fmt: skip
OPT = {**SMALL, "ffn_dim": N_NEURONS, "init_std": 0.3, "word_embed_proj_dim": D_MODEL}
ROTARY = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
}  # fmt: skip
FALCON = {**SMALL, "ffn_hidden_size": N_NEURONS, "alibi": False}
GEMMA_2 = {**WIDE_HEADS, "sliding_window": 300}
EXPERTS = {**WIDE_HEADS, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_experts": 4}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2", OLD),
    "GPT-NeoX (Pythia)": ("GPTNeoX", SMALL),
    "GPT-J": ("GPTJ", {**OLD, "rotary_dim": 4}),
    "OPT": ("OPT", OPT),
    "Falcon": ("Falcon", FALCON),
    "Llama-3": ("Llama", {**WIDE_HEADS, "rope_parameters": ROTARY}),
    "Mistral": ("Mistral", GEMMA_2),
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
    head = "LMHeadModel" if family in ("GPT2", "OpenAIGPT") else "ForCausalLM"
    model = getattr(transformers, family + head)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    return model


class Study:
    """A model, and what tests need of it, measured when it is asked for."""

    stable: tuple[int, ...] = (1, 2)
    counts: tuple[int, int] = (4, 9)
    seed = 3

    def __init__(self, model: Any, contexts: Any) -> None:
        self.model, self.contexts = model, contexts

    prompts = cached_property(lambda self: emotion_prompts(self.contexts, EMOTIONS))
    grid = cached_property(
        lambda self: group_by_context(
            [Reply(p, "Fine, then.", 3, p.emotion or "") for p in self.prompts], EMOTIONS
        )
    )
    swept = cached_property(lambda self: read_activations(self.model, self.grid))
    directions = cached_property(lambda self: emotion_directions(self.swept))
    heads = cached_property(lambda self: head_effects(self.model, self.swept, self.directions))
    neurons = cached_property(lambda self: neuron_effects(self.model, self.swept, self.directions))
    means = cached_property(lambda self: component_means(self.swept))
    differences = cached_property(lambda self: differences(self.means))
    importance = cached_property(
        lambda self: sublayer_importance(
            self.model, self.grid, self.directions, stable=self.stable, doses=(0.5,), n_random=1
        )[0]
    )
    direct = cached_property(
        lambda self: direct_effects(
            self.model, self.differences, self.directions, self.importance.reference
        )
    )
    totals = cached_property(
        lambda self: total_estimates(self.model, self.contexts, self.importance, self.counts)
    )
    pairs = cached_property(
        # The embedded model is slow to patch.
        lambda self: make_pairs(
            self.model, self.contexts[: 2 if self.model.cfg.n_layers <= 3 else 1], *EMOTIONS
        )
    )

    @cached_property
    def readout(self) -> Projection:
        size = self.model.cfg.d_model
        drawn = torch.randn(size, generator=torch.Generator().manual_seed(self.seed))
        return Projection(drawn / drawn.norm())

    def rows(self) -> list[list[int]]:
        return [encode(self.model, prompt) for prompt in self.prompts]


class Evaluator(Study):
    """One family's random model, what is measured in it, and plain runs to compare with."""

    stable, counts, seed = (0, 1), (N_LAYERS * N_HEADS, N_LAYERS * N_NEURONS), 1

    def __init__(self, name: str, tokenizer: Any, contexts: Any) -> None:
        self.name, self.more, self.folder = name, contexts[:6], Path()
        self.hf = random_model(*FAMILIES[name], tokenizer)
        self._seen: dict[Any, dict[str, torch.Tensor]] = {}
        # A copy: wrapping changes the modules of what is wrapped.
        model = wrap_model(deepcopy(self.hf), tokenizer, name=name)
        super().__init__(model, contexts[:3])

    no_neurons = cached_property(lambda self: without_neurons(self.swept, self.directions))
    asked_pairs = cached_property(lambda self: make_pairs(self.model, self.contexts, EMOTIONS[0]))

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
