"""Components and tokens up close: logit lens, top contexts, attention patterns, traces of texts.

What the output layer makes of a write: the logits that it gives by itself.

The logit lens (nostalgebraist 2020) put to the write of one part in place of a residual stream:
the final norm, then the unembedding. What both add whatever they read, their biases, is no
output of the part and is left out.

Tokens that heads, neurons and sublayers promote and suppress.

What a part writes differently when an emotion is asked for is a direction in the residual
stream: the mean difference of a head's output times W_O, that of a neuron's activation times its
row of W_out, and for a sublayer the sum over its components. The logit lens reads it.

What single heads and neurons do in single contexts: which contexts a part answers most.

The same quantity whose mean over contexts is a part's centred effect, not summed up.

How far every token of a text stands along an emotion's direction, layer by layer.

A projection of the residual stream onto the emotion's direction. Zero is where neutral prompts
stand at such a place: at their first token, which takes up what attention need not look at, at
their last position, where the reply begins, or on average at all others. One is how far asking for
the emotion moves the projection at the last position.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from einops import einsum
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from circuits.effects.activations import Differences
from circuits.effects.directions import Directions
from circuits.errors import AxisError, DataError, ModelError
from circuits.judges.replies import Reply
from circuits.models.families import along_heads, along_neurons, head_weights, neuron_weights
from circuits.models.generate import batches
from circuits.models.memory import halving
from circuits.models.protocol import Model, device_of, dtype_of
from circuits.models.run import capture, watch
from circuits.models.tokens import Tokens, encode, encode_text, pad_left
from circuits.names import Component, component, sublayer_name
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
    _check(rows, directions)
    parts, many = [component(name) for name in nodes], len(directions.emotion)
    heads = [part for part in parts if part.kind == "head"]
    neurons = [part for part in parts if part.kind == "neuron"]
    along = _chosen(along_heads(model, directions.sel(sublayer="attn").vectors[:, 0]), heads)
    beta = _chosen(along_neurons(model, directions.sel(sublayer="mlp").vectors[:, 0]), neurons)
    found: list[Float[Tensor, "context emotion node"]] = []
    together = max(1, in_force().rows() // many)
    for start in range(0, len(rows), together):
        prompts = [prompt for own in rows[start : start + together] for prompt in own]
        tokens = pad_left([encode(model, prompt) for prompt in prompts], device_of(model))
        read = capture(model, tokens, {"z": _last, "post": _last})
        z = _apart(_chosen(read["z"], heads), many)
        post = _apart(_chosen(read["post"], neurons), many)
        found.append(torch.cat([(z * along).sum(-1), post * beta], dim=-1))
        advance(len(prompts))
    order = [part.name for part in (*heads, *neurons)]
    contexts = [own[0].origin for own in rows]
    return NodeExamples(
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
                f"context {own[0].origin.id if own else 'without prompts'!r} is not asked for "
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
    ids, n_prompt = _ids(model, said)
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


def _ids(model: Model, said: Prompt | Reply | str) -> tuple[list[int], int]:
    if isinstance(said, str):
        ids, begin = encode_text(model, said), model.tokenizer.bos_token_id
        ids = [begin, *ids] if ids and begin is not None and ids[0] != begin else ids
        return ids, len(ids)
    prompt = said.prompt if isinstance(said, Reply) else said
    before = encode(model, prompt)
    after = encode_text(model, said.text) if isinstance(said, Reply) else []
    return before + after, len(before)


def _places(model: Model, prompts: Sequence[Prompt]) -> Float[Tensor, "prompt place layer d_model"]:
    """The residual stream after every layer at each of the places."""
    rows = [encode(model, prompt) for prompt in prompts]
    size = (len(rows), len(_PLACES), int(model.cfg.n_layers), int(model.cfg.d_model))
    found = torch.zeros(size, dtype=torch.float64)

    def keep(chosen: Sequence[int]) -> None:
        tokens = pad_left([rows[i] for i in chosen], device_of(model))
        shares = _shares(tokens)

        def pick(activation: Tensor, shares: Tensor = shares) -> Tensor:
            pattern = "prompt place pos, prompt pos d_model -> prompt place d_model"
            return einsum(shares, activation.float(), pattern)

        read = capture(model, tokens, {"resid_post": pick})["resid_post"]
        found[chosen] = read.transpose(1, 2).double().cpu()

    for chosen in batches(rows, in_force().rows(32)):
        halving(keep, chosen, lambda place: prompts[place].key)
        advance(len(chosen))
    return found


def _shares(tokens: Tokens) -> Float[Tensor, "prompt place pos"]:
    """What each position counts for each place."""
    rows, width = tokens.mask.shape
    shares = torch.zeros(rows, len(_PLACES), width, device=tokens.mask.device)
    first = tokens.mask.int().argmax(1)
    shares[torch.arange(rows), _FIRST, first] = 1.0
    shares[:, _LAST, -1] = 1.0
    other = tokens.mask.float() - shares[:, _FIRST] - shares[:, _LAST]
    shares[:, _OTHER] = other / other.sum(1, keepdim=True)
    return shares


def _vectors(directions: Directions, model: Model) -> Float[Tensor, "emotion layer d_model"]:
    own = directions.sel(sublayer="mlp").vectors[:, 0]
    size = (int(model.cfg.n_layers), int(model.cfg.d_model))
    if tuple(own.shape[1:]) != size:
        raise AxisError(
            f"the model has {size[0]} layers of width {size[1]}, the directions "
            f"{own.shape[1]} of width {own.shape[2]}; are they another model's?"
        )
    return own
