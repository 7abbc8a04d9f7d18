"""The published procedures written plainly: one whole run per head, sublayer, dose and prompt.

After Wang et al. 2025 (arXiv 2510.11328), stages 4.1, 4.2 and 6.3. Every run is a batch of one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.effects.activations import ContextGroups
from circuits.effects.directions import Directions
from circuits.models.edits import Add, Edit, Replace, edited
from circuits.models.memory import charge
from circuits.models.protocol import Model, blocks_of, device_of
from circuits.models.run import reading, run
from circuits.models.tokens import Tokens, encode, pad_left
from circuits.prompts.templates import neutral_prompt


def own_prompts(model: Model, grid: ContextGroups) -> Iterator[tuple[int, Tokens]]:
    """Every prompt, a batch of its own, and the place of the emotion that it asks for."""
    for e, emotion in enumerate(grid.emotions):
        for context in grid.contexts:
            ids = encode(model, grid.cells[context.id, emotion].prompt)
            yield e, pad_left([ids], device_of(model))


def after_norms(
    model: Model, tokens: Tokens, layers: Sequence[int], edits: Sequence[Edit] = ()
) -> dict[int, Tensor]:
    """One run; what the norms before the MLPs of ``layers`` give at the last position."""
    kept: dict[int, Tensor] = {}

    def keeper(layer: int) -> Any:
        return f"blocks.{layer}.ln2.hook_out", lambda x, hook: kept.update({layer: x[0, -1]})

    with edited(model, edits), model.hooks([keeper(layer) for layer in layers]):
        run(model, tokens)
    return kept


@torch.no_grad()
def head_importance(
    model: Model, grid: ContextGroups, directions: Directions
) -> Float[Tensor, "emotion layer head"]:
    """Stage 4.2: zero one head at all positions, run again, read the same layer."""
    shape = (model.cfg.n_heads, model.cfg.d_head)
    found = torch.zeros(len(grid.emotions), model.cfg.n_layers, shape[0])
    for e, tokens in own_prompts(model, grid):
        whole = after_norms(model, tokens, range(model.cfg.n_layers))
        for layer in whole:
            for head in range(shape[0]):
                chosen = torch.zeros(shape, dtype=torch.bool)
                chosen[head] = True
                edit = Replace("z", layer, torch.zeros(shape), chosen, positions="all")
                apart = whole[layer] - after_norms(model, tokens, [layer], [edit])[layer]
                found[e, layer, head] += apart @ directions.vectors[e, 0, layer]
    return found / len(grid.contexts)


@torch.no_grad()
def importance(
    model: Model,
    grid: ContextGroups,
    directions: Directions,
    reference: Float[Tensor, "emotion d_model"],
    doses: Sequence[float],
) -> Float[Tensor, "emotion dose sublayer layer"]:
    """Stage 6.3: inject at one sublayer, run again, read at the end; baselines per dose."""
    n_layers = model.cfg.n_layers
    found = torch.zeros(len(grid.emotions), len(doses), 2, n_layers)
    prompts = [
        pad_left([encode(model, neutral_prompt(c))], device_of(model)) for c in grid.contexts
    ]
    for e in range(len(grid.emotions)):
        v = reference[e]
        for d, dose in enumerate(doses):
            base = sum(_score(model, tokens, v) for tokens in prompts) / len(prompts)
            for s, site in enumerate(("attn_out", "mlp_out")):
                for layer in range(n_layers):
                    unit = directions.vectors[e, s, layer]
                    unit = unit if unit @ v >= 0 else -unit
                    length = dose * directions.rms[s, layer]
                    edit = Add(site, layer, length * unit)
                    moved = sum(_score(model, tokens, v, [edit]) for tokens in prompts)
                    found[e, d, s, layer] = (moved / len(prompts) - base) / length
    return found


def _score(model: Model, tokens: Tokens, v: Tensor, edits: Sequence[Edit] = ()) -> Tensor:
    end = model.cfg.n_layers - 1
    with edited(model, edits), reading(model, {"final": lambda x: x[0, -1]}, [end]) as table:
        run(model, tokens)
    return table["final"][end] @ v


@torch.no_grad()
def neuron_contributions(
    model: Model, grid: ContextGroups, directions: Directions
) -> Float[Tensor, "emotion layer neuron"]:
    """Stage 4.1: one run per prompt in a pass of its own, one matrix of contributions each."""
    found = torch.zeros(len(grid.emotions), model.cfg.n_layers, model.cfg.d_mlp)
    W_out = torch.stack([block.mlp.W_out for block in blocks_of(model)])
    for e, tokens in own_prompts(model, grid):
        with reading(model, {"post": lambda x: x[0, -1]}) as table:
            run(model, tokens)
        post = torch.stack([table["post"][i] for i in range(len(W_out))])
        beta = torch.einsum("lnw,lw->ln", W_out, directions.vectors[e, 1])
        found[e] += post * beta / len(grid.contexts)
    return found


@torch.no_grad()
def head_importance_without_hook_points(
    weights: Any, model: Model, grid: ContextGroups, directions: Directions
) -> Float[Tensor, "emotion layer head"]:
    """Stage 4.2 on the Hugging Face model itself, with hooks of torch only, as it was published."""
    n_layers, n_heads, d_head = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head
    found = torch.zeros(len(grid.emotions), n_layers, n_heads)
    for e, tokens in own_prompts(model, grid):
        whole = _normed(weights, tokens, range(n_layers))
        for layer in range(n_layers):
            for head in range(n_heads):
                part = slice(head * d_head, (head + 1) * d_head)
                apart = whole[layer] - _normed(weights, tokens, [layer], part)[0]
                found[e, layer, head] += apart @ directions.vectors[e, 0, layer]
    return found / len(grid.contexts)


def _normed(
    weights: Any, tokens: Tokens, layers: Sequence[int], silenced: slice | None = None
) -> list[Tensor]:
    """One run; what the norms before the MLPs of ``layers`` give at the last position."""
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        kept.append(output[0, -1])

    def silence(module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        z = inputs[0].clone()
        z[..., silenced] = 0
        return (z,)

    blocks = [weights.model.layers[layer] for layer in layers]
    hooks = [block.post_attention_layernorm.register_forward_hook(keep) for block in blocks]
    if silenced is not None:
        hooks.append(blocks[0].self_attn.o_proj.register_forward_pre_hook(silence))
    weights(tokens.ids, attention_mask=tokens.mask.long())
    for one in hooks:
        one.remove()
    charge(1, tokens.ids.shape[1], len(weights.model.layers), cached=False)
    return kept
