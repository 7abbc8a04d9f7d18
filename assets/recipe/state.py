"""The state at the last prompt position: read, write and ablate heads, neurons and the residual.

A component's value is a head's `z` (its part of the input of `o_proj`) or a neuron's `post` (its
part of the input of `down_proj`). All interventions act once, at prefill, on the last position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from running import BATCH, reply_losses, together
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

Values = dict[tuple[str, int], Tensor]  # ("z" | "post", layer) -> (..., width)


def sites(model: LlamaForCausalLM) -> dict[tuple[str, int], nn.Module]:
    """The modules whose inputs are the components' values."""
    found: dict[tuple[str, int], nn.Module] = {}
    for index, layer in enumerate(model.model.layers):
        found["z", index] = layer.self_attn.o_proj
        found["post", index] = layer.mlp.down_proj
    return found


@contextmanager
def _hooked(handles: list[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def read(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> Values:
    """Every component's value and every layer's residual at the last position of each prompt."""
    found: dict[tuple[str, int], list[Tensor]] = {}
    handles = []
    for key, module in sites(model).items():

        def keep(_: nn.Module, inputs: tuple[Tensor], key: tuple[str, int] = key) -> None:
            found.setdefault(key, []).append(inputs[0][:, -1].clone())

        handles.append(module.register_forward_pre_hook(keep))
    for index, layer in enumerate(model.model.layers):

        def keep_out(_: nn.Module, __: tuple[Tensor], out: Tensor, index: int = index) -> None:
            found.setdefault(("residual", index), []).append(out[:, -1].clone())

        handles.append(layer.register_forward_hook(keep_out))
    with _hooked(handles):
        for start in range(0, len(prompts), BATCH):
            batch = tokenizer(
                list(prompts[start : start + BATCH]), return_tensors="pt", padding=True
            )
            seen = batch["attention_mask"]
            positions = (seen.cumsum(1) - 1).clamp(min=0)
            model.model(batch["input_ids"], attention_mask=seen, position_ids=positions)
    return {key: torch.cat(parts) for key, parts in found.items()}


@dataclass(frozen=True)
class Choice:
    """Which components an intervention touches: a 0/1 vector for every site."""

    masks: Values

    @classmethod
    def everything(cls, model: LlamaForCausalLM) -> Choice:
        """All heads and all neurons."""
        return cls({k: torch.ones(m.in_features) for k, m in sites(model).items()})

    @classmethod
    def best(
        cls, model: LlamaForCausalLM, heads: Tensor, neurons: Tensor, shares: tuple[float, float]
    ) -> Choice:
        """The components with the greatest scores.

        Args:
            model: the model.
            heads: (layers, heads) scores.
            neurons: (layers, width) scores.
            shares: the shares of heads and of neurons to choose.
        """
        chosen = []
        for scores, share in zip((heads, neurons), shares, strict=True):
            top = torch.zeros(scores.numel())
            top[scores.flatten().topk(int(scores.numel() * share)).indices] = 1
            chosen.append(top.view_as(scores))
        size = model.config.head_dim
        masks: Values = {}
        for index in range(len(chosen[0])):
            masks["z", index] = chosen[0][index].repeat_interleave(size)
            masks["post", index] = chosen[1][index]
        return cls(masks)


@contextmanager
def set_values(model: LlamaForCausalLM, values: Values, choice: Choice) -> Iterator[None]:
    """Sets the chosen components at the last position of the prefill."""
    handles = []
    for key, module in sites(model).items():
        mask = choice.masks[key].bool()
        if not mask.any():
            continue

        def write(
            _: nn.Module, inputs: tuple[Tensor], key: tuple[str, int] = key, mask: Tensor = mask
        ) -> tuple[Tensor] | None:
            state = inputs[0]
            if state.shape[1] == 1:
                return None
            state = state.clone()
            state[:, -1] = torch.where(mask, values[key], state[:, -1])
            return (state,)

        handles.append(module.register_forward_pre_hook(write))
    with _hooked(handles):
        yield


@contextmanager
def add_residual(model: LlamaForCausalLM, layer: int, direction: Tensor) -> Iterator[None]:
    """Adds a direction to a layer's output at the last position of the prefill."""

    def add(_: nn.Module, __: tuple[Tensor], out: Tensor) -> Tensor | None:
        if out.shape[1] == 1:
            return None
        out = out.clone()
        out[:, -1] += direction
        return out

    with _hooked([model.model.layers[layer].register_forward_hook(add)]):
        yield


@contextmanager
def _add_values(
    model: LlamaForCausalLM, values: Values, rows: Tensor, last: Tensor
) -> Iterator[None]:
    """Adds to every component at one position of each row."""
    handles = []
    for key, module in sites(model).items():

        def add(_: nn.Module, inputs: tuple[Tensor], value: Tensor = values[key]) -> tuple[Tensor]:
            state = inputs[0].clone()
            state[rows, last] = state[rows, last] + value
            return (state,)

        handles.append(module.register_forward_pre_hook(add))
    with _hooked(handles):
        yield


def contributions(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    replies: Sequence[str],
    difference: Values,
    sign: float,
    steps: int = 4,
) -> tuple[Tensor, Tensor]:
    """How much each component's difference lowers the loss of the emotional replies.

    Gradients times differences, averaged along the way from no change to the whole of it. What a
    component does through later ones counts as its own.

    Args:
        prompts: neutral prompts if the difference is added, asked ones if it is taken away.
        replies: replies in the emotion.
        difference: the mean difference of every component.
        sign: 1 to add the difference, -1 to take it away.
        steps: points on the way.

    Returns:
        (layers, heads) and (layers, neurons) scores.
    """
    batch, told = together(tokenizer, prompts, replies)
    rows = torch.arange(len(prompts))
    last = told.int().argmax(1) - 1
    gradients = {key: torch.zeros_like(difference[key]) for key in sites(model)}
    model.requires_grad_(False)
    for step in range(steps):
        share = sign * step / steps
        added = {k: (share * difference[k]).requires_grad_() for k in gradients}
        with _add_values(model, added, rows, last):
            reply_losses(model, batch, told).mean().backward()
        for key, total in gradients.items():
            total += added[key].grad / steps
    size, layers = model.config.head_dim, range(len(model.model.layers))
    scores = {key: -gradients[key] * difference[key] for key in gradients}
    heads = torch.stack([scores["z", i].view(-1, size).sum(1) for i in layers])
    return heads, torch.stack([scores["post", i] for i in layers])
