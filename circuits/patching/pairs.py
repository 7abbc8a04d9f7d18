"""Pairs of prompts, what is read of them, and the clean and corrupt runs that patching is between.

Readouts: the number that a run is judged by.

Three kinds, all differentiable and larger for "more of the emotion": the projection of the last
residual stream on the emotion's reference direction; the logits of the emotion's words above
those of the other emotions' words; and how much more likely a reply with the emotion is than one
without.

Pairs of runs of one context: the emotion asked for (clean), and not (corrupt).

The two prompts differ in the asking line only. Counted from the end their tokens therefore match
one by one, back to the first token that differs: for two emotions that is the last token of the
emotion word, which is matched with the last token of the other one. Tokens before it are the same
in both prompts, so nothing that is read there can differ (attention is causal).

What a patching sweep stands on: the run that is changed, and the run new values come from.

Denoising changes the corrupt run with values of the clean one, noising the clean run with values
of the corrupt one. Effects have one sign in both: with the clean value minus without it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.effects.directions import Directions, reference_direction
from circuits.errors import AxisError, DataError
from circuits.models.protocol import Hook, Model, device_of
from circuits.models.run import CachedRun, cache_run, resume
from circuits.models.tokens import (
    ROLES,
    Labelled,
    Tokens,
    encode,
    encode_text,
    label_prompt,
    pad_left,
)
from circuits.names import hook
from circuits.prompts.prompt import Prompt, PromptLike, as_prompts
from circuits.prompts.sev import Context
from circuits.prompts.templates import Template, emotion_prompt, neutral_prompt

__all__ = [
    "By",
    "Case",
    "LogitDifference",
    "LogitWords",
    "Mode",
    "Pair",
    "Places",
    "Projection",
    "Readout",
    "ReplyLikelihood",
    "Span",
    "cases",
    "clean_tokens",
    "corrupt_tokens",
    "find_places",
    "logit_difference",
    "make_pair",
    "make_pairs",
    "pairs_between",
    "projection",
    "spans",
]


@dataclass(frozen=True, eq=False)
class Projection:
    """Projection of the last layer's resid_post, at the last position, on a unit direction.

    Unit: length in the residual stream. Linear, so effects of parallel changes add up.
    """

    vector: Float[Tensor, " d_model"]
    name: str = "projection"
    site: str = "resid_post"
    """``resid_post`` of the last layer, or ``final``, after the final norm."""

    def score(self, at_last: Float[Tensor, "row width"]) -> Float[Tensor, " row"]:
        """The readout of every row, given the activation at the last position."""
        return at_last.to(self.vector.dtype) @ self.vector.to(at_last.device)


@dataclass(frozen=True, eq=False)
class LogitDifference:
    """Mean logit of the emotion's words minus the mean over the other emotions' words.

    A word counts by the first token that it has as the first word of a reply. Unit: logits.
    """

    own: Int[Tensor, " token"]
    others: Int[Tensor, " other_token"]
    name: str = "logit difference"
    site: str = "logits"

    def score(self, at_last: Float[Tensor, "row width"]) -> Float[Tensor, " row"]:
        """The readout of every row, given the logits at the last position."""
        return at_last[:, self.own].mean(1) - at_last[:, self.others].mean(1)

    @classmethod
    def of_words(
        cls, model: Model, words: Mapping[str, Sequence[str]], emotion: str
    ) -> "LogitDifference":
        """From word sets per emotion; tokens that several emotions share are left out.

        Raises:
            AxisError: there are no words for the emotion.
            DataError: no token is the emotion's alone.
        """
        if emotion not in words:
            raise AxisError(f"no words for {emotion!r}; there are words for {', '.join(words)}")
        first = {e: {encode_text(model, word)[0] for word in own} for e, own in words.items()}
        others = set().union(*(own for e, own in first.items() if e != emotion))
        own = first[emotion] - others
        others -= first[emotion]
        if not own or not others:
            raise DataError(
                f"the words of {emotion!r} share all their first tokens with other emotions; "
                "give words that begin differently"
            )
        return cls(torch.tensor(sorted(own)), torch.tensor(sorted(others)))


@dataclass(frozen=True)
class LogitWords:
    """A logit difference of words, which becomes one of tokens when the model is known."""

    own: tuple[str, ...]
    others: tuple[str, ...]

    def of(self, model: Model) -> LogitDifference:
        """The same with the model's tokens.

        Raises:
            DataError: a word is several tokens for the model.
        """
        own, others = (
            torch.tensor([_single_token(model, word) for word in words])
            for words in (self.own, self.others)
        )
        return LogitDifference(own, others)


def logit_difference(own: str | Sequence[str], others: str | Sequence[str]) -> LogitWords:
    """Logit of one word minus that of another (means, if several are given) as the next token.

    Words are taken as they are, so most begin with a space.

    >>> logit_difference(" afraid", [" calm", " glad"]).others
    (' calm', ' glad')

    Raises:
        DataError: a word is empty.
    """
    found = [(words,) if isinstance(words, str) else tuple(words) for words in (own, others)]
    if not all(found) or not all(word for words in found for word in words):
        raise DataError("a logit difference is between words; one of them is empty")
    return LogitWords(*found)


def _single_token(model: Model, word: str) -> int:
    ids = encode_text(model, word)
    if len(ids) != 1:
        pieces = model.tokenizer.convert_ids_to_tokens(ids)
        raise DataError(
            f"{word!r} is {len(ids)} tokens for this model ({', '.join(map(repr, pieces))}); "
            "give a word that is a single one, often with a space before it"
        )
    return ids[0]


@dataclass(frozen=True, eq=False)
class ReplyLikelihood:
    """Log-probability of the clean reply minus that of the corrupt reply, per token.

    Needs replies: what was said (and judged) in the clean and in the corrupt run of each context.
    Unit: nats per token.
    """

    clean: Mapping[str, tuple[int, ...]] = field(repr=False)
    """Context id -> token ids of the reply to the clean prompt."""
    corrupt: Mapping[str, tuple[int, ...]] = field(repr=False)
    name: str = "reply likelihood"
    site: str = "logits"

    def tails(self, context: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The two continuations of a context: with the emotion, without it.

        Raises:
            DataError: a reply is missing or empty.
        """
        found = self.clean.get(context, ()), self.corrupt.get(context, ())
        if not all(found):
            lacking = "clean" if not found[0] else "corrupt"
            raise DataError(f"no {lacking} reply for context {context}; give judged replies")
        return found


Readout = Projection | LogitDifference | ReplyLikelihood


def projection(directions: Directions, emotion: str, layers: tuple[int, ...]) -> Projection:
    """Projection on the emotion's reference direction, made from the directions of ``layers``.

    Raises:
        AxisError: the emotion or a layer is absent.
    """
    place = directions.index("emotion", emotion)
    return Projection(reference_direction(directions, layers)[place])


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupt prompt of one context, matched from the end."""

    context: Context
    emotion: str
    """Asked for in the clean prompt; the readout is this emotion's."""
    other: str | None
    """Asked for in the corrupt prompt; ``None``: plain."""
    clean: Labelled
    corrupt: Labelled
    matched: int
    """How many tokens, counted from the end, have a counterpart in the other prompt."""

    @property
    def name(self) -> str:
        """``work_00/positive, anger against plain``."""
        return f"{self.context.id}, {self.emotion} against {self.other or 'neutral'}"

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the matched tokens, as the clean prompt has them."""
        return self.clean.roles[-self.matched :]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The matched tokens; where the two prompts differ, both."""
        pairs = zip(
            self.clean.tokens[-self.matched :], self.corrupt.tokens[-self.matched :], strict=True
        )
        return tuple(a if a == b else f"{a}|{b}" for a, b in pairs)

    def places(self, role: str) -> tuple[int, ...]:
        """Matched positions of a role, counted from the end (``-1`` is the last token).

        Raises:
            AxisError: the role has no counterpart in the other prompt, or does not occur.
        """
        found = tuple(i - self.matched for i, own in enumerate(self.roles) if own == role)
        if not found:
            other = f"asked for {self.other}" if self.other else "neutral"
            matched = ", ".join(dict.fromkeys(self.roles))
            raise AxisError(
                f"role {role!r} of the prompt asked for {self.emotion} has no counterpart in the "
                f"{other} prompt of context {self.context.id}; matched roles are {matched}"
            )
        return found


def make_pair(
    model: Model,
    context: Context,
    emotion: str,
    other: str | None = None,
    template: str | Template = "published",
) -> Pair:
    """The pair of a context.

    Args:
        model: Its tokenizer and chat template.
        context: What both prompts are about.
        emotion: Asked for in the clean prompt.
        other: Asked for in the corrupt prompt, or ``None`` for the neutral prompt.
        template: How contexts become prompts.

    Raises:
        DataError: both prompts are the same, or they end differently.
        ModelError: roles cannot be found.
    """
    clean = label_prompt(model, emotion_prompt(context, emotion, template))
    corrupt = label_prompt(
        model,
        neutral_prompt(context, template)
        if other is None
        else emotion_prompt(context, other, template),
    )
    if clean.ids == corrupt.ids:
        raise DataError(
            f"the clean and the corrupt prompt of context {context.id} are the same "
            f"({emotion!r} against {other!r}); choose another emotion"
        )
    matched = 0
    for a, b in zip(reversed(clean.ids), reversed(corrupt.ids), strict=False):
        if a != b:
            break
        matched += 1
    if clean.roles[len(clean.ids) - matched - 1] == "emotion" == _role_before(corrupt, matched):
        matched += 1
    if matched == 0:
        raise DataError(
            f"the prompts of context {context.id} share no token at their end, so nothing can be "
            "matched; the chat template must write the instruction before the context"
        )
    return Pair(context, emotion, other, clean, corrupt, matched)


def make_pairs(
    model: Model,
    contexts: Sequence[Context],
    emotion: str,
    other: str | None = None,
    template: str | Template = "published",
) -> list[Pair]:
    """One pair per context; see :func:`make_pair`."""
    return [make_pair(model, context, emotion, other, template) for context in contexts]


def pairs_between(
    model: Model,
    clean: PromptLike | Sequence[PromptLike],
    corrupt: PromptLike | Sequence[PromptLike],
) -> list[Pair]:
    """Pairs of any two prompts, or of two sequences of prompts, one by one.

    Prompts of as many tokens are matched position by position. Otherwise they are matched from the
    end, as far back as their tokens are the same.

    Raises:
        DataError: the numbers differ, two prompts are the same, or prompts of different length end
            differently.
    """
    sides = as_prompts(clean), as_prompts(corrupt)
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{len(sides[0])} clean and {len(sides[1])} corrupt prompts are given; each clean "
            "prompt needs one corrupt prompt"
        )
    return [_between(model, i, *both) for i, both in enumerate(zip(*sides, strict=True))]


def _between(model: Model, place: int, clean: Prompt, corrupt: Prompt) -> Pair:
    left, right = (_labelled(model, prompt) for prompt in (clean, corrupt))
    if left.ids == right.ids:
        raise DataError(f"the clean and the corrupt prompt {clean.key} are the same")
    matched = len(left.ids) if len(left.ids) == len(right.ids) else 0
    if not matched:
        for a, b in zip(reversed(left.ids), reversed(right.ids), strict=False):
            if a != b:
                break
            matched += 1
    if not matched:
        raise DataError(
            f"the clean prompt has {len(left.ids)} tokens, the corrupt one {len(right.ids)}, and "
            "they end differently, so no position can be matched; give prompts of equal length or "
            "with the same ending"
        )
    context = clean.context or Context(f"pair_{place:04d}", "prompts", "neutral", "", "")
    return Pair(context, "clean", "corrupt", left, right, matched)


def _labelled(model: Model, prompt: Prompt) -> Labelled:
    ids = encode(model, prompt)
    tokens = model.tokenizer.convert_ids_to_tokens(ids) if model.tokenizer else map(str, ids)
    return Labelled(tuple(ids), tuple(tokens), ("frame",) * (len(ids) - 1) + ("last",))


def clean_tokens(model: Model, pairs: Sequence[Pair]) -> Tokens:
    """The clean prompts as a batch, padded on the left: matched tokens stand under each other."""
    return pad_left([pair.clean.ids for pair in pairs], device_of(model))


def corrupt_tokens(model: Model, pairs: Sequence[Pair]) -> Tokens:
    """The corrupt prompts as a batch, padded on the left."""
    return pad_left([pair.corrupt.ids for pair in pairs], device_of(model))


def _role_before(labelled: Labelled, matched: int) -> str:
    place = len(labelled.ids) - matched - 1
    return labelled.roles[place] if place >= 0 else ""


Mode = Literal["denoising", "noising"]

_LOGITS = "unembed.hook_out"


@dataclass(frozen=True, eq=False)
class Case:
    """Some pairs' runs, padded on the left, so that matched tokens stand under each other."""

    model: Model
    base: CachedRun
    """The run that is changed."""
    source: CachedRun
    """The run that new values come from."""
    matched: Bool[Tensor, "pair pos"]
    """Which of the last positions (the widest pair's) have a counterpart; tails have none."""
    tail: int
    """Tokens of a reply after the prompt."""
    rows: slice
    """Which of the pairs asked for."""
    sign: float
    """What a rise of the readout counts: negative in noising, and for the reply without it."""
    sign_of_clean: float
    """1 in denoising, where the other run is the clean one; -1 in noising."""
    reads: str
    """The hook that the readout reads."""
    score: Callable[[Float[Tensor, "row pos width"]], Float[Tensor, " row"]]

    @property
    def n_pairs(self) -> int:
        """Pairs side by side."""
        return len(self.matched)

    @property
    def width(self) -> int:
        """Positions that may differ, tail included, counted from the end."""
        return self.matched.shape[1]

    def kept(self, site: str, layer: int) -> Tensor:
        """The base run's activation at the last :attr:`width` positions."""
        return self.base.sites[site][layer][:, -self.width :]

    def given(self, site: str, layer: int) -> Tensor:
        """The other run's activation at the same positions."""
        return self.source.sites[site][layer][:, -self.width :]

    def change(self, site: str, layer: int) -> Tensor:
        """Other run minus base run, zero where there is no counterpart."""
        apart = self.given(site, layer) - self.kept(site, layer)
        return apart * self.matched.reshape(*self.matched.shape, *[1] * (apart.ndim - 2))

    def read(
        self,
        rows: Sequence[int],
        start: int,
        layer: int,
        resid: Float[Tensor, "row pos d_model"],
        hooks: Sequence[Hook] = (),
        *,
        all_positions: bool = False,
    ) -> Float[Tensor, " row"]:
        """Signed readout of runs that go on from the base run.

        See :func:`~circuits.models.run.resume`; ``start`` counts within :attr:`width`.
        ``all_positions``: the hooks need all positions of the last MLP.
        """
        seen: list[Tensor] = []

        def see(activation: Tensor, hook: object) -> None:
            seen.append(activation)

        if layer == self.model.cfg.n_layers and self.is_stream:
            return self.sign * self.score(resid)
        offset = self.base.width - self.width
        resume(
            self.model,
            self.base,
            rows,
            offset + start,
            layer,
            resid,
            [*hooks, (self.reads, see)],
            ends=self.tail + 1,
            short=not all_positions,
        )
        return self.sign * self.score(seen[0])

    @property
    def is_stream(self) -> bool:
        """Is the readout read from the last residual stream itself?"""
        return self.reads == hook("resid_post", self.model.cfg.n_layers - 1)

    @property
    def end(self) -> int:
        """The last prompt position, counted within :attr:`width`.

        What comes before it cannot reach the readout once the last layer has written.
        """
        return self.width - self.tail - 1

    @cached_property
    def baseline(self) -> Float[Tensor, " pair"]:
        """Signed readout of the base runs as they are."""
        return self._untouched(self.kept("resid_post", self.model.cfg.n_layers - 1))

    def other(self) -> Float[Tensor, " pair"]:
        """Signed readout of the other runs as they are."""
        return self._untouched(self.given("resid_post", self.model.cfg.n_layers - 1))

    def _untouched(self, resid: Tensor) -> Float[Tensor, " pair"]:
        rows = range(self.n_pairs)
        return self.read(rows, self.end, self.model.cfg.n_layers, resid[:, self.end :])


def cases(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    mode: Mode,
    sites: Sequence[str],
) -> Iterator[Case]:
    """The case of these pairs; for a reply likelihood two per pair, with either reply.

    Raises:
        DataError: a reply is missing.
    """
    if not isinstance(readout, ReplyLikelihood):
        yield _case(model, pairs, readout, mode, sites, slice(None))
        return
    for row, pair in enumerate(pairs):
        for tail, sign in zip(readout.tails(pair.context.id), (1.0, -1.0), strict=True):
            yield _case(model, [pair], readout, mode, sites, slice(row, row + 1), tail, sign)


def _case(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    mode: Mode,
    sites: Sequence[str],
    rows: slice,
    tail: tuple[int, ...] = (),
    sign: float = 1.0,
) -> Case:
    device = device_of(model)
    clean = pad_left([(*pair.clean.ids, *tail) for pair in pairs], device)
    corrupt = pad_left([(*pair.corrupt.ids, *tail) for pair in pairs], device)
    base, other = (corrupt, clean) if mode == "denoising" else (clean, corrupt)
    width = max(pair.matched for pair in pairs) + len(tail)
    places = torch.arange(width, device=device)
    starts = torch.tensor([width - len(tail) - pair.matched for pair in pairs], device=device)
    matched = (places >= starts[:, None]) & (places < width - len(tail))
    wanted = tuple(dict.fromkeys((*sites, "resid_post")))
    source, of_clean = cache_run(model, other, wanted), 1.0 if mode == "denoising" else -1.0
    if isinstance(readout, ReplyLikelihood):
        reads, score = _LOGITS, _likelihood(torch.tensor(tail, device=device))
    else:
        reads, score = _place(model, readout.site), _last(readout.score)
    return Case(
        model,
        cache_run(model, base, wanted),
        source,
        matched,
        len(tail),
        rows,
        sign * of_clean,
        of_clean,
        reads,
        score,
    )


def _place(model: Model, site: str) -> str:
    return _LOGITS if site == "logits" else hook(site, model.cfg.n_layers - 1)


def _last(score: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def at_last(activation: Tensor) -> Tensor:
        return score(activation[:, -1])

    return at_last


def _likelihood(tail: Tensor) -> Callable[[Tensor], Tensor]:
    def per_token(logits: Tensor) -> Tensor:
        # The token before each of the reply's tokens says how likely that token is.
        before = logits[:, -len(tail) - 1 : -1].float().log_softmax(-1)
        return before.gather(-1, tail.expand(len(logits), -1)[..., None]).mean((1, 2))

    return per_token


By = Literal["position", "role", "all", "last"]
"""``position``: every matched position by itself, counted from the end. ``role``: all matched
positions of a role at once. ``all``: all matched positions at once. ``last``: the last one."""


@dataclass(frozen=True, eq=False)
class Places:
    """Places that every pair has."""

    names: tuple[str, ...]
    masks: Bool[Tensor, "pair place pos"]
    """The positions of each place, among the last ``pos`` of a prompt."""


def find_places(pairs: Sequence[Pair], by: str) -> Places:
    """The places of some pairs, by one of :data:`By`.

    Raises:
        DataError: there are no pairs, or they are of different emotions.
        AxisError: ``by`` is unknown.
    """
    if not pairs:
        raise DataError("there is no pair to patch; give one context or more")
    if len({(pair.emotion, pair.other) for pair in pairs}) > 1:
        raise DataError("pairs of different emotions cannot be averaged; patch them one by one")
    width = max(pair.matched for pair in pairs)
    if by == "position":
        least = min(pair.matched for pair in pairs)
        names, eye = _position_names(pairs, least), torch.eye(width, dtype=torch.bool)
        return Places(names, eye[width - least :].expand(len(pairs), -1, -1).clone())
    if by == "role":
        shared = set.intersection(*(set(pair.roles) for pair in pairs))
        names = tuple(role for role in ROLES if role in shared)
    elif by in ("all", "last"):
        names = (by,)
    else:
        raise AxisError(f"patches go by position, role, all or last; found {by!r}")
    masks = torch.zeros(len(pairs), len(names), width, dtype=torch.bool)
    for row, pair in enumerate(pairs):
        for column, name in enumerate(names):
            own = range(-pair.matched, 0) if name == "all" else pair.places(name)
            masks[row, column, [width + place for place in own]] = True
    return Places(names, masks)


@dataclass(frozen=True)
class Span:
    """Places that are patched side by side, in runs that begin at one position."""

    start: int
    places: tuple[int, ...]


def spans(masks: Bool[Tensor, "pair place pos"], per_place: int, tokens: int) -> Iterator[Span]:
    """Group places whose runs begin close to each other; those of no position are left out.

    Args:
        masks: Places within the positions that are run.
        per_place: Runs of each place.
        tokens: How many tokens to run at once.
    """
    anywhere = masks.any(0)
    firsts = anywhere.to(torch.uint8).argmax(-1).tolist()
    width = masks.shape[-1]
    some = anywhere.any(-1).nonzero()[:, 0].tolist()
    order = sorted(some, key=lambda place: firsts[place])
    group: list[int] = []
    for place in order:
        if group:
            start, rows = firsts[group[0]], (len(group) + 1) * per_place
            # Positions between the group's start and the place are run for nothing.
            wasted = (firsts[place] - start) / (width - start)
            if rows * (width - start) > tokens or wasted > 0.1:
                yield Span(start, tuple(group))
                group = []
        group.append(place)
    if group:
        yield Span(firsts[group[0]], tuple(group))


def _position_names(pairs: Sequence[Pair], count: int) -> tuple[str, ...]:
    if len(pairs) > 1:
        return tuple(str(place) for place in range(-count, 0))
    # Axis labels must differ, and words repeat; so each has its place beside it.
    return tuple(
        f"{place} {token!r}"
        for place, token in zip(range(-count, 0), pairs[0].tokens[-count:], strict=True)
    )
