"""Planted models: the ground truth against which methods are scored."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from circuits.errors import ModelError
from circuits.model.loading import wrap_model
from circuits.model.protocol import Model
from circuits.names import EMOTIONS
from circuits.planted.layout import (
    EdgeEntry,
    PlantedEdge,
    PlantedNode,
    When,
    draw_nodes,
    planted_edges,
)
from circuits.planted.weights import D_HEAD, D_MLP, D_MODEL, LARGEST, Coordinates, Draft, draft
from circuits.planted.words import word_tokenizer

__all__ = ["Plant", "Recovery", "build_model", "plant", "recovery"]

_ROPE_THETA = 1e6
"""Slow enough for the slots of the marks to stand still, fast enough to tell neighbours apart."""


@dataclass(frozen=True, eq=False)
class Plant:
    """A small model and the circuit that was put into it.

    The asked emotion's word stands in the prompt. The writer attends to it from every later
    position and writes a signal, and a part of the readout directly. Relays read the signal and
    push the readout of their emotion, inhibitors push it back. The backup does the writer's work
    (but for the direct part) where there is no signal. Distractors write more than any of them: in
    directions that no readout has, or into all readouts alike.
    """

    seed: int
    model: Model
    emotions: tuple[str, ...]
    readout: Float[Tensor, "emotion d_model"]
    """Orthonormal directions in the last ``resid_post``."""
    nodes: tuple[PlantedNode, ...]
    edges: tuple[PlantedEdge, ...]

    def true_nodes(
        self,
        kind: Literal["head", "neuron"] | None = None,
        *,
        emotion: str | None = None,
        when: When = "asked",
    ) -> frozenset[str]:
        """Names of the parts that have an effect on a readout.

        Args:
            kind: Only heads, or only neurons.
            emotion: Those with an effect on this emotion's readout; otherwise on any.
            when: What must change for the effect to show.
        """
        if not self.edges:
            return frozenset()
        return frozenset(
            node.name
            for node in self.nodes
            if node.when == when
            and kind in (None, node.kind)
            and (emotion is None or node.emotion in (None, emotion))
        )

    def true_edges(
        self,
        kind: EdgeEntry | None = None,
        *,
        emotion: str | None = None,
        when: When = "asked",
    ) -> frozenset[tuple[str, str, EdgeEntry]]:
        """Source, target and entry of the connections that have an effect on a readout.

        ``embed`` is among the sources: it is where the emotion word's code comes from.

        Args:
            kind: Only those that enter there.
            emotion: Those with an effect on this emotion's readout; otherwise on any.
            when: What must change for the effect to show.
        """
        return frozenset(
            (edge.source, edge.target, edge.kind)
            for edge in self.edges
            if edge.when == when
            and kind in (None, edge.kind)
            and (emotion is None or edge.emotion in (None, emotion))
        )


@dataclass(frozen=True)
class Recovery:
    """How well what was found agrees with what is there."""

    precision: float
    """Share of the found that is true; 1 if nothing was found."""
    recall: float
    """Share of the true that was found; 1 if nothing is there."""


def recovery(found: Collection[object], truth: Collection[object]) -> Recovery:
    """Precision and recall of ``found``.

    >>> recovery(["L0H1", "L2H3"], ["L0H1"])
    Recovery(precision=0.5, recall=1.0)
    """
    found, truth = frozenset(found), frozenset(truth)
    common = len(found & truth)
    return Recovery(
        precision=common / len(found) if found else 1.0,
        recall=common / len(truth) if truth else 1.0,
    )


def plant(
    seed: int,
    *,
    emotions: Sequence[str] = EMOTIONS,
    n_layers: int = 4,
    n_heads: int = 4,
    backup: bool = True,
    inhibitor: bool = True,
    remove: str | None = None,
) -> Plant:
    """A Llama with hand-set weights at drawn places and small random ones elsewhere.

    The seed decides where each part lies, how strong it is, whether inhibition is a head or
    neurons, and whether heads share keys and values. Contexts should not contain the emotion words
    themselves: the writer attends to them wherever they stand.

    Args:
        seed: Equal seeds give equal models.
        emotions: Single words, three to eight.
        n_layers: Three or more.
        n_heads: Four or more, even.
        backup: Plant the backup head.
        inhibitor: Plant the inhibitory head or neurons.
        remove: ``writer`` leaves the writer and the backup out and everything else as it is. Then
            nothing has an effect.

    Raises:
        ModelError: the emotions or the sizes leave no room for the circuit.
    """
    emotions = tuple(emotions)
    _check(emotions, n_layers, n_heads, remove)
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = n_layers, n_heads, rng.choice((n_heads, n_heads // 2))
    drawn = draw_nodes(rng, emotions, n_layers, n_heads, D_MLP)
    wanted = {
        "writer": remove != "writer",
        "backup": backup and remove != "writer",
        "inhibitor": inhibitor,
    }
    present = tuple(node for node in drawn if wanted.get(node.role, True))
    basis, _ = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator))
    where = Coordinates(emotions, basis)
    tokenizer = word_tokenizer(emotions)
    made = draft(drawn, present, where, tokenizer.get_vocab(), shape, generator)
    return Plant(
        seed=seed,
        model=build_model(made, basis, tokenizer, name=f"plant-{seed}"),
        emotions=emotions,
        readout=basis[where.span("readout")].clone(),
        nodes=present,
        edges=planted_edges(present),
    )


def _check(emotions: tuple[str, ...], n_layers: int, n_heads: int, remove: str | None) -> None:
    words = len(set(emotions)) == len(emotions) and all(
        word.isidentifier() and len(word) > 1 for word in emotions
    )
    if not words or not 3 <= len(emotions) <= LARGEST:
        raise ModelError(
            f"a plant of the emotions {', '.join(map(repr, emotions)) or 'none'} was asked for; "
            f"give three to {LARGEST} different words, each one word of two letters or more"
        )
    if n_layers < 3 or n_heads < 4 or n_heads % 2:
        raise ModelError(
            f"a plant of {n_layers} layers and {n_heads} heads was asked for; "
            "give at least 3 layers and an even number of heads, at least 4"
        )
    if remove not in (None, "writer"):
        raise ModelError(f"{remove!r} cannot be removed from a plant; only 'writer' can")


def build_model(made: Draft, basis: Tensor, tokenizer: Any, *, name: str) -> Model:
    """A Llama with the drafted weights, their coordinates hidden by the rotation ``basis``."""
    n_layers, n_heads = made.q.shape[:2]
    hf_model = _llama((n_layers, n_heads, made.k.shape[1]), tokenizer)
    _put(made, basis, hf_model)
    return wrap_model(hf_model, tokenizer, name=name)


def _llama(shape: tuple[int, int, int], tokenizer: Any) -> LlamaForCausalLM:
    n_layers, n_heads, n_groups = shape
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_groups,
        head_dim=D_HEAD,
        max_position_embeddings=tokenizer.model_max_length,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Its own draws are all overwritten; the caller's random numbers stay as they were.
    with torch.random.fork_rng(devices=[]):
        return LlamaForCausalLM(config)


@torch.no_grad()
def _put(made: Draft, basis: Tensor, hf_model: LlamaForCausalLM) -> None:
    """Write the draft, turned into the model's axes, into the model."""
    body: Any = hf_model.model  # the stubs of its layers know no weights
    body.embed_tokens.weight.copy_(made.embed @ basis)
    hf_model.lm_head.weight.copy_(made.unembed @ basis)
    body.norm.weight.fill_(made.norm)
    for layer, block in enumerate(body.layers):
        block.input_layernorm.weight.fill_(made.norm)
        block.post_attention_layernorm.weight.fill_(made.norm)
        attention, mlp = block.self_attn, block.mlp
        attention.q_proj.weight.copy_((made.q[layer] @ basis).flatten(0, 1))
        attention.k_proj.weight.copy_((made.k[layer] @ basis).flatten(0, 1))
        attention.v_proj.weight.copy_((made.v[layer] @ basis).flatten(0, 1))
        attention.o_proj.weight.copy_((made.o[layer] @ basis).flatten(0, 1).T)
        mlp.gate_proj.weight.copy_(made.gate[layer] @ basis)
        mlp.up_proj.weight.copy_(made.up[layer] @ basis)
        mlp.down_proj.weight.copy_((made.out[layer] @ basis).T)
