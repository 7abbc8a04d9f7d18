"""How far every token of a text stands along an emotion's direction, layer by layer.

A projection of the residual stream onto the emotion's direction. Zero is where plain prompts stand
at such a place: at their first token, which takes up what attention need not look at, at their last
position, where the reply begins, or on average at all others. One is how far asking for the emotion
moves the projection at the last position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from circuits.data.prompts import Prompt, asked_prompts, plain_prompts
from circuits.data.replies import Reply
from circuits.data.sev import Context
from circuits.errors import AxisError, DataError
from circuits.measure.directions import Directions
from circuits.model.chat import Tokens, encode_prompt, encode_text, pad_left
from circuits.model.generation import batches
from circuits.model.halving import halving
from circuits.model.protocol import Model, device_of
from circuits.model.runs import capture
from circuits.records import Record

__all__ = ["TokenTrace", "TraceScale", "token_trace", "trace_scale"]

_PLACES: Final = ("first", "other", "last")
_FIRST, _OTHER, _LAST = range(3)
_SURE = 1.96


@dataclass(frozen=True, eq=False)
class TraceScale(Record):
    """Zero and one of a trace."""

    plain: Float[Tensor, "place layer d_model"]
    """Mean residual stream after every layer in plain prompts."""
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
    """0: as in plain prompts; 1: as far towards the emotion as asking for it moves the last prompt
    position. NaN where asking does not move the stream along the direction (its 95% interval
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


def trace_scale(
    model: Model, contexts: Sequence[Context], directions: Directions, *, batch_size: int = 32
) -> TraceScale:
    """Where traces are zero and one, from some contexts; a pass per context and emotion, and one.

    Args:
        model: The model to be traced.
        contexts: At least two; a dozen is enough.
        directions: The emotions' directions after the MLP of every layer.
        batch_size: Prompts at once.

    Raises:
        DataError: there are fewer than two contexts.
        AxisError: the directions are another model's.
    """
    if len(contexts) < 2:
        raise DataError(f"a trace's scale needs two contexts or more, found {len(contexts)}")
    vectors, emotions = _vectors(directions, model), directions.emotion
    plain = _places(model, plain_prompts(contexts), batch_size)
    asked = _places(model, asked_prompts(contexts, emotions), batch_size)[:, _LAST]
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
    stream = capture(model, pad_left([ids], device_of(model)), {"resid_post": _whole})
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
    before = encode_prompt(model, prompt)
    after = encode_text(model, said.text) if isinstance(said, Reply) else []
    return before + after, len(before)


def _places(
    model: Model, prompts: Sequence[Prompt], batch_size: int
) -> Float[Tensor, "prompt place layer d_model"]:
    """The residual stream after every layer at each of the places."""
    rows = [encode_prompt(model, prompt) for prompt in prompts]
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

    for chosen in batches(rows, batch_size):
        halving(keep, chosen, lambda place: prompts[place].key)
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


def _whole(activation: Tensor) -> Tensor:
    return activation
