"""How active every neuron is on texts of every class: one pass over them, reduced on the way.

Two tests of "active" are in use. ``gate``: the gate's input to the activation function is above
zero, as in LAPE (Tang et al. 2024, arXiv 2402.16438). ``product``: what the output weights read is
above zero, as Lee et al. (Findings of ACL 2025) have been reconstructed. They differ wherever the
linear branch of a gated MLP is negative.

No padding is counted, and a class with more tokens would look less selective than one with few:
every class gives the same number of tokens to each half of the texts, exactly.

Every batch is reduced to sums per class and half, and to counts per permutation of the labels,
inside the pass: no activation outlives the hook that reads it. A permutation counts most texts
whole, so their counts are shared by all permutations; only the texts that a permutation cuts short
are counted for it again.

What every neuron does for the right label is estimated from one gradient per text: activation times
gradient (attribution of a neuron set to zero; Nanda 2023) of the margin by which a text's own label
wins: the logit of the label's first token minus the log of the summed exponentials of the other
labels' first tokens, where the reply begins. A score above zero estimates by how many nats the
margin falls when the neuron is set to zero at all positions.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from circuits.errors import AxisError, DataError
from circuits.models.families import along_neurons, need_neurons
from circuits.models.generate import batches
from circuits.models.memory import halving, name_of_row
from circuits.models.protocol import Model, device_of
from circuits.models.run import Take, check_values, trace, watch
from circuits.models.tokens import encode, encode_text, pad_left, text_span
from circuits.prompts.prompt import Texts, questions
from circuits.provenance import current
from circuits.records import Record
from circuits.running import advance, in_force

__all__ = [
    "Counted",
    "HALVES",
    "LabelAttribution",
    "Profile",
    "Sign",
    "Span",
    "Where",
    "balanced",
    "check_word",
    "halves_of",
    "label_attribution",
    "permuted",
    "profile_texts",
    "read_spans",
]

Sign = Literal["gate", "product"]
"""What must be above zero for a neuron to be active: ``pre``, or ``post``."""

Where = Literal["content", "all", "last"]
"""Tokens of the text being classified, all of the prompt, or the one where the reply begins."""

HALVES: Final = (0, 1)
"""The halves of the texts, from each of which neurons can be selected by itself."""

_TEXTS, _GRADIENTS = 96, 32
"""Texts in one pass at most, and with gradients, for which all layers are held at once."""


@dataclass(frozen=True)
class Span:
    """A prompt and the tokens of it that may be counted: ``ids[start:stop]``, at least one."""

    ids: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Counted:
    """What every text counts for."""

    label: Int[Tensor, " text"]
    """Place of the class."""
    half: Int[Tensor, " text"]
    tokens: Int[Tensor, " text"]
    """Its first so many tokens are counted; with 0 it counts for nothing."""


def read_spans(model: Model, texts: Texts, request: str, where: Where) -> list[Span]:
    """Prompts of all texts.

    Raises:
        AxisError: ``where`` is unknown.
        ModelError: a text is empty or cannot be found in the rendered prompt.
    """
    check_word("where", where, get_args(Where))
    found = []
    for question in questions(texts.rows, request):
        if where == "content":
            ids, start, stop = text_span(model, question)
        else:
            ids = encode(model, question)
            start, stop = len(ids) - 1 if where == "last" else 0, len(ids)
        found.append(Span(tuple(ids), start, stop))
    return found


def balanced(spans: Sequence[Span], truth: Sequence[int], seed: int) -> Counted:
    """What every text counts for, each class giving as many tokens to each half.

    Texts are drawn until the number is reached that the class and half with the fewest tokens
    has; of the text that would exceed it only the first tokens are counted.

    Args:
        spans: All texts.
        truth: Place of every text's class.
        seed: Of the draw.
    """
    groups = halves_of(truth, seed)
    length = _lengths(spans)
    quota = min(int(length[own].sum()) for own in groups.values())
    half, tokens = torch.zeros(2, len(spans), dtype=torch.long)
    for (part, _), own in groups.items():
        before = length[own].cumsum(0) - length[own]
        half[own] = part
        tokens[own] = (quota - before).clamp_min(0).minimum(length[own])
    return Counted(torch.tensor(truth), half, tokens)


def permuted(spans: Sequence[Span], truth: Sequence[int], times: int, seed: int) -> list[Counted]:
    """What every text counts for if the labels are permuted over the texts.

    Halves and tokens are drawn anew every time: what is done with the labels as they are is done
    with the permuted ones, or the two could not be compared.
    """
    rng = random.Random(f"permuted {seed}")
    return [
        balanced(spans, rng.sample(list(truth), len(truth)), rng.getrandbits(32))
        for _ in range(times)
    ]


def _lengths(spans: Sequence[Span]) -> Int[Tensor, " text"]:
    return torch.tensor([span.stop - span.start for span in spans])


def check_word(option: str, found: str, words: Sequence[str]) -> None:
    """Refuse what is none of the words that an option may be.

    Raises:
        AxisError: it is none of them.
    """
    if found not in words:
        raise AxisError(f"{option} cannot be {found!r}; it is one of {', '.join(words)}")


def _check_texts(texts: Texts) -> None:
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


class _Sums:
    """Running sums, in float64 on the model's device."""

    def __init__(
        self, model: Model, spans: Sequence[Span], schemes: Sequence[Counted], by_gate: bool
    ) -> None:
        cfg, first = model.cfg, schemes[0]
        self.model, self.spans, self.by_gate = model, spans, by_gate
        self.n_labels, self.draws = int(first.label.max()) + 1, len(schemes) - 1
        groups = len(HALVES) * self.n_labels
        self.group = first.half * self.n_labels + first.label
        self.tokens = torch.stack([own.tokens for own in schemes])
        """Of the labels as they are, then of every permutation."""
        self.permuted = torch.stack([own.label for own in schemes])[1:]
        """Place of every text's permutation and class."""
        self.permuted += self.n_labels * torch.arange(self.draws)[:, None]
        names = ("active", "total", "absolute", "square", "peak", "at_last")
        sizes: dict[str, tuple[int, int]] = dict.fromkeys(names, (groups, cfg.d_mlp))
        sizes["stream_at_last"] = groups, cfg.d_model
        sizes["shuffled_active"] = self.draws * self.n_labels, cfg.d_mlp
        options: Any = {"dtype": torch.float64, "device": device_of(model)}
        self.sums = {
            name: torch.zeros(cfg.n_layers, *size, **options) for name, size in sizes.items()
        }

    def read(self, places: Sequence[int]) -> None:
        """Run these texts and add what they give, all of it or nothing."""
        tokens = pad_left([self.spans[place].ids for place in places], device_of(self.model))
        due: list[Callable[[], object]] = []
        watch(self.model, tokens, self._takers(list(places), tokens.ids.shape[1], due))
        # Not before the pass has ended: one that fails half way is made again for fewer texts.
        for add in due:
            add()

    def _takers(
        self, places: list[int], width: int, due: list[Callable[[], object]]
    ) -> dict[str, Take]:
        device, own = device_of(self.model), [self.spans[place] for place in places]
        begin = torch.tensor([width - len(span.ids) + span.start for span in own])
        whole_length = _lengths(own)
        position = torch.arange(width)

        def first(count: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
            """Which positions are the first so many of those that may be counted."""
            start = begin[rows, None]
            return ((start <= position) & (position < start + count[:, None])).to(device)

        group, count = self.group[places], self.tokens[:, places]
        counted, inside = first(count[0]), first(whole_length)
        member = one_hot(group, len(HALVES) * self.n_labels).T * (count[0] > 0)
        member, group = member.double().to(device), group.to(device)
        # Texts that a permutation counts whole, and those that it cuts short.
        draw, row = (count[1:] == whole_length).nonzero().T
        whole = torch.zeros(self.draws * self.n_labels, len(places), dtype=torch.float64)
        whole[self.permuted[:, places][draw, row], row] = 1
        whole = whole.to(device)
        draw, row = ((count[1:] > 0) & (count[1:] < whole_length)).nonzero().T
        cut = [
            each.split(len(places))
            for each in (
                row.to(device),
                first(count[1:][draw, row], row),
                self.permuted[:, places][draw, row].to(device),
            )
        ]

        def add(name: str, layer: int, more: Tensor) -> None:
            due.append(partial(self.sums[name][layer].add_, more))

        def signs(layer: int, activation: Tensor) -> None:
            active = (activation > 0).double()
            add("active", layer, member @ _over(active, counted))
            counts = whole @ _over(active, inside)
            for rows, mask, groups in zip(*cut, strict=True):
                counts.index_add_(0, groups, _over(active[rows], mask))
            add("shuffled_active", layer, counts)

        def post(layer: int, activation: Tensor) -> None:
            exact = activation.double()
            add("total", layer, member @ _over(exact, counted))
            add("absolute", layer, member @ _over(exact.abs(), counted))
            add("square", layer, member @ _over(exact**2, counted))
            add("at_last", layer, member @ exact[:, -1])
            largest = exact.abs().masked_fill(~counted[..., None], 0).amax(1)
            where, peak = group[:, None].expand_as(largest), self.sums["peak"][layer]
            due.append(partial(peak.scatter_reduce_, 0, where, largest, "amax"))
            if not self.by_gate:
                signs(layer, activation)

        def stream(layer: int, activation: Tensor) -> None:
            add("stream_at_last", layer, member @ activation[:, -1].double())

        takers: dict[str, Take] = {"post": post, "resid_post": stream}
        return takers | ({"pre": signs} if self.by_gate else {})

    def result(self) -> dict[str, Tensor]:
        """Tensors of a profile, by their names."""
        found = {}
        for name, own in self.sums.items():
            first = self.draws if name == "shuffled_active" else len(HALVES)
            found[name] = own.cpu().transpose(0, 1).unflatten(0, (first, self.n_labels))
            if name in ("active", "shuffled_active"):
                found[name] = found[name].round().long()
        stream = found["stream_at_last"]
        along = along_neurons(self.model, stream.flatten(0, 1).float()).double()
        found["along_stream"] = along.unflatten(0, stream.shape[:2])
        none = torch.zeros(len(HALVES) * self.n_labels, dtype=torch.long)
        for name, count in (("tokens", self.tokens[0]), ("texts", (self.tokens[0] > 0).long())):
            found[name] = none.index_add(0, self.group, count).reshape(len(HALVES), -1)
        each = torch.zeros(self.draws * self.n_labels, dtype=torch.long)
        each.index_add_(0, self.permuted.flatten(), self.tokens[1:].flatten())
        found["shuffled_tokens"] = each.reshape(self.draws, self.n_labels)
        return {name: own.contiguous() for name, own in found.items()}


def _over(
    values: Float[Tensor, "text pos neuron"], mask: Bool[Tensor, "text pos"]
) -> Float[Tensor, "text neuron"]:
    """Sums over the positions of the mask."""
    return torch.einsum("tpn,tp->tn", values, mask.double())


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
) -> Profile:
    """Read train texts once, each with the request to name its class.

    Nothing is kept per token; per-batch sums are in float64 and int64. The seed in force decides
    the choice of texts, their halves and the permutations.

    Args:
        model: The model.
        texts: Of the train split.
        request: The request put to every text.
        sign: When a neuron counts as active.
        where: The tokens that are counted.
        n_shuffles: Permutations of the labels over the texts, for the null of entropies.

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
    _check_texts(texts)
    seed, truth = in_force().seed, texts.truth
    spans = read_spans(model, texts, request, where)
    schemes = [balanced(spans, truth, seed), *permuted(spans, truth, n_shuffles, seed)]
    sums = _Sums(model, spans, schemes, sign == "gate")
    used = (sums.tokens > 0).any(0).nonzero()[:, 0].tolist()
    for chosen in batches(
        [spans[place].ids for place in used], min(_TEXTS, in_force().rows(_TEXTS))
    ):
        places = [used[i] for i in chosen]
        halving(sums.read, places, lambda place: name_of_row(model, spans[place].ids))
        advance(len(chosen))
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


def label_attribution(model: Model, texts: Texts, request: str) -> LabelAttribution:
    """Attribution of all neurons: one forward and one backward pass per text.

    The seed in force decides the halves, which are those of a profile with this seed.

    Args:
        model: The model.
        texts: Of the train split; all of them are read.
        request: The request put to every text.

    Raises:
        DataError: the texts are of another split, there are fewer than two classes, a class has
            fewer than two texts, or two labels begin with the same token.
        ModelError: a site did not run, or the model has no neurons.
    """
    need_neurons(model, "attributions of neurons")
    _check_texts(texts)
    seed, device, n_labels = in_force().seed, device_of(model), len(texts.label)
    first = _first_tokens(model, texts.label).to(device)
    ids = [encode(model, question) for question in questions(texts.rows, request)]
    layers, truth = range(model.cfg.n_layers), torch.tensor(texts.truth)
    group = truth.clone()
    for (half, label), own in halves_of(texts.truth, seed).items():
        group[own] = half * n_labels + label

    def attributions(places: Sequence[int]) -> Float[Tensor, "text layer neuron"]:
        rows = [ids[place] for place in places]
        own = one_hot(truth[list(places)], n_labels).bool().to(device)

        def margin(logits: Float[Tensor, "text vocab"]) -> Float[Tensor, " text"]:
            among = logits[:, first]
            return among[own] - among.masked_fill(own, -torch.inf).logsumexp(1)

        found = trace(model, pad_left(rows, device), {"post": layers}, margin, at="logits")
        value, gradient = found.values["post"], found.gradients["post"]
        each = [(value[layer] * gradient[layer]).double().sum(1) for layer in layers]
        values = torch.stack(each, dim=1).cpu()
        check_values(model, values, "the gradient of the margin", rows)
        return values

    size = len(HALVES) * n_labels, len(layers), model.cfg.d_mlp
    total, positive = torch.zeros(2, *size, dtype=torch.float64)
    for chosen in batches(ids, min(_GRADIENTS, in_force().rows(_GRADIENTS))):
        parts = halving(attributions, chosen, lambda place: name_of_row(model, ids[place]))
        values = torch.cat(parts)
        member = one_hot(group[chosen], len(total)).T.double()
        total += torch.einsum("gt,tln->gln", member, values)
        positive += torch.einsum("gt,tln->gln", member, values.clamp_min(0))
        advance(len(chosen))
    return LabelAttribution(
        total=total.unflatten(0, (len(HALVES), n_labels)),
        positive=positive.unflatten(0, (len(HALVES), n_labels)),
        texts=torch.bincount(group, minlength=len(total)).reshape(len(HALVES), n_labels),
        split=HALVES,
        label=texts.label,
        layer=tuple(layers),
        neuron=tuple(range(model.cfg.d_mlp)),
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
