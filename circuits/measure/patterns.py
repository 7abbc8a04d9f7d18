"""Where heads look: attention patterns of chosen heads on a few prompts, small enough to keep."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from circuits.data.prompts import Prompt
from circuits.errors import DataError
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.lens import token_texts
from circuits.model.protocol import Model, device_of
from circuits.model.runs import watch
from circuits.names import component
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["HeadPatterns", "head_patterns"]


@dataclass(frozen=True, eq=False)
class HeadPatterns(Record):
    """Attention from every position (``pos``) to every earlier one (``other_pos``).

    In units of 1/255, rounded. Prompts stand at the end of the position axes; what lies before
    them is zero.
    """

    weight: UInt8[Tensor, "context emotion node pos other_pos"]

    context: tuple[str, ...]
    emotion: tuple[str, ...]
    node: tuple[str, ...]
    tokens: tuple[tuple[tuple[str, ...], ...], ...]
    """Context by emotion -> the texts of the prompt's tokens."""


def head_patterns(
    model: Model,
    rows: Sequence[Sequence[Prompt]],
    emotions: Sequence[str],
    nodes: Sequence[str],
    provenance: Provenance,
) -> HeadPatterns:
    """Run the prompts of one context after the other, each context's together.

    Args:
        model: The model.
        rows: Per context its prompts, one for each emotion.
        emotions: The emotions that are asked for, in the order of the prompts.
        nodes: Heads.
        provenance: Of the result.

    Raises:
        DataError: there is no context or no head.
    """
    if not rows or not nodes:
        raise DataError("patterns need one context and one head at least")
    ids = [[encode_prompt(model, prompt) for prompt in own] for own in rows]
    width = max(len(prompt) for own in ids for prompt in own)
    found = torch.zeros(len(rows), len(emotions), len(nodes), width, width, dtype=torch.uint8)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place, part in enumerate(map(component, nodes)):
        if part.layer is not None and part.index is not None:
            wanted.setdefault(part.layer, []).append((place, part.index))

    for own, into in zip(ids, found, strict=True):

        def take(layer: int, activation: Tensor, into: Tensor = into) -> None:
            size = activation.shape[-1]
            for place, index in wanted.get(layer, ()):
                rounded = (255 * activation[:, index].float()).round().to(torch.uint8)
                into[:, place, width - size :, width - size :] = rounded.cpu()

        tokens = pad_left(own, device_of(model))
        watch(model, tokens, {"pattern": take})
        # What stands at padding attends to padding, and means nothing.
        real = torch.zeros(len(own), width, dtype=torch.bool)
        real[:, width - tokens.mask.shape[1] :] = tokens.mask.cpu()
        into *= (real[:, None, :, None] & real[:, None, None, :]).to(torch.uint8)
    return HeadPatterns(
        provenance=provenance,
        weight=found,
        context=tuple(own[0].context.id for own in rows),
        emotion=tuple(emotions),
        node=tuple(nodes),
        tokens=tuple(tuple(token_texts(model, prompt) for prompt in own) for own in ids),
    )
