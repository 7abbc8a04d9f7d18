"""Patching by TransformerLens and nnsight on the same model, where they do the same as ours.

TransformerLens's head sweep puts another run's head output in place of a head's. Given an "other
run" in which every head is silent, that is zero ablation; a metric that reads the ablated layer
makes it the published head importance. The sweep takes no attention mask, so only prompts of one
length can share a batch.
"""

from collections import defaultdict
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import patching as transformer_lens_patching

from circuits.effects.activations import ContextGroups
from circuits.effects.directions import Directions
from circuits.files import shipped
from circuits.models.memory import charge
from circuits.models.protocol import Model
from circuits.models.tokens import encode
from circuits.patching.pairs import CleanCorrupt, LogitDifference, make_pairs
from circuits.patching.patch import patch_heads
from circuits.prompts import sev

patching: Any = transformer_lens_patching
"""Its annotations ask for a cache object; whatever has ``[name]`` will do."""

READOUT = LogitDifference(torch.tensor([11, 12, 13]), torch.tensor([21, 22, 23, 24]))


@torch.no_grad()
def head_importance_by_patching(
    model: Any, grid: ContextGroups, directions: Directions
) -> Float[Tensor, "emotion layer head"]:
    """Head importance with TransformerLens's sweep over heads as the engine."""
    L, H = model.cfg.n_layers, model.cfg.n_heads
    found = torch.zeros(len(grid.emotions), L, H)
    groups = defaultdict(list)
    for (_, emotion), reply in grid.cells.items():
        ids = encode(model, reply.prompt)
        groups[len(ids)].append((ids, grid.emotions.index(emotion)))
    for width, own in groups.items():
        ids, emotions = torch.tensor([row for row, _ in own]), [emotion for _, emotion in own]
        silent = defaultdict(torch.zeros(len(own), width, H, model.cfg.d_head).clone)
        kept: dict[int, Tensor] = {}
        calls = iter(range(-1, L * H))
        vectors = directions.vectors[emotions, 0]

        def readout(_: Tensor, kept: Any = kept, calls: Any = calls, v: Tensor = vectors) -> Tensor:
            # The untouched run comes first; then the sweep goes through heads layer by layer.
            call = next(calls)
            if call < 0:
                kept[-1] = torch.stack([(kept[i] * v[:, i]).sum(-1) for i in range(L)], dim=1)
                return kept[-1][:, 0]
            return kept[-1][:, call // H] - (kept[call // H] * v[:, call // H]).sum(-1)

        def reader(layer: int, kept: Any = kept) -> Any:
            return f"blocks.{layer}.ln2.hook_out", lambda x, hook: kept.update({layer: x[:, -1]})

        def count(x: Tensor, hook: object) -> None:
            charge(x.shape[0], x.shape[1], L, cached=False)

        with model.hooks([("blocks.0.hook_resid_pre", count), *map(reader, range(L))]):
            readout(model(ids))
            swept = patching.get_act_patch_attn_head_out_all_pos(
                model, ids, silent, readout, reduce="none"
            )
        values = torch.as_tensor(swept.values).reshape(L, H, len(ids))
        for row, emotion in enumerate(emotions):
            found[emotion] += values[:, :, row] / len(grid.contexts)
    return found


def one_pair(model: Model) -> CleanCorrupt:
    """Fear against anger in the first test context: prompts of one length."""
    context = sev.contexts(sev.read(shipped("sev/test.jsonl")))[0]
    return make_pairs(model, [context], "fear", "anger")


def by_position(pair: CleanCorrupt) -> Tensor:
    """Ours: every head at every matched position ``[layer pos head]``."""
    return patch_heads(pair, READOUT, by="position").effect.transpose(1, 2)


def over_heads(pair: CleanCorrupt) -> Tensor:
    """Ours: every head at all positions ``[layer head]``."""
    return patch_heads(pair, READOUT, by="all").effect[..., 0]


@torch.no_grad()
def by_transformer_lens(model: Any, pair: CleanCorrupt) -> Tensor:
    """TransformerLens's sweep over heads and positions; unmatched positions do nothing."""
    clean, corrupt = pair.clean.ids, pair.corrupt.ids
    _, cache = model.run_with_cache(clean)
    base = READOUT.score(model(corrupt)[:, -1])[0]
    swept = patching.get_act_patch_attn_head_out_by_pos(
        model, corrupt, cache, lambda logits: READOUT.score(logits[:, -1])[0] - base
    )
    charge(swept.numel() + 2, corrupt.shape[1], model.cfg.n_layers, cached=False)
    assert float(swept[:, : -pair[0].matched].abs().max()) < 1e-5
    return swept[:, -pair[0].matched :].float()


@torch.no_grad()
def by_nnsight(weights: Any, model: Model, pair: CleanCorrupt) -> Tensor:
    """nnsight: every head at all positions, all of them invokes of one trace."""
    # Only `make bench` installs it.
    wrapped: Any = import_module("nnsight").LanguageModel(weights, tokenizer=model.tokenizer)
    clean, corrupt = pair.clean.ids, pair.corrupt.ids
    L, H, width = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head
    kept: list[Tensor] = []
    with wrapped.trace(clean):
        for layer in range(L):
            kept.append(wrapped.model.layers[layer].self_attn.o_proj.input.save())
    logits: list[Tensor] = []
    with wrapped.trace() as tracer:
        for layer in range(L):
            for head in range(H):
                with tracer.invoke(corrupt):
                    own = slice(head * width, (head + 1) * width)
                    place = wrapped.model.layers[layer].self_attn.o_proj
                    place.input[:, :, own] = kept[layer][:, :, own]
                    logits.append(wrapped.lm_head.output[:, -1].save())
        with tracer.invoke(corrupt):
            logits.append(wrapped.lm_head.output[:, -1].save())
    charge(L * H + 2, corrupt.shape[1], L, cached=False)
    scores = READOUT.score(torch.cat([row[:1] for row in logits]))
    return (scores[:-1] - scores[-1]).reshape(L, H)
