"""How active every neuron is on texts of every class: one pass over them, reduced on the way.

Two tests of "active" are in use. ``gate``: the gate's input to the activation function is above
zero, as in LAPE (Tang et al. 2024, arXiv 2402.16438). ``product``: what the output weights read is
above zero, as Lee et al. (Findings of ACL 2025) have been reconstructed. They differ wherever the
linear branch of a gated MLP is negative.

Which tokens are counted: no padding, and as many of every class.

A class with more tokens would look less selective than one with few, so every class gives the
same number of tokens to each half of the texts, exactly.

Sums of activations per class and half, and of counts per permutation of the labels.

Every batch is reduced to its groups inside the pass: no activation outlives the hook that reads
it. A permutation counts most texts whole, so their counts are shared by all permutations; only
the texts that a permutation cuts short are counted for it again.

What every neuron does for the right label, estimated from one gradient per text.

Activation times gradient (attribution of a neuron set to zero; Nanda 2023) of the margin by which
a text's own label wins: the logit of the label's first token minus the log of the summed
exponentials of the other labels' first tokens, where the reply begins. A score above zero
estimates by how many nats the margin falls when the neuron is set to zero at all positions.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from circuits.errors import AxisError, DataError
from circuits.models.families import along_neurons, need_neurons
from circuits.models.generate import Progress, batches
from circuits.models.memory import halving, name_of_row
from circuits.models.protocol import Model, device_of
from circuits.models.run import Take, check_values, trace, watch
from circuits.models.tokens import encode, encode_text, pad_left, text_span
from circuits.prompts.prompt import Prompt, Texts, questions
from circuits.provenance import current
from circuits.records import Record

__all__ = [
    "HALVES",
    "LabelAttribution",
    "Profile",
    "Schemes",
    "Share",
    "Sign",
    "Span",
    "Sums",
    "Where",
    "balanced",
    "check_texts",
    "check_word",
    "halves_of",
    "label_attribution",
    "permuted",
    "profile_texts",
    "read_spans",
]

Where = Literal["content", "all", "last"]
"""Tokens of the text being classified, all of the prompt, or the one where the reply begins."""

HALVES: Final = (0, 1)
"""The halves of the texts, from each of which neurons can be selected by itself."""


@dataclass(frozen=True)
class Span:
    """A prompt and the tokens of it that may be counted: ``ids[start:stop]``, at least one."""

    ids: tuple[int, ...]
    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many tokens may be counted."""
        return self.stop - self.start


@dataclass(frozen=True)
class Share:
    """What a text counts for."""

    half: int
    label: int
    """Place of the class."""
    count: int
    """Its first so many tokens are counted."""


def read_spans(model: Model, texts: Texts, request: str, where: Where) -> list[Span]:
    """Prompts of all texts.

    Raises:
        AxisError: ``where`` is unknown.
        ModelError: a text is empty or cannot be found in the rendered prompt.
    """
    check_word("where", where, get_args(Where))
    return [_span(model, question, where) for question in questions(texts.rows, request)]


def balanced(spans: Sequence[Span], truth: Sequence[int], seed: int) -> dict[int, Share]:
    """Place of a text -> what it counts for, each class giving as many tokens to each half.

    Texts are drawn until the number is reached that the class and half with the fewest tokens
    has; of the text that would exceed it only the first tokens are counted.

    Args:
        spans: All texts.
        truth: Place of every text's class.
        seed: Of the draw.
    """
    groups = halves_of(truth, seed)
    quota = min(sum(spans[i].length for i in own) for own in groups.values())
    found = {}
    for (half, label), own in groups.items():
        left = quota
        for place in own:
            count = min(left, spans[place].length)
            if count:
                found[place] = Share(half, label, count)
                left -= count
    return found


def permuted(
    spans: Sequence[Span], truth: Sequence[int], times: int, seed: int
) -> list[dict[int, Share]]:
    """What every text counts for if the labels are permuted over the texts.

    Halves and tokens are drawn anew every time: what is done with the labels as they are is done
    with the permuted ones, or the two could not be compared.
    """
    rng, found = random.Random(f"permuted {seed}"), []
    for _ in range(times):
        found.append(balanced(spans, rng.sample(list(truth), len(truth)), rng.getrandbits(32)))
    return found


def check_word(option: str, found: str, words: Sequence[str]) -> None:
    """Refuse what is none of the words that an option may be.

    Raises:
        AxisError: it is none of them.
    """
    if found not in words:
        raise AxisError(f"{option} cannot be {found!r}; it is one of {', '.join(words)}")


def check_texts(texts: Texts) -> None:
    """Refuse texts from which no class-selective neurons can be identified.

    Raises:
        DataError: they are not train texts, there are fewer than two classes, or a class has
            fewer than two texts.
    """
    texts.only("train")
    if len(texts.label) < 2:
        raise DataError(
            f"the texts have the classes {', '.join(texts.label) or 'none'}; "
            "selective neurons need two classes or more"
        )
    for place, label in enumerate(texts.label):
        count = texts.truth.count(place)
        if count < 2:
            raise DataError(
                f"class {label!r} has {count} texts; every class needs two or more, "
                "one for each half"
            )


def halves_of(truth: Sequence[int], seed: int) -> dict[tuple[int, int], list[int]]:
    """(half, class) -> places of its texts, in a drawn order."""
    rng, groups = random.Random(seed), {}
    for label in sorted(set(truth)):
        own = [place for place, true in enumerate(truth) if true == label]
        rng.shuffle(own)
        for half in HALVES:
            groups[half, label] = own[half :: len(HALVES)]
    return groups


def _span(model: Model, question: Prompt, where: Where) -> Span:
    if where == "content":
        ids, start, stop = text_span(model, question)
        return Span(tuple(ids), start, stop)
    ids = encode(model, question)
    return Span(tuple(ids), len(ids) - 1 if where == "last" else 0, len(ids))


_OF_TOKENS = ("total", "absolute", "square")


@dataclass(frozen=True)
class Schemes:
    """What every text counts for: with the labels as they are, and in each permutation."""

    spans: Sequence[Span]
    observed: Mapping[int, Share]
    """Place of a text -> its share."""
    permuted: Sequence[Mapping[int, Share]]
    n_labels: int

    @property
    def used(self) -> list[int]:
        """Places of the texts that count for something."""
        return sorted({*self.observed, *(place for own in self.permuted for place in own)})

    def group(self, share: Share) -> int:
        """Place of the share's half and class."""
        return share.half * self.n_labels + share.label

    def tokens(self) -> Int[Tensor, "split label"]:
        """Tokens that are counted of each half and class."""
        return self._totals(self.observed, [share.count for share in self.observed.values()])

    def texts(self) -> Int[Tensor, "split label"]:
        """Texts that are counted of each half and class."""
        return self._totals(self.observed, [1] * len(self.observed))

    def permuted_tokens(self) -> Int[Tensor, "draw label"]:
        """Tokens that are counted of each class, both halves together, in each permutation."""
        each = [
            self._totals(own, [share.count for share in own.values()]).sum(0)
            for own in self.permuted
        ]
        return torch.stack(each) if each else torch.zeros(0, self.n_labels, dtype=torch.long)

    def _totals(self, own: Mapping[int, Share], counts: Sequence[int]) -> Tensor:
        found = torch.zeros(len(HALVES) * self.n_labels, dtype=torch.long)
        groups = torch.tensor([self.group(share) for share in own.values()])
        return found.index_add(0, groups, torch.tensor(counts)).reshape(len(HALVES), -1)


class Sums:
    """Running sums, in float64 on the model's device."""

    def __init__(self, model: Model, schemes: Schemes, *, by_gate: bool) -> None:
        cfg, groups = model.cfg, len(HALVES) * schemes.n_labels
        self._model, self._schemes, self._by_gate = model, schemes, by_gate
        options: Any = {"dtype": torch.float64, "device": device_of(model)}
        names = ("active", *_OF_TOKENS, "peak", "at_last")
        shape = (cfg.n_layers, groups, cfg.d_mlp)
        self._sums = {name: torch.zeros(shape, **options) for name in names}
        self._stream = torch.zeros(cfg.n_layers, groups, cfg.d_model, **options)
        permuted = len(schemes.permuted) * schemes.n_labels
        self._permuted = torch.zeros(cfg.n_layers, permuted, cfg.d_mlp, **options)

    def read(self, chosen: Sequence[int]) -> None:
        """Run these texts and add what they give, all of it or nothing."""
        device = device_of(self._model)
        tokens = pad_left([self._schemes.spans[place].ids for place in chosen], device)
        batch = _batch(self._schemes, chosen, tokens.ids.shape[1], device)
        due: list[Callable[[], object]] = []
        watch(self._model, tokens, self._takers(batch, due))
        # Not before the pass has ended: one that fails half way is made again for fewer texts.
        for add in due:
            add()

    def _takers(self, batch: "_Batch", due: list[Callable[[], object]]) -> dict[str, Take]:
        def later(own: Tensor, more: Tensor) -> None:
            due.append(partial(own.add_, more))

        def count(layer: int, activation: Tensor) -> None:
            active = (activation > 0).double()
            later(self._sums["active"][layer], batch.groups @ _sums(active, batch.counted))
            counts = batch.whole @ _sums(active, batch.inside)
            for cut in batch.cut:
                counts.index_add_(0, cut.groups, _sums(active[cut.rows], cut.counted))
            later(self._permuted[layer], counts)

        def post(layer: int, activation: Tensor) -> None:
            exact = activation.double()
            for name, value in zip(_OF_TOKENS, (exact, exact.abs(), exact**2), strict=True):
                later(self._sums[name][layer], batch.groups @ _sums(value, batch.counted))
            later(self._sums["at_last"][layer], batch.groups @ exact[:, -1])
            largest = exact.abs().masked_fill(~batch.counted[..., None], 0).amax(1)
            own = self._sums["peak"][layer]
            due.append(partial(torch.maximum, own, batch.largest(largest), out=own))
            if not self._by_gate:
                count(layer, activation)

        def stream(layer: int, activation: Tensor) -> None:
            later(self._stream[layer], batch.groups @ activation[:, -1].double())

        takers: dict[str, Take] = {"post": post, "resid_post": stream}
        return takers | ({"pre": count} if self._by_gate else {})

    def result(self) -> dict[str, Tensor]:
        """Tensors of a profile, by their names."""
        label, schemes = self._schemes.n_labels, self._schemes
        found = {name: _arranged(own, len(HALVES), label) for name, own in self._sums.items()}
        found["active"] = found["active"].round().long()
        found["tokens"], found["texts"] = schemes.tokens(), schemes.texts()
        permuted = _arranged(self._permuted, len(schemes.permuted), label)
        found["shuffled_active"] = permuted.round().long()
        found["shuffled_tokens"] = schemes.permuted_tokens()
        stream = _arranged(self._stream, len(HALVES), label)
        along = along_neurons(self._model, stream.flatten(0, 1).float()).double()
        found["along_stream"] = along.unflatten(0, (len(HALVES), label))
        return found | {"stream_at_last": stream}


@dataclass(frozen=True, eq=False)
class _Cut:
    """Texts that permutations cut short."""

    rows: Int[Tensor, " part"]
    counted: Bool[Tensor, "part pos"]
    groups: Int[Tensor, " part"]
    """Place of the permutation and class."""

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Tensor, int]], device: torch.device) -> "_Cut":
        """From the row, the positions and the group of each."""
        rows, counted, groups = zip(*parts, strict=True)
        tensors = torch.tensor(rows), torch.stack(counted), torch.tensor(groups)
        return cls(*(each.to(device) for each in tensors))


@dataclass(frozen=True, eq=False)
class _Batch:
    """Which positions of a batch are counted, and for what its texts count."""

    counted: Bool[Tensor, "text pos"]
    groups: Float[Tensor, "group text"]
    """One for the text's half and class."""
    inside: Bool[Tensor, "text pos"]
    """All that may be counted."""
    whole: Float[Tensor, "permuted text"]
    """One for each permutation and class that counts all of the text."""
    cut: Sequence["_Cut"]
    """In parts of no more texts than the batch has."""

    def largest(self, values: Float[Tensor, "text neuron"]) -> Float[Tensor, "group neuron"]:
        """Largest value of each group's texts; values are not negative."""
        where = self.groups.argmax(0)[:, None].expand_as(values)
        found = values.new_zeros(len(self.groups), values.shape[1])
        return found.scatter_reduce(0, where, values, "amax")


def _batch(schemes: Schemes, chosen: Sequence[int], width: int, device: torch.device) -> _Batch:
    n_labels, size = schemes.n_labels, (len(chosen), width)
    groups = torch.zeros(len(HALVES) * n_labels, len(chosen), dtype=torch.float64)
    whole = torch.zeros(len(schemes.permuted) * n_labels, len(chosen), dtype=torch.float64)
    counted, inside = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    cut: list[tuple[int, Tensor, int]] = []
    for row, place in enumerate(chosen):
        span = schemes.spans[place]
        begin = width - len(span.ids) + span.start
        inside[row, begin : begin + span.length] = True
        if place in schemes.observed:
            share = schemes.observed[place]
            groups[schemes.group(share), row] = 1
            counted[row, begin : begin + share.count] = True
        for draw, own in enumerate(schemes.permuted):
            if place in own:
                group, count = draw * n_labels + own[place].label, own[place].count
                if count == span.length:
                    whole[group, row] = 1
                else:
                    cut.append((row, inside[row] & (torch.arange(width) < begin + count), group))
    parts = [_Cut.of(cut[i : i + len(chosen)], device) for i in range(0, len(cut), len(chosen))]
    return _Batch(counted.to(device), groups.to(device), inside.to(device), whole.to(device), parts)


def _sums(
    values: Float[Tensor, "text pos neuron"], mask: Bool[Tensor, "text pos"]
) -> Float[Tensor, "text neuron"]:
    return torch.einsum("tpn,tp->tn", values, mask.double())


def _arranged(sums: Tensor, first: int, second: int) -> Tensor:
    """From ``[layer group ...]`` to ``[first second layer ...]``."""
    return sums.cpu().transpose(0, 1).unflatten(0, (first, second)).contiguous()


Sign = Literal["gate", "product"]
"""What must be above zero for a neuron to be active: ``pre``, or ``post``."""


@dataclass(frozen=True, eq=False)
class Profile(Record):
    """Sums over the counted tokens of the texts of every class, in two halves of the texts.

    Activations are ``post``, what a neuron's output weights are multiplied by. ``sel(split=0)``
    is the profile of one half.
    """

    active: Int[Tensor, "split label layer neuron"]
    """Counted tokens on which the neuron is active."""
    tokens: Int[Tensor, "split label"]
    """Counted tokens."""
    texts: Int[Tensor, "split label"]
    """Texts that were read."""
    total: Float[Tensor, "split label layer neuron"]
    """Sum of the activation over counted tokens."""
    absolute: Float[Tensor, "split label layer neuron"]
    """Sum of its size."""
    square: Float[Tensor, "split label layer neuron"]
    """Sum of its square."""
    peak: Float[Tensor, "split label layer neuron"]
    """Largest size of the activation on a counted token."""
    at_last: Float[Tensor, "split label layer neuron"]
    """Sum over texts of the activation at the last prompt position."""
    stream_at_last: Float[Tensor, "split label layer d_model"]
    """Sum over texts of ``resid_post`` at the last prompt position."""
    along_stream: Float[Tensor, "split label layer neuron"]
    """Product of the neuron's output weights with :attr:`stream_at_last`."""
    shuffled_active: Int[Tensor, "draw label layer neuron"]
    """As :attr:`active`, both halves together, with the labels permuted over the texts before
    anything else is done."""
    shuffled_tokens: Int[Tensor, "draw label"]

    split: tuple[int, ...]
    label: tuple[str, ...]
    layer: tuple[int, ...]
    neuron: tuple[int, ...]
    draw: tuple[int, ...]
    request: str
    sign: str
    where: str
    seed: int

    @property
    def rate(self) -> Float[Tensor, "label layer neuron"]:
        """Share of the counted tokens on which the neuron is active."""
        return self.active.sum(0).double() / self.tokens.sum(0)[:, None, None]

    @property
    def mean(self) -> Float[Tensor, "label layer neuron"]:
        """Mean activation on counted tokens."""
        return self.total.sum(0) / self.tokens.sum(0)[:, None, None]

    @property
    def mean_size(self) -> Float[Tensor, "label layer neuron"]:
        """Mean size of the activation on counted tokens."""
        return self.absolute.sum(0) / self.tokens.sum(0)[:, None, None]

    @property
    def variance(self) -> Float[Tensor, "label layer neuron"]:
        """Variance of the activation over the counted tokens of a class (ddof 0)."""
        square = self.square.sum(0) / self.tokens.sum(0)[:, None, None]
        return (square - self.mean**2).clamp_min(0)

    @property
    def largest(self) -> Float[Tensor, "label layer neuron"]:
        """Largest size of the activation on a counted token."""
        return self.peak.amax(0)

    @property
    def last(self) -> Float[Tensor, "label layer neuron"]:
        """Mean activation at the last prompt position."""
        return self.at_last.sum(0) / self.texts.sum(0)[:, None, None]

    @property
    def stream(self) -> Float[Tensor, "label layer d_model"]:
        """Mean ``resid_post`` at the last prompt position."""
        return self.stream_at_last.sum(0) / self.texts.sum(0)[:, None, None]

    @property
    def weight(self) -> Float[Tensor, "label layer neuron"]:
        """Projection of output weights on the class's unit direction.

        The direction is the class's mean ``resid_post`` at the last prompt position minus the
        mean over classes.
        """
        apart = self.stream - self.stream.mean(0)
        along = self.along_stream.sum(0) / self.texts.sum(0)[:, None, None]
        return (along - along.mean(0)) / apart.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def profile_texts(
    model: Model,
    texts: Texts,
    request: str,
    *,
    sign: Sign = "gate",
    where: Where = "content",
    n_shuffles: int = 20,
    seed: int = 0,
    batch_size: int = 96,
    progress: Progress | None = None,
) -> Profile:
    """Read train texts once, each with the request to name its class.

    Nothing is kept per token; per-batch sums are in float64 and int64.

    Args:
        model: The model.
        texts: Of the train split.
        request: The request put to every text.
        sign: When a neuron counts as active.
        where: The tokens that are counted.
        n_shuffles: Permutations of the labels over the texts, for the null of entropies.
        seed: Of the choice of texts, of their halves, and of the permutations.
        batch_size: Texts at once, at most.
        progress: Told after every batch how many texts were read.

    Raises:
        AxisError: ``sign`` or ``where`` is unknown.
        DataError: the texts are of another split, there are fewer than two classes, a class has
            fewer than two texts, or the number of permutations is negative.
        ModelError: a hook point is missing, or an activation is not finite.
    """
    need_neurons(model, "profiles")
    check_word("sign", sign, get_args(Sign))
    if n_shuffles < 0:
        raise DataError(f"{n_shuffles} permutations of the labels were asked for; give 0 or more")
    check_texts(texts)
    spans = read_spans(model, texts, request, where)
    drawn = permuted(spans, texts.truth, n_shuffles, seed)
    schemes = Schemes(spans, balanced(spans, texts.truth, seed), drawn, len(texts.label))
    sums, used = Sums(model, schemes, by_gate=sign == "gate"), schemes.used
    for chosen in batches([spans[place].ids for place in used], batch_size):
        places = [used[i] for i in chosen]
        halving(sums.read, places, lambda place: name_of_row(model, spans[place].ids))
        if progress:
            progress(len(chosen))
    return Profile(
        provenance=current(),
        **sums.result(),
        split=HALVES,
        label=texts.label,
        layer=tuple(range(model.cfg.n_layers)),
        neuron=tuple(range(model.cfg.d_mlp)),
        draw=tuple(range(n_shuffles)),
        request=request,
        sign=sign,
        where=where,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class LabelAttribution(Record):
    """Activation times gradient of the own label's margin, summed over positions, in nats.

    Sums over the texts of a class, in two halves; ``sel(split=0)`` is what one half gives.
    """

    total: Float[Tensor, "split label layer neuron"]
    positive: Float[Tensor, "split label layer neuron"]
    """Sum of the positive part of every text's attribution."""
    texts: Int[Tensor, "split label"]

    split: tuple[int, ...]
    label: tuple[str, ...]
    layer: tuple[int, ...]
    neuron: tuple[int, ...]
    request: str
    seed: int

    @property
    def own(self) -> Float[Tensor, "label layer neuron"]:
        """Mean over the texts of the class."""
        return self.total.sum(0) / self.texts.sum(0)[:, None, None]

    @property
    def others(self) -> Float[Tensor, "label layer neuron"]:
        """Mean positive part over the texts of the other classes, each class counting the same."""
        each = self.positive.sum(0) / self.texts.sum(0)[:, None, None]
        return (each.sum(0) - each) / (len(self.label) - 1)


def label_attribution(
    model: Model,
    texts: Texts,
    request: str,
    *,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> LabelAttribution:
    """Attribution of all neurons: one forward and one backward pass per text.

    Args:
        model: The model.
        texts: Of the train split; all of them are read.
        request: The request put to every text.
        seed: Of the halves, which are those of a profile with this seed.
        batch_size: Texts at once, at most.
        progress: Told after every batch how many texts were read.

    Raises:
        DataError: the texts are of another split, there are fewer than two classes, a class has
            fewer than two texts, or two labels begin with the same token.
        ModelError: a site did not run, or the model has no neurons.
    """
    need_neurons(model, "attributions of neurons")
    check_texts(texts)
    first = _first_tokens(model, texts.label)
    ids = [encode(model, question) for question in questions(texts.rows, request)]
    half = {i: key[0] for key, own in halves_of(texts.truth, seed).items() for i in own}
    truth, cfg, n_groups = torch.tensor(texts.truth), model.cfg, len(HALVES) * len(texts.label)
    sums = torch.zeros(2, n_groups, cfg.n_layers, cfg.d_mlp, dtype=torch.float64)
    count = torch.zeros(n_groups, dtype=torch.long)
    for chosen in batches(ids, batch_size):
        found = _halved(model, [(ids[i], texts.truth[i]) for i in chosen], first)
        group = torch.tensor([half[i] for i in chosen]) * len(texts.label) + truth[chosen]
        member = one_hot(group, n_groups).T
        count += member.sum(1)
        for place, values in enumerate((found, found.clamp_min(0))):
            sums[place] += torch.einsum("gt,tln->gln", member.double(), values)
        if progress:
            progress(len(chosen))
    total, positive = sums.unflatten(1, (len(HALVES), len(texts.label))).unbind(0)
    return LabelAttribution(
        total=total,
        positive=positive,
        texts=count.reshape(len(HALVES), -1),
        split=HALVES,
        label=texts.label,
        layer=tuple(range(cfg.n_layers)),
        neuron=tuple(range(cfg.d_mlp)),
        request=request,
        seed=seed,
    )


def _first_tokens(model: Model, labels: tuple[str, ...]) -> Int[Tensor, " label"]:
    first = [encode_text(model, label)[0] for label in labels]
    for place, token in enumerate(first):
        if token in first[:place]:
            raise DataError(
                f"labels {labels[first.index(token)]!r} and {labels[place]!r} begin with the same "
                "token; give labels that begin differently"
            )
    return torch.tensor(first)


def _halved(
    model: Model, texts: Sequence[tuple[list[int], int]], first: Int[Tensor, " label"]
) -> Float[Tensor, "text layer neuron"]:
    """Attributions of tokens with their class, of fewer texts at once where memory is short."""

    def work(some: Sequence[tuple[list[int], int]]) -> Tensor:
        rows, truth = zip(*some, strict=True)
        return _attributions(model, list(rows), torch.tensor(truth), first)

    return torch.cat(halving(work, texts, lambda text: name_of_row(model, text[0])))


def _attributions(
    model: Model, rows: list[list[int]], truth: Int[Tensor, " text"], first: Int[Tensor, " label"]
) -> Float[Tensor, "text layer neuron"]:
    device = device_of(model)
    is_own = one_hot(truth, len(first)).bool().to(device)

    def margin(logits: Float[Tensor, "text vocab"]) -> Float[Tensor, " text"]:
        among = logits[:, first.to(device)]
        return among[is_own] - among.masked_fill(is_own, -torch.inf).logsumexp(1)

    layers = range(model.cfg.n_layers)
    found = trace(model, pad_left(rows, device), {"post": layers}, margin, at="logits")
    each = [(found.values["post"][i] * found.gradients["post"][i]).double().sum(1) for i in layers]
    values = torch.stack(each, dim=1).cpu()
    check_values(model, values, "the gradient of the margin", rows)
    return values
