"""Tokens that heads, neurons and sublayers promote and suppress.

What a part writes differently when an emotion is asked for is a direction in the residual
stream: the mean difference of a head's output times W_O, that of a neuron's activation times its
row of W_out, and for a sublayer the sum over its parts. The logit lens reads it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from circuits.measure.means import Differences
from circuits.model.lens import output_logits, token_texts
from circuits.model.protocol import Model
from circuits.model.weights import head_weights, neuron_weights
from circuits.names import Component, component, sublayer_name
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["TokenLens", "token_lens"]

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class TokenLens(Record):
    """Logits of what parts write for an emotion beyond the mean of the emotions.

    Every write is given the same size, so that logits tell how it is aimed, not how strong it is.
    """

    promoted: Float[Tensor, "emotion node rank"]
    """The largest logits, largest first."""
    promoted_token: Int[Tensor, "emotion node rank"]
    """Their places in ``word``."""
    suppressed: Float[Tensor, "emotion node rank"]
    """The smallest logits, smallest first."""
    suppressed_token: Int[Tensor, "emotion node rank"]

    emotion: tuple[str, ...]
    node: tuple[str, ...]
    rank: tuple[int, ...]
    word: tuple[str, ...]
    """Texts of the tokens that occur."""


def token_lens(
    model: Model,
    between: Differences,
    nodes: Sequence[str],
    provenance: Provenance,
    *,
    most: int = 10,
) -> TokenLens:
    """The ``most`` tokens at either end, for every node and emotion; costs no pass.

    Args:
        model: Gives the output weights, the final norm and the unembedding.
        between: Differences relative to the mean over the emotions.
        nodes: Heads, neurons and sublayers.
        provenance: Of the result.
        most: Tokens at either end.
    """
    # Models may have more rows than their tokenizer has tokens.
    known = len(model.tokenizer)
    writes = torch.stack(_in_order(model, between, nodes), dim=1)
    flat = writes.flatten(0, 1)
    ends: list[tuple[Tensor, ...]] = []
    for start in range(0, len(flat), _ROWS_AT_ONCE):
        logits = output_logits(model, flat[start : start + _ROWS_AT_ONCE])[:, :known]
        ends.append((*logits.topk(most, largest=True), *logits.topk(most, largest=False)))
    up, up_ids, down, down_ids = (
        torch.cat(own).reshape(*writes.shape[:2], most) for own in zip(*ends, strict=True)
    )
    ids, places = torch.stack([up_ids, down_ids]).unique(return_inverse=True)
    return TokenLens(
        provenance=provenance,
        promoted=up,
        promoted_token=places[0],
        suppressed=down,
        suppressed_token=places[1],
        emotion=between.emotion,
        node=tuple(nodes),
        rank=tuple(range(1, most + 1)),
        word=token_texts(model, ids.tolist()),
    )


def _in_order(
    model: Model, between: Differences, nodes: Sequence[str]
) -> list[Float[Tensor, "emotion d_model"]]:
    parts = [component(name) for name in nodes]
    layers = zip(head_weights(model), neuron_weights(model), strict=True)
    found: dict[str, Tensor] = {}
    for layer, (W_O, W_out) in enumerate(layers):
        own = [part for part in parts if part.layer == layer]
        found |= dict(_of_layer(between, own, layer, W_O, W_out))
    return [found[name] for name in nodes]


def _of_layer(
    between: Differences,
    parts: Sequence[Component],
    layer: int,
    W_O: Float[Tensor, "head d_head d_model"],
    W_out: Float[Tensor, "neuron d_model"],
) -> Iterator[tuple[str, Float[Tensor, "emotion d_model"]]]:
    pattern = "emotion head d_head, head d_head d_model -> emotion head d_model"
    heads, post = einsum(between.z[:, layer], W_O, pattern), between.post[:, layer]
    whole: Mapping[str, Tensor] = {
        sublayer_name(layer, "attn"): heads.sum(1),
        sublayer_name(layer, "mlp"): post @ W_out,
    }
    for part in parts:
        if part.kind == "sublayer":
            yield part.name, whole[part.name]
        elif part.kind == "head" and part.index is not None:
            yield part.name, heads[:, part.index]
        elif part.index is not None:
            yield part.name, post[:, part.index, None] * W_out[part.index]
