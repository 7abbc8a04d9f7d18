"""What is read of a run, and matched clean and corrupt runs, on which all patching stands.

A readout is the number that a run is judged by, larger for "more of the emotion": the projection of
the last residual stream on the emotion's reference direction, the logits of its words above those
of the others' words, or how much more likely a reply with the emotion is than one without.

The clean prompt asks for the emotion, the corrupt one does not; both differ in the asking line
only. Counted from the end their tokens match one by one, back to the first that differs: for two
emotions the last token of either word, which are matched too. Tokens before it are the same in
both, so nothing that is read there can differ (attention is causal).

Denoising changes the corrupt run (the base) with values of the clean one (the other), noising the
clean run with values of the corrupt one. Effects have one sign in both: with the clean value minus
without it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.effects.activations import mean_stderr
from circuits.effects.directions import Directions, reference_direction
from circuits.errors import AxisError, DataError
from circuits.models.memory import halving_tables
from circuits.models.protocol import Hook, Model, device_of
from circuits.models.run import (
    CachedRun,
    Prefix,
    cache_run,
    check_values,
    hook_name,
    observe,
    prefill_prefix,
    resume,
)
from circuits.models.tokens import (
    ROLES,
    Labelled,
    Tokens,
    encode,
    encode_text,
    label_prompt,
    pad_left,
)
from circuits.prompts.prompt import Prompt, PromptLike, as_prompts
from circuits.prompts.sev import Context
from circuits.prompts.templates import Template, emotion_prompt, neutral_prompt
from circuits.running import advance, in_force

__all__ = [
    "Activations",
    "By",
    "CleanCorrupt",
    "LogitDifference",
    "LogitWords",
    "Mode",
    "Pair",
    "Projection",
    "Readout",
    "ReplyLikelihood",
    "last_readout",
    "logit_difference",
    "make_pairs",
    "over_contexts",
    "projection",
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
        found = {word: encode_text(model, word) for word in (*self.own, *self.others)}
        for word, ids in found.items():
            if len(ids) > 1:
                pieces = ", ".join(map(repr, model.tokenizer.convert_ids_to_tokens(ids)))
                raise DataError(
                    f"{word!r} is {len(ids)} tokens for this model ({pieces}); give a word that is "
                    "a single one, often with a space before it"
                )
        own, others = ([found[word][0] for word in words] for words in (self.own, self.others))
        return LogitDifference(torch.tensor(own), torch.tensor(others))


def logit_difference(own: str | Sequence[str], others: str | Sequence[str]) -> LogitWords:
    """Logit of one word minus that of another (means, if several are given) as the next token.

    Words are taken as they are, so most begin with a space.

    >>> logit_difference(" afraid", [" calm", " glad"]).others
    (' calm', ' glad')

    Raises:
        DataError: a word is empty.
    """
    found = [(words,) if isinstance(words, str) else tuple(words) for words in (own, others)]
    if not all(words and all(words) for words in found):
        raise DataError("a logit difference is between words; one of them is empty")
    return LogitWords(*found)


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


LastReadout = Projection | LogitDifference
"""Readouts of the last position, which need no reply."""

Readout = LastReadout | ReplyLikelihood


def last_readout(readout: Readout | None, who: str) -> LastReadout:
    """The readout, if it is one of the last position.

    Raises:
        AxisError: it needs replies, which ``who`` cannot use.
    """
    if isinstance(readout, LastReadout):
        return readout
    name = readout.name if readout else None
    raise AxisError(
        f"{who} cannot use the readout {name!r}, which reads replies; "
        "use a projection or a logit difference, or activation patching (patch_components)"
    )


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
        """``work_00/positive, anger against neutral``."""
        return f"{self.context.id}, {self.emotion} against {self.other or 'neutral'}"

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the matched tokens, as the clean prompt has them."""
        return self.clean.roles[-self.matched :]

    @property
    def tokens(self) -> tuple[str, ...]:
        """The matched tokens; where the two prompts differ, both."""
        both = (own.tokens[-self.matched :] for own in (self.clean, self.corrupt))
        return tuple(a if a == b else f"{a}|{b}" for a, b in zip(*both, strict=True))

    def positions(self, role: str) -> tuple[int, ...]:
        """Matched positions of a role, or of ``all``, from the end (``-1`` is the last token)."""
        return tuple(i - self.matched for i, own in enumerate(self.roles) if role in (own, "all"))


def make_pairs(
    model: Model,
    contexts: Sequence[Context],
    emotion: str,
    other: str | None = None,
    template: str | Template = "published",
) -> "CleanCorrupt":
    """One clean and one corrupt prompt per context.

    Args:
        model: Its tokenizer and chat template; the model that patching runs.
        contexts: What both prompts are about.
        emotion: Asked for in the clean prompt.
        other: Asked for in the corrupt prompt, or ``None`` for the neutral prompt.
        template: How contexts become prompts.

    Raises:
        DataError: both prompts are the same, or they end differently.
        ModelError: roles cannot be found.
    """
    pairs = []
    for context in contexts:
        plain = neutral_prompt(context, template)
        against = plain if other is None else emotion_prompt(context, other, template)
        both = emotion_prompt(context, emotion, template), against
        clean, corrupt = (label_prompt(model, prompt) for prompt in both)
        pairs.append(_pair(context, clean, corrupt, emotion, other))
    return CleanCorrupt(model, tuple(pairs))


def _pair(
    context: Context,
    clean: Labelled,
    corrupt: Labelled,
    emotion: str,
    other: str | None,
    matched: int = 0,
) -> Pair:
    """The pair, matched from the end unless it is known how far."""
    if clean.ids == corrupt.ids:
        raise DataError(
            f"the clean and the corrupt prompt of {context.id} are the same; give two that differ"
        )
    ends = zip(reversed(clean.ids), reversed(corrupt.ids), strict=False)
    matched = matched or len(list(takewhile(lambda both: both[0] == both[1], ends)))
    before = [own.roles[::-1][matched : matched + 1] for own in (clean, corrupt)]
    if before == [("emotion",), ("emotion",)]:
        matched += 1
    if not matched:
        raise DataError(
            f"the prompts of {context.id} have {len(clean.ids)} and {len(corrupt.ids)} tokens, and "
            "they end differently, so no position can be matched; give prompts of equal length or "
            "with the same ending, or a template that writes the instruction before the context"
        )
    return Pair(context, emotion, other, clean, corrupt, matched)


Mode = Literal["denoising", "noising"]

By = Literal["position", "role", "all", "last"]
"""``position``: every matched position by itself, counted from the end. ``role``: all matched
positions of a role at once. ``all``: all matched positions at once. ``last``: the last one."""

Activations = Mapping[str, Mapping[int, Tensor]]
"""site -> layer -> activation ``[pair pos ...]``."""


@dataclass(frozen=True, eq=False, repr=False)
class CleanCorrupt(Sequence[Pair]):
    """Matched clean and corrupt prompts of a model, and its runs on them.

    A sequence of pairs, whose slices are of this kind too. Nothing is run before it is needed, and
    what has been run is kept as long as this value. Prompts are padded on the left, so that
    matched tokens stand under each other. The *window* is the last :attr:`width` positions,
    which hold every matched token.

    Example:
        >>> import circuits as ec
        >>> model = ec.load_model(ec.shipped("sev-mini"))
        >>> ec.CleanCorrupt.of(model, "I am so afraid", "I am so angry")
        CleanCorrupt(1 pair, clean against corrupt)
    """

    model: Model
    pairs: tuple[Pair, ...]
    readout: Readout | None = None
    """What the runs are judged by; chosen by :meth:`judged`, as all that follows."""
    mode: Mode = "denoising"
    sites: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Activations that are kept of the runs: site -> layers."""
    names: tuple[str, ...] = ("all",)
    """Positions that effects are of; see :meth:`positions`."""
    tail: tuple[int, ...] = ()
    """Tokens of a reply after every prompt."""
    weight: float = 1.0
    """What the readout counts: -1 for the reply without the emotion."""

    @classmethod
    def of(
        cls,
        model: Model,
        clean: PromptLike | Sequence[PromptLike],
        corrupt: PromptLike | Sequence[PromptLike],
    ) -> "CleanCorrupt":
        """Any two prompts, or two sequences of prompts, matched one by one.

        Prompts of as many tokens are matched position by position. Otherwise they are matched from
        the end, as far back as their tokens are the same.

        Raises:
            DataError: the numbers differ, two prompts are the same, or prompts of different length
                end differently.
        """
        both = as_prompts(clean), as_prompts(corrupt)
        if len(both[0]) != len(both[1]):
            raise DataError(
                f"{len(both[0])} clean and {len(both[1])} corrupt prompts are given; each clean "
                "prompt needs one corrupt prompt"
            )

        def labelled(prompt: Prompt) -> Labelled:
            ids = encode(model, prompt)
            words = model.tokenizer.convert_ids_to_tokens(ids) if model.tokenizer else map(str, ids)
            return Labelled(tuple(ids), tuple(words), ("frame",) * (len(ids) - 1) + ("last",))

        pairs = []
        for i, (one, other) in enumerate(zip(*both, strict=True)):
            context = one.context or Context(f"pair_{i:04d}", "prompts", "neutral", "", "")
            left, right = labelled(one), labelled(other)
            matched = len(left.ids) if len(left.ids) == len(right.ids) else 0
            pairs.append(_pair(context, left, right, "clean", "corrupt", matched))
        return cls(model, tuple(pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> "CleanCorrupt": ...

    def __getitem__(self, index: int | slice) -> "Pair | CleanCorrupt":
        if isinstance(index, slice):
            return replace(self, pairs=self.pairs[index])
        return self.pairs[index]

    def __repr__(self) -> str:
        count = f"{len(self)} pair{'' if len(self) == 1 else 's'}"
        about = dict.fromkeys(f"{p.emotion} against {p.other or 'neutral'}" for p in self.pairs)
        return f"CleanCorrupt({', '.join([count, *about])})"

    def check_contrast(self) -> None:
        """Refuse pairs that no record can average over.

        Raises:
            DataError: there are no pairs, or they are of different emotions.
        """
        if not self.pairs:
            raise DataError("there is no pair to measure; give one context or more")
        if len({(pair.emotion, pair.other) for pair in self.pairs}) > 1:
            raise DataError("pairs of different emotions cannot be averaged; take them one by one")

    def described(self, readout: Readout, mode: Mode) -> dict[str, Any]:
        """What a record says of the pairs that it averages over, and of how they are judged."""
        emotion, other = self.pairs[0].emotion, self.pairs[0].other or "neutral"
        about = {"mode": mode, "readout": readout.name, "n_contexts": len(self)}
        return {**about, "emotion": emotion, "other": other}

    def refuse_equal_inputs(self, method: str) -> None:
        """Refuse pairs between whose inputs there is no way to go.

        Raises:
            DataError: all matched tokens of a pair are the same.
        """
        for pair in self.pairs:
            if pair.clean.ids[-pair.matched :] == pair.corrupt.ids[-pair.matched :]:
                raise DataError(
                    f"method {method!r} moves the inputs of matched tokens, and those of context "
                    f"{pair.context.id} ({pair.emotion} against {pair.other or 'neutral'}) are the "
                    "same in both prompts; compare two emotions, or use another method"
                )

    def judged(
        self,
        readout: Readout,
        mode: Mode,
        sites: Iterable[str] | Mapping[str, Sequence[int]] = (),
        names: tuple[str, ...] = ("all",),
    ) -> Iterator["CleanCorrupt"]:
        """These pairs with a readout; for a reply likelihood every pair twice, with either reply.

        Raises:
            DataError: a reply is missing, or the mode is unknown.
        """
        if mode not in ("noising", "denoising"):
            raise DataError(f"mode is {mode!r}; it is noising or denoising")
        layers = range(self.model.cfg.n_layers)
        sites = sites if isinstance(sites, Mapping) else dict.fromkeys(sites, layers)
        own = replace(self, readout=readout, mode=mode, sites=sites, names=names)
        if not isinstance(readout, ReplyLikelihood):
            yield own
            return
        for pair in self.pairs:
            for tail, weight in zip(readout.tails(pair.context.id), (1.0, -1.0), strict=True):
                yield replace(own, pairs=(pair,), tail=tail, weight=weight)

    def batches(
        self,
        work: Callable[["CleanCorrupt"], Mapping[str, Tensor]],
        readout: Readout,
        mode: Mode,
        sites: Iterable[str] | Mapping[str, Sequence[int]] = (),
        names: tuple[str, ...] = ("all",),
        *,
        at_once: int = 8,
        finite: str = "effect",
    ) -> Iterator[dict[str, Tensor]]:
        """Tables that ``work`` gives for some of the pairs at a time, judged, as memory allows.

        Raises:
            ModelError: a number of the table ``finite`` is NaN or infinite.
        """

        def checked(some: Sequence[Pair]) -> Mapping[str, Tensor]:
            pairs = replace(self, pairs=tuple(some))
            tables = [work(runs) for runs in pairs.judged(readout, mode, sites, names)]
            # Of a reply likelihood there are two runs per pair, whose weighted readouts add up.
            found = {
                name: torch.cat([table[name] for table in tables]).unflatten(0, (-1, 2)).sum(1)
                if isinstance(readout, ReplyLikelihood)
                else own
                for name, own in tables[0].items()
            }
            rows = [pair.clean.ids for pair in some]
            check_values(self.model, found[finite], f"the {finite} of the readout", rows)
            return found

        if not self.pairs:
            self.check_contrast()  # says so
        at_once = in_force().rows(at_once)
        for first in range(0, len(self), at_once):
            some = self[first : first + at_once]
            yield halving_tables(checked, some, lambda pair: pair.name)
            advance(len(some))

    @cached_property
    def clean(self) -> Tokens:
        """The clean prompts as a batch."""
        rows = [(*pair.clean.ids, *self.tail) for pair in self.pairs]
        return pad_left(rows, device_of(self.model))

    @cached_property
    def corrupt(self) -> Tokens:
        """The corrupt prompts as a batch."""
        rows = [(*pair.corrupt.ids, *self.tail) for pair in self.pairs]
        return pad_left(rows, device_of(self.model))

    @property
    def base(self) -> Tokens:
        """The prompts whose run is changed, or whose gradients are taken."""
        return self.corrupt if self.mode == "denoising" else self.clean

    @property
    def other(self) -> Tokens:
        """The prompts that new values come from."""
        return self.clean if self.mode == "denoising" else self.corrupt

    @property
    def sign(self) -> float:
        """1 in denoising, where the other run is the clean one; -1 in noising."""
        return 1.0 if self.mode == "denoising" else -1.0

    @property
    def width(self) -> int:
        """Positions of the window: matched ones of the widest pair, and the tail."""
        return max(pair.matched for pair in self.pairs) + len(self.tail)

    @property
    def end(self) -> int:
        """The last prompt position, counted within the window.

        What comes before it cannot reach the readout once the last layer has written.
        """
        return self.width - len(self.tail) - 1

    @cached_property
    def matched(self) -> Bool[Tensor, "pair pos"]:
        """Which positions of the window have a counterpart; those of a tail have none."""
        return self._masks(("all",))[:, 0]

    @cached_property
    def masks(self) -> Bool[Tensor, "pair name pos"]:
        """Where in the window the positions of :attr:`names` are."""
        return self._masks(self.names)

    def positions(self, by: str) -> tuple[str, ...]:
        """Names of what every pair has, by one of :data:`By`.

        Raises:
            DataError: there are no pairs, or they are of different emotions.
            AxisError: ``by`` is unknown.
        """
        self.check_contrast()
        if by == "position":
            count = min(pair.matched for pair in self.pairs)
            if len(self) > 1:
                return tuple(str(place) for place in range(-count, 0))
            # Axis labels must differ, and words repeat; so each has its position beside it.
            words = zip(range(-count, 0), self[0].tokens[-count:], strict=True)
            return tuple(f"{place} {token!r}" for place, token in words)
        if by == "role":
            return tuple(role for role in ROLES if all(role in pair.roles for pair in self.pairs))
        if by in ("all", "last"):
            return (by,)
        raise AxisError(f"patches go by position, role, all or last; found {by!r}")

    def _masks(self, names: Sequence[str]) -> Bool[Tensor, "pair name pos"]:
        found = torch.zeros(len(self), len(names), self.width, dtype=torch.bool)
        for row, pair in enumerate(self.pairs):
            for column, name in enumerate(names):
                own = (int(name.split()[0]),) if name[0] == "-" else pair.positions(name)
                found[row, column, [self.end + 1 + place for place in own]] = True
        return found.to(device_of(self.model))

    @cached_property
    def base_run(self) -> CachedRun:
        """The base run: its keys and values, :attr:`sites`, and the last residual stream."""
        return self._cached(self.base)

    @cached_property
    def other_run(self) -> CachedRun:
        """The other run, likewise."""
        return self._cached(self.other)

    @cached_property
    def baseline(self) -> Float[Tensor, " pair"]:
        """Readout of the base run as it is."""
        return self._untouched(self.base_run)

    @property
    def gap(self) -> Float[Tensor, "pair run"]:
        """Readouts of the clean and of the corrupt run as they are."""
        return self.ends(self.baseline, self._untouched(self.other_run))

    def ends(self, base: Tensor, other: Tensor) -> Float[Tensor, "pair run"]:
        """Readouts of both runs, the clean one first."""
        return torch.stack((other, base) if self.mode == "denoising" else (base, other), dim=1)

    @cached_property
    def prefix(self) -> tuple[Int[Tensor, "pair 1"], Prefix]:
        """The last token of the base prompts, and keys and values of all before it."""
        with torch.no_grad():
            return prefill_prefix(self.model, self.base)

    @cached_property
    def other_seen(self) -> tuple[Activations, Float[Tensor, " pair"]]:
        """The other run's activations in the window, and its readout; keeps no keys and values."""
        seen, value = observe(self.model, self.other, self.sites, **self.scored)
        windows = {
            site: {i: own[:, -self.width :].clone() for i, own in layers.items()}
            for site, layers in seen.items()
        }
        return windows, value

    @property
    def scored(self) -> dict[str, Any]:
        """``score`` and ``at`` of passes that read the last position."""
        own = last_readout(self.readout, "a pass with gradients")
        return {"score": own.score, "at": own.site}

    def change(self, other: Tensor, base: Tensor) -> Tensor:
        """Other minus base activation in the window, zero where a token has no counterpart."""
        apart = other[:, -self.width :] - base[:, -self.width :]
        mask = self.matched.reshape(*self.matched.shape, *[1] * (apart.ndim - 2))
        return apart.where(mask, apart.new_zeros(()))

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
        """Readout of runs that go on from the base run; see :func:`~circuits.models.run.resume`.

        ``start`` counts within the window. ``all_positions``: the hooks need all positions of the
        last MLP.
        """
        return self._resumed(self.base_run, rows, start, layer, resid, hooks, not all_positions)

    def _cached(self, tokens: Tokens) -> CachedRun:
        seen: list[Tensor] = []
        with self.model.hooks(fwd_hooks=[self._end(seen)]):
            kept = cache_run(self.model, tokens, (*self.sites, "resid_post"))
        return replace(kept, sites={**kept.sites, "end": {0: seen[0]}})

    def _untouched(self, kept: CachedRun) -> Float[Tensor, " pair"]:
        if not self.tail:
            return self._score(kept.sites["end"][0])
        # Of a reply, logits of all its positions are needed.
        layers = self.model.cfg.n_layers
        resid = kept.sites["resid_post"][layers - 1][:, -len(self.tail) - 1 :]
        return self._resumed(kept, range(len(self)), self.end, layers, resid)

    def _resumed(
        self,
        kept: CachedRun,
        rows: Sequence[int],
        start: int,
        layer: int,
        resid: Tensor,
        hooks: Sequence[Hook] = (),
        short: bool = True,
    ) -> Float[Tensor, " row"]:
        layers, seen = self.model.cfg.n_layers, list[Tensor]()
        end = self._end(seen)
        if layer == layers and end[0] == hook_name("resid_post", layers - 1):
            return self._score(resid)
        first, ends = kept.width - self.width + start, len(self.tail) + 1
        resume(self.model, kept, rows, first, layer, resid, [*hooks, end], ends=ends, short=short)
        return self._score(seen[0])

    def _end(self, seen: list[Tensor]) -> Hook:
        """The hook that holds what the readout reads."""
        site = self.readout.site if self.readout else "resid_post"
        last, first = self.model.cfg.n_layers - 1, -len(self.tail) - 1
        name = "unembed.hook_out" if site == "logits" else hook_name(site, last)
        return name, lambda x, hook: seen.append(x[:, first:].clone())

    def _score(self, at_end: Float[Tensor, "row pos width"]) -> Float[Tensor, " row"]:
        if not isinstance(self.readout, ReplyLikelihood):
            return last_readout(self.readout, "this run").score(at_end[:, -1])
        tail = torch.tensor(self.tail, device=at_end.device)
        # The token before each of the reply's tokens says how likely that token is.
        before = at_end[:, -len(tail) - 1 : -1].float().log_softmax(-1)
        likely = before.gather(-1, tail.expand(len(before), -1)[..., None]).mean((1, 2))
        return self.weight * likely


def over_contexts(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of every table over its rows, and standard error as ``NAME_stderr``.

    >>> over_contexts([{"effect": torch.tensor([1.0])}, {"effect": torch.tensor([3.0])}])
    {'effect': tensor(2.), 'effect_stderr': tensor(1.)}
    """
    rows = [{name: own.float().cpu() for name, own in part.items()} for part in parts]
    found: dict[str, Tensor] = {}
    for name in rows[0]:
        mean, stderr = mean_stderr(torch.cat([part[name] for part in rows]))
        found |= {name: mean, f"{name}_stderr": stderr}
    return found
