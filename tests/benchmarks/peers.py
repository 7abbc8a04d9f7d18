"""TransformerLens's own patching tools on the same model, where they do the same thing.

Its head patching sweep puts another run's head output in place of a head's. Given an "other run"
in which every head is silent, that is zero ablation; a metric that reads the ablated layer makes
it the published head importance. The sweep takes no attention mask, so only prompts of one
length can share a batch.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import patching as transformer_lens_patching

from circuits.effects.activations import ContextGroups
from circuits.effects.directions import Directions
from circuits.models.memory import charge
from circuits.models.tokens import encode

patching: Any = transformer_lens_patching
"""Its annotations ask for a cache object; whatever has ``[name]`` will do."""

__all__ = ["edge_attribution_refusal", "head_importance_by_patching"]


class _Silent:
    """A cache in which every head is silent, as large as the activation it stands in for."""

    def __init__(self, like: Tensor) -> None:
        self.nothing = torch.zeros_like(like)

    def __getitem__(self, name: object) -> Tensor:
        return self.nothing


@torch.no_grad()
def head_importance_by_patching(
    model: Any, grid: ContextGroups, directions: Directions
) -> Float[Tensor, "emotion layer head"]:
    """Head importance with TransformerLens's sweep over heads as the engine."""
    L, H = model.cfg.n_layers, model.cfg.n_heads
    found = torch.zeros(len(grid.emotions), L, H)
    for ids, emotions in _by_length(model, grid):
        like = torch.zeros(*ids.shape, H, model.cfg.d_head)
        kept: dict[int, Tensor] = {}
        calls = iter(range(-1, L * H))
        vectors = directions.vectors[emotions, 0]

        def readout(_: Tensor, kept: Any = kept, calls: Any = calls, v: Tensor = vectors) -> Tensor:
            # The untouched run comes first; then the sweep goes through heads layer by layer.
            call = next(calls)
            if call < 0:
                kept[-1] = torch.stack([(kept[i] * v[:, i]).sum(-1) for i in range(L)], dim=1)
                return kept[-1][:, 0]
            layer = call // H
            return kept[-1][:, layer] - (kept[layer] * v[:, layer]).sum(-1)

        with model.hooks(_readers(model, kept)):
            readout(model(ids))
            swept = patching.get_act_patch_attn_head_out_all_pos(
                model, ids, _Silent(like), readout, reduce="none"
            )
        values = torch.as_tensor(swept.values).reshape(L, H, len(ids))
        for row, emotion in enumerate(emotions):
            found[emotion] += values[:, :, row] / len(grid.contexts)
    return found


def edge_attribution_refusal(model: Any) -> str:
    """What TransformerLens says to attribution patching of edges on this model, if it refuses."""
    from transformer_lens.tools.analysis import attribution_patching as tool

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, 5].sum()

    config = tool.EdgeAttributionConfig(granularity="edge")
    ids = torch.arange(1, 9)[None]
    try:
        tool.attribution_patch(model, ids, ids + 10, metric, config=config)
    except (ValueError, NotImplementedError) as error:
        return " ".join(str(error).split())
    return ""


def _by_length(model: Any, grid: ContextGroups) -> list[tuple[Tensor, list[int]]]:
    groups: dict[int, list[tuple[list[int], int]]] = {}
    for (_, emotion), reply in grid.cells.items():
        ids = encode(model, reply.prompt)
        groups.setdefault(len(ids), []).append((ids, grid.emotions.index(emotion)))
    return [(torch.tensor([i for i, _ in g]), [e for _, e in g]) for g in groups.values()]


def _readers(model: Any, kept: dict[int, Tensor]) -> list[Any]:
    def reader(layer: int) -> Any:
        def keep(x: Tensor, hook: object) -> None:
            kept[layer] = x[:, -1]

        return f"blocks.{layer}.ln2.hook_out", keep

    def count(x: Tensor, hook: object) -> None:
        charge(x.shape[0], x.shape[1], model.cfg.n_layers, cached=False)

    count_at = ("blocks.0.hook_resid_pre", count)
    return [count_at, *(reader(layer) for layer in range(model.cfg.n_layers))]
