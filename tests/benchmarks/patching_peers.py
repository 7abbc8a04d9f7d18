"""Activation patching of heads by TransformerLens and by nnsight, beside ours."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from transformer_lens import patching as transformer_lens_patching

from circuits.files import shipped
from circuits.models.memory import charge
from circuits.models.protocol import Model
from circuits.patching.pairs import CleanCorrupt, LogitDifference, make_pairs
from circuits.patching.patch import patch_heads
from circuits.prompts import sev

patching: Any = transformer_lens_patching

__all__ = ["by_nnsight", "by_position", "by_transformer_lens", "one_pair", "over_heads"]

READOUT = LogitDifference(torch.tensor([11, 12, 13]), torch.tensor([21, 22, 23, 24]))


def one_pair(model: Model) -> CleanCorrupt:
    """Fear against anger in the first test context: prompts of one length."""
    context = sev.contexts(sev.read(shipped("sev/test.jsonl")))[0]
    return make_pairs(model, [context], "fear", "anger")


def by_position(model: Model, pair: CleanCorrupt) -> Tensor:
    """Ours: every head at every matched position ``[layer pos head]``."""
    found = patch_heads(pair, READOUT, by="position")
    return found.effect.transpose(1, 2)


def over_heads(model: Model, pair: CleanCorrupt) -> Tensor:
    """Ours: every head at all positions ``[layer head]``."""
    return patch_heads(pair, READOUT, by="all").effect[..., 0]


@torch.no_grad()
def by_transformer_lens(model: Any, pair: CleanCorrupt) -> Tensor:
    """TransformerLens's sweep over heads and positions; unmatched positions do nothing."""
    clean, corrupt = pair.clean.ids, pair.corrupt.ids
    _, cache = model.run_with_cache(clean)
    base = READOUT.score(model(corrupt)[:, -1])[0]

    def metric(logits: Tensor) -> Tensor:
        return READOUT.score(logits[:, -1])[0] - base

    swept = patching.get_act_patch_attn_head_out_by_pos(model, corrupt, cache, metric)
    runs = swept.numel() + 2
    charge(runs, corrupt.shape[1], model.cfg.n_layers, cached=False)
    unmatched = swept[:, : -pair[0].matched]
    assert float(unmatched.abs().max()) < 1e-5
    return swept[:, -pair[0].matched :].float()


@torch.no_grad()
def by_nnsight(weights: Any, tokenizer: Any, model: Model, pair: CleanCorrupt) -> Tensor:
    """nnsight: every head at all positions, all of them invokes of one trace."""
    # Only `make bench` installs it.
    nnsight: Any = import_module("nnsight")
    wrapped: Any = nnsight.LanguageModel(weights, tokenizer=tokenizer)
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
