"""What single heads and neurons do in single contexts: which contexts a part answers most.

The same quantity whose mean over contexts is a part's centred effect, not summed up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.data.prompts import Prompt
from circuits.errors import DataError
from circuits.measure.directions import Directions
from circuits.model.chat import encode_prompt, pad_left
from circuits.model.generation import Progress
from circuits.model.protocol import Model, device_of
from circuits.model.runs import capture
from circuits.model.weights import along_heads, along_neurons
from circuits.names import Component, component
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["NodeExamples", "node_examples"]


@dataclass(frozen=True, eq=False)
class NodeExamples(Record):
    """Direct effects of heads and neurons on their layer's direction, context by context.

    In the prompt that asks for the emotion, minus the mean over the emotions of the same context;
    at the last prompt position. Positive: towards the emotion. Unit: length in the residual stream.
    """

    effect: Float[Tensor, "context emotion node"]

    context: tuple[str, ...]
    emotion: tuple[str, ...]
    node: tuple[str, ...]
    theme: tuple[str, ...]
    """Of every context, as are the next three."""
    valence: tuple[str, ...]
    """Valence of its event."""
    situation: tuple[str, ...]
    event: tuple[str, ...]


def node_examples(
    model: Model,
    rows: Sequence[Sequence[Prompt]],
    directions: Directions,
    nodes: Sequence[str],
    provenance: Provenance,
    *,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> NodeExamples:
    """Run every prompt once.

    Args:
        model: The model.
        rows: Per context its prompts, one for each of the directions' emotions in their order.
        directions: What effects are read along.
        nodes: Heads and neurons.
        provenance: Of the result.
        batch_size: Prompts at once, at most; does not change the result.
        progress: Told after every batch how many prompts were run.

    Raises:
        DataError: there is no context, or a context lacks an emotion.
    """
    _check(rows, directions)
    parts, many = [component(name) for name in nodes], len(directions.emotion)
    heads = [part for part in parts if part.kind == "head"]
    neurons = [part for part in parts if part.kind == "neuron"]
    along = _chosen(along_heads(model, directions.sel(sublayer="attn").vectors[:, 0]), heads)
    beta = _chosen(along_neurons(model, directions.sel(sublayer="mlp").vectors[:, 0]), neurons)
    found: list[Float[Tensor, "context emotion node"]] = []
    together = max(1, batch_size // many)
    for start in range(0, len(rows), together):
        prompts = [prompt for own in rows[start : start + together] for prompt in own]
        tokens = pad_left([encode_prompt(model, prompt) for prompt in prompts], device_of(model))
        read = capture(model, tokens, {"z": _last, "post": _last})
        z = _apart(_chosen(read["z"], heads), many)
        post = _apart(_chosen(read["post"], neurons), many)
        found.append(torch.cat([(z * along).sum(-1), post * beta], dim=-1))
        if progress:
            progress(len(prompts))
    order = [part.name for part in (*heads, *neurons)]
    contexts = [own[0].context for own in rows]
    return NodeExamples(
        provenance=provenance,
        effect=torch.cat(found)[..., [order.index(name) for name in nodes]],
        context=tuple(context.id for context in contexts),
        emotion=directions.emotion,
        node=tuple(nodes),
        theme=tuple(context.theme for context in contexts),
        valence=tuple(context.valence for context in contexts),
        situation=tuple(context.situation for context in contexts),
        event=tuple(context.event for context in contexts),
    )


def _check(rows: Sequence[Sequence[Prompt]], directions: Directions) -> None:
    for own in rows:
        if tuple(prompt.emotion for prompt in own) != directions.emotion:
            raise DataError(
                f"context {own[0].context.id if own else 'without prompts'!r} is not asked for "
                f"{', '.join(directions.emotion)} in this order; give one prompt for each"
            )
    if not rows:
        raise DataError("no context to read examples from; give one or more")


def _chosen(values: Tensor, parts: Sequence[Component]) -> Tensor:
    """The parts of ``[row layer part ...]``, as ``[row node ...]``."""
    layers = torch.tensor([part.layer for part in parts], dtype=torch.long)
    indices = torch.tensor([part.index for part in parts], dtype=torch.long)
    return values[:, layers, indices]


def _apart(values: Tensor, many: int) -> Tensor:
    """Minus the mean over the emotions of a context: ``[context emotion node ...]``."""
    grouped = values.unflatten(0, (-1, many))
    return grouped - grouped.mean(1, keepdim=True)


def _last(activation: Tensor) -> Tensor:
    return activation[:, -1].cpu()
