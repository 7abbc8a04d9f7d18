"""Components and tokens up close: logit lens, top contexts, attention patterns, traces of texts.

What a part writes differently when an emotion is asked for is a direction in the residual stream:
the mean difference of a head's output times W_O, that of a neuron's activation times its row of
W_out, and for a sublayer the sum over its components. The logit lens (nostalgebraist 2020) reads it
in place of a residual stream: the final norm, then the unembedding. What both add whatever they
read, their biases, is no output of the part and is left out.

A trace projects every token of a text onto an emotion's direction, layer by layer. Zero is where
neutral prompts stand at such a place: at their first token, which takes up what attention need not
look at, at their last position, where the reply begins, or on average at all others. One is how far
asking for the emotion moves the projection at the last position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from einops import einsum
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from circuits.effects.activations import Differences, group_by_context, read_activations
from circuits.effects.directions import Directions
from circuits.errors import AxisError, DataError, ModelError
from circuits.judges.replies import Reply
from circuits.models.families import along_heads, along_neurons, head_weights, neuron_weights
from circuits.models.generate import batches
from circuits.models.memory import halving_tables
from circuits.models.protocol import Model, device_of, dtype_of
from circuits.models.run import capture, watch
from circuits.models.tokens import encode, encode_text, pad_left
from circuits.names import component
from circuits.prompts.prompt import Prompt
from circuits.prompts.sev import Context
from circuits.prompts.templates import emotion_prompts, neutral_prompts
from circuits.records import Record
from circuits.running import advance, in_force

__all__ = [
    "HeadPatterns",
    "NodeExamples",
    "TokenLens",
    "TokenTrace",
    "TraceScale",
    "head_patterns",
    "node_examples",
    "output_logits",
    "token_lens",
    "token_texts",
    "token_trace",
    "trace_scale",
]


@torch.no_grad()
def output_logits(model: Model, writes: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Logits of writes that are each given the size of a normed stream: direction alone counts.

    A write of zero gives zeros.
    """
    size = writes.float().square().mean(-1, keepdim=True).sqrt()
    unit = writes.float() / size.clamp_min(1e-30)
    # A model reads [prompt pos d_model]; the row beside them says what is added to all.
    read = torch.cat([unit, torch.zeros_like(unit[:1])])[None]
    wrapped: Any = model
    stream = read.to(device=device_of(model), dtype=dtype_of(model))
    logits = wrapped.unembed(wrapped.ln_final(stream))[0].float().cpu()
    return logits[:-1] - logits[-1]


def token_texts(model: Model, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of every token; a piece of a character is shown as a replacement sign.

    Raises:
        ModelError: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise ModelError("the model has no tokenizer; load it with one")
    return tuple(str(model.tokenizer.decode([i])) for i in ids)


_ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class TokenLens(Record):
    """Logits of what components write for an emotion beyond the mean of the emotions.

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
    model: Model, between: Differences, nodes: Sequence[str], *, most: int = 10
) -> TokenLens:
    """The ``most`` tokens at either end, for every node and emotion; costs no pass.

    Args:
        model: Gives the output weights, the final norm and the unembedding.
        between: Differences relative to the mean over the emotions.
        nodes: Heads, neurons and sublayers.
        most: Tokens at either end.
    """
    # Models may have more rows than their tokenizer has tokens.
    known = len(model.tokenizer)
    parts, found = [component(name) for name in nodes], dict[str, Tensor]()
    layers = zip(head_weights(model), neuron_weights(model), strict=True)
    for layer, (W_O, W_out) in enumerate(layers):
        heads = einsum(between.z[:, layer], W_O, "emotion head k, head k m -> emotion head m")
        post = between.post[:, layer]
        for part in parts:
            if part.layer == layer and part.kind == "head":
                found[part.name] = heads[:, part.index]
            elif part.layer == layer and part.kind == "neuron":
                found[part.name] = post[:, part.index, None] * W_out[part.index]
            elif part.layer == layer:
                found[part.name] = heads.sum(1) if part.sublayer == "attn" else post @ W_out
    writes = torch.stack([found[name] for name in nodes], dim=1)
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
        promoted=up,
        promoted_token=places[0],
        suppressed=down,
        suppressed_token=places[1],
        emotion=between.emotion,
        node=tuple(nodes),
        rank=tuple(range(1, most + 1)),
        word=token_texts(model, ids.tolist()),
    )


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
    model: Model, rows: Sequence[Sequence[Prompt]], directions: Directions, nodes: Sequence[str]
) -> NodeExamples:
    """Run every prompt once.

    Args:
        model: The model.
        rows: Per context its prompts, one for each of the directions' emotions in their order.
        directions: What effects are read along.
        nodes: Heads and neurons.

    Raises:
        DataError: there is no context, or a context lacks an emotion.
    """
    if not rows:
        raise DataError("no context to read examples from; give one or more")
    for own in rows:
        if tuple(prompt.emotion for prompt in own) != directions.emotion:
            raise DataError(
                f"context {own[0].origin.id if own else 'without prompts'!r} is not asked for "
                f"{', '.join(directions.emotion)} in this order; give one prompt for each"
            )
    asked = [Reply(prompt, "", 0, str(prompt.emotion)) for own in rows for prompt in own]
    read = read_activations(model, group_by_context(asked, directions.emotion))
    along = along_heads(model, directions.sel(sublayer="attn").vectors[:, 0])
    beta = along_neurons(model, directions.sel(sublayer="mlp").vectors[:, 0])
    effects: list[Float[Tensor, "context emotion"]] = []
    for part in map(component, nodes):
        layer, i = part.layer, part.index
        if part.kind == "head":
            value, weight = read.z[:, :, layer, i], along[:, layer, i]
        else:
            value, weight = read.post[:, :, layer, i, None], beta[:, layer, i, None]
        effects.append(((value - value.mean(1, keepdim=True)) * weight).sum(-1))
    contexts = [own[0].origin for own in rows]
    return NodeExamples(
        effect=torch.stack(effects, dim=-1),
        context=tuple(context.id for context in contexts),
        emotion=directions.emotion,
        node=tuple(nodes),
        theme=tuple(context.theme for context in contexts),
        valence=tuple(context.valence for context in contexts),
        situation=tuple(context.situation for context in contexts),
        event=tuple(context.event for context in contexts),
    )


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
    model: Model, rows: Sequence[Sequence[Prompt]], emotions: Sequence[str], nodes: Sequence[str]
) -> HeadPatterns:
    """Run the prompts of one context after the other, each context's together.

    Args:
        model: The model.
        rows: Per context its prompts, one for each emotion.
        emotions: The emotions that are asked for, in the order of the prompts.
        nodes: Heads.

    Raises:
        DataError: there is no context or no head.
    """
    if not rows or not nodes:
        raise DataError("patterns need one context and one head at least")
    ids = [[encode(model, prompt) for prompt in own] for own in rows]
    width = max(len(prompt) for own in ids for prompt in own)
    found = torch.zeros(len(rows), len(emotions), len(nodes), width, width, dtype=torch.uint8)
    parts = [component(name) for name in nodes]
    for own, into in zip(ids, found, strict=True):

        def take(layer: int, activation: Tensor, into: Tensor = into) -> None:
            size = activation.shape[-1]
            for place, part in enumerate(parts):
                if part.layer == layer:
                    rounded = (255 * activation[:, part.index].float()).round().to(torch.uint8)
                    into[:, place, width - size :, width - size :] = rounded.cpu()

        watch(model, pad_left(own, device_of(model)), {"pattern": take})
        for prompt, values in zip(own, into, strict=True):
            # What stands at padding attends to padding, and means nothing.
            values[:, : width - len(prompt)] = 0
            values[:, :, : width - len(prompt)] = 0
    return HeadPatterns(
        weight=found,
        context=tuple(own[0].origin.id for own in rows),
        emotion=tuple(emotions),
        node=tuple(nodes),
        tokens=tuple(tuple(token_texts(model, prompt) for prompt in own) for own in ids),
    )


_PLACES: Final = ("first", "other", "last")
_FIRST, _OTHER, _LAST = range(3)
_SURE = 1.96


@dataclass(frozen=True, eq=False)
class TraceScale(Record):
    """Zero and one of a trace."""

    plain: Float[Tensor, "place layer d_model"]
    """Mean residual stream after every layer in neutral prompts."""
    moved: Float[Tensor, "emotion layer"]
    """How far asking moves the projection at the last position, in units of the stream."""
    stderr: Float[Tensor, "emotion layer"]
    """Standard error of :attr:`moved` over contexts."""

    place: tuple[str, ...]
    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    n_contexts: int


@dataclass(frozen=True, eq=False)
class TokenTrace(Record):
    """Every token of a text along the direction of every emotion."""

    value: Float[Tensor, "emotion layer pos"]
    """0: as in neutral prompts; 1: as far towards the emotion as asking for it moves the last
    prompt position. NaN where asking does not move the stream along the direction (its 95% interval
    reaches zero or lies below)."""

    emotion: tuple[str, ...]
    layer: tuple[int, ...]
    pos: tuple[str, ...]
    """``12 word``: the place of a token, a space, and the token, which may begin with another."""
    n_prompt: int
    """Tokens before the reply; all of them if there is none."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens as text."""
        return tuple(label.split(" ", 1)[1] for label in self.pos)


def trace_scale(model: Model, contexts: Sequence[Context], directions: Directions) -> TraceScale:
    """Where traces are zero and one, from some contexts; a pass per context and emotion, and one.

    Args:
        model: The model to be traced.
        contexts: At least two; a dozen is enough.
        directions: The emotions' directions after the MLP of every layer.

    Raises:
        DataError: there are fewer than two contexts.
        AxisError: the directions are another model's.
    """
    if len(contexts) < 2:
        raise DataError(f"a trace's scale needs two contexts or more, found {len(contexts)}")
    vectors, emotions = _vectors(directions, model), directions.emotion
    plain = _places(model, neutral_prompts(contexts))
    asked = _places(model, emotion_prompts(contexts, emotions))[:, _LAST]
    apart = asked.unflatten(0, (len(contexts), len(emotions))) - plain[:, None, _LAST]
    pattern = "context emotion layer d_model, emotion layer d_model -> context emotion layer"
    moved = einsum(apart, vectors.double(), pattern)
    return TraceScale(
        provenance=directions.provenance.child(contexts=len(contexts)),
        plain=plain.mean(0).float(),
        moved=moved.mean(0).float(),
        stderr=(moved.std(0) / len(contexts) ** 0.5).float(),
        place=_PLACES,
        emotion=emotions,
        layer=directions.layer,
        n_contexts=len(contexts),
    )


def token_trace(
    model: Model, said: Prompt | Reply | str, directions: Directions, scale: TraceScale
) -> TokenTrace:
    """Trace a text through the model; one pass.

    Args:
        model: Reads the text as it is: edits that a reply was written under are not applied again.
        said: A prompt, a prompt with its reply, or any text.
        directions: After the MLP of every layer.
        scale: Where the trace is zero and one.

    Raises:
        DataError: the text is empty.
        AxisError: directions or scale are another model's, or of other emotions.
    """
    if isinstance(said, str):
        ids, begin = encode_text(model, said), model.tokenizer.bos_token_id
        ids = [begin, *ids] if ids and begin is not None and ids[0] != begin else ids
        n_prompt = len(ids)
    else:
        ids = encode(model, said.prompt if isinstance(said, Reply) else said)
        n_prompt = len(ids)
        ids = ids + (encode_text(model, said.text) if isinstance(said, Reply) else [])
    if not ids:
        raise DataError("an empty text has no tokens to trace; give some text")
    vectors = _vectors(directions, model)
    if scale.plain.shape[1:] != vectors.shape[1:] or scale.emotion != directions.emotion:
        raise AxisError("the scale was made with other directions; make one with these")
    stream = capture(model, pad_left([ids], device_of(model)), {"resid_post": lambda x: x})
    places = torch.full((len(ids),), _OTHER)
    places[0] = _FIRST
    if not isinstance(said, str):
        places[n_prompt - 1] = _LAST
    apart = stream["resid_post"][0].cpu() - scale.plain[places].transpose(0, 1)
    along = einsum(apart, vectors, "layer pos d_model, emotion layer d_model -> emotion layer pos")
    unit = scale.moved.where(scale.moved > _SURE * scale.stderr, torch.nan)
    return TokenTrace(
        provenance=directions.provenance.child(scale=scale.provenance.fingerprint()),
        value=along / unit[..., None],
        emotion=directions.emotion,
        layer=directions.layer,
        pos=tuple(f"{i} {model.tokenizer.decode([token])}" for i, token in enumerate(ids)),
        n_prompt=n_prompt,
    )


def _places(model: Model, prompts: Sequence[Prompt]) -> Float[Tensor, "prompt place layer d_model"]:
    """The residual stream after every layer at each of the places."""
    rows = [encode(model, prompt) for prompt in prompts]
    size = (len(rows), len(_PLACES), int(model.cfg.n_layers), int(model.cfg.d_model))
    found = torch.zeros(size, dtype=torch.float64)

    def read(chosen: Sequence[int]) -> dict[str, Tensor]:
        tokens = pad_left([rows[i] for i in chosen], device_of(model))
        row, first = torch.arange(len(chosen)), tokens.mask.int().argmax(1)
        weight = tokens.mask.float()
        weight[row, first] = weight[:, -1] = 0.0

        def pick(activation: Tensor) -> Tensor:
            stream = activation.float()
            other = (stream * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
            return torch.stack([stream[row, first], other, stream[:, -1]], dim=1)

        return capture(model, tokens, {"resid_post": pick})

    for chosen in batches(rows, in_force().rows(32)):
        read_rows = halving_tables(read, chosen, lambda place: prompts[place].key)
        found[chosen] = read_rows["resid_post"].transpose(1, 2).double().cpu()
        advance(len(chosen))
    return found


def _vectors(directions: Directions, model: Model) -> Float[Tensor, "emotion layer d_model"]:
    own = directions.sel(sublayer="mlp").vectors[:, 0]
    size = (int(model.cfg.n_layers), int(model.cfg.d_model))
    if tuple(own.shape[1:]) != size:
        raise AxisError(
            f"the model has {size[0]} layers of width {size[1]}, the directions "
            f"{own.shape[1]} of width {own.shape[2]}; are they another model's?"
        )
    return own
