"""How active every neuron is on texts of every class: one pass over them, reduced on the way.

Two tests of "active" are in use. ``gate``: the gate's input to the activation function is above
zero, as in LAPE (Tang et al. 2024, arXiv 2402.16438). ``product``: what the output weights read is
above zero, as Lee et al. (Findings of ACL 2025) have been reconstructed. They differ wherever the
linear branch of a gated MLP is negative.

No padding is counted, and a class with more tokens would look less selective than one with few:
every class gives the same number of tokens to each half of the texts, exactly. Every batch is
reduced to sums per class and half, and to counts per permutation of the labels, inside the pass.

What every neuron does for the right label is estimated from one gradient per text: activation times
gradient (attribution of a neuron set to zero; Nanda 2023) of the margin by which a text's own label
wins: the logit of the label's first token minus the log of the summed exponentials of the other
labels' first tokens, where the reply begins. A score above zero estimates by how many nats the
margin falls when the neuron is set to zero at all positions.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from circuits.errors import AxisError, DataError
from circuits.models.families import along_neurons, need_neurons
from circuits.models.generate import batches
from circuits.models.memory import halving, name_of_row
from circuits.models.protocol import Model, device_of
from circuits.models.run import check_values, trace, watch
from circuits.models.tokens import encode, encode_text, pad_left, text_span
from circuits.prompts.prompt import Texts, questions
from circuits.records import Record
from circuits.running import advance, in_force

__all__ = ["LabelAttribution", "Profile", "Sign", "Where", "label_attribution", "profile_texts"]

Sign = Literal["gate", "product"]
"""What must be above zero for a neuron to be active: ``pre``, or ``post``."""

Where = Literal["content", "all", "last"]
"""Tokens of the text being classified, all of the prompt, or the one where the reply begins."""

HALVES: Final = (0, 1)
"""The halves of the texts, from each of which neurons can be selected by itself."""

_TEXTS, _GRADIENTS = 96, 32
"""Texts in one pass at most, and with gradients, for which all layers are held at once."""


class Span(NamedTuple):
    """A prompt and the tokens of it that may be counted: ``ids[start:stop]``, at least one."""

    ids: tuple[int, ...]
    start: int
    stop: int


class Counted(NamedTuple):
    """What every text counts for: its first so many tokens, for a class and a half."""

    label: Int[Tensor, " text"]
    half: Int[Tensor, " text"]
    tokens: Int[Tensor, " text"]


def read_spans(model: Model, texts: Texts, request: str, where: Where) -> list[Span]:
    """Prompts of all texts."""
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
    """
    groups = halves_of(truth, seed)
    length = torch.tensor([span.stop - span.start for span in spans])
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


def check_word(option: str, found: str, words: Sequence[str]) -> None:
    """Refuse what is none of the words that an option may be."""
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


@dataclass(frozen=True, eq=False)
class Profile(Record):
    """Sums over the counted tokens of the texts of every class, in two halves of the texts.

    Activations are ``post``, what a neuron's output weights are multiplied by. ``sel(split=0)``
    is the profile of one half.
    """

    active: Int[Tensor, "split label layer neuron"]
    """Counted tokens on which the neuron is active."""
    tokens: Int[Tensor, "split label"]
    texts: Int[Tensor, "split label"]
    total: Float[Tensor, "split label layer neuron"]
    """Sum of the activation over counted tokens; ``absolute`` of its size, ``square`` of its
    square."""
    absolute: Float[Tensor, "split label layer neuron"]
    square: Float[Tensor, "split label layer neuron"]
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
        return self.active.sum(0).double() / self._tokens

    @property
    def mean(self) -> Float[Tensor, "label layer neuron"]:
        """Mean activation on counted tokens."""
        return self.total.sum(0) / self._tokens

    @property
    def mean_size(self) -> Float[Tensor, "label layer neuron"]:
        """Mean size of the activation on counted tokens."""
        return self.absolute.sum(0) / self._tokens

    @property
    def variance(self) -> Float[Tensor, "label layer neuron"]:
        """Variance of the activation over the counted tokens of a class (ddof 0)."""
        return (self.square.sum(0) / self._tokens - self.mean**2).clamp_min(0)

    @property
    def largest(self) -> Float[Tensor, "label layer neuron"]:
        """Largest size of the activation on a counted token."""
        return self.peak.amax(0)

    @property
    def last(self) -> Float[Tensor, "label layer neuron"]:
        """Mean activation at the last prompt position."""
        return self.at_last.sum(0) / self._texts

    @property
    def stream(self) -> Float[Tensor, "label layer d_model"]:
        """Mean ``resid_post`` at the last prompt position."""
        return self.stream_at_last.sum(0) / self._texts

    @property
    def weight(self) -> Float[Tensor, "label layer neuron"]:
        """Projection of output weights on the class's unit direction.

        The direction is the class's mean ``resid_post`` at the last prompt position minus the
        mean over classes.
        """
        apart = self.stream - self.stream.mean(0)
        along = self.along_stream.sum(0) / self._texts
        return (along - along.mean(0)) / apart.norm(dim=-1, keepdim=True).clamp_min(1e-12)

    @property
    def _tokens(self) -> Int[Tensor, "label 1 1"]:
        return self.tokens.sum(0)[:, None, None]

    @property
    def _texts(self) -> Int[Tensor, "label 1 1"]:
        return self.texts.sum(0)[:, None, None]


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

    Nothing is kept per token; sums are in float64 and int64. The seed in force decides the choice
    of texts, their halves and the permutations.

    Args:
        texts: Of the train split.
        n_shuffles: Permutations of the labels over the texts, for the null of entropies.

    Raises:
        AxisError: ``sign`` or ``where`` is unknown.
        DataError: the texts are of another split, there are fewer than two classes, a class has
            fewer than two texts, or the number of permutations is negative.
        ModelError: a hook point is missing, or an activation is not finite.
    """
    need_neurons(model, "profiles")
    check_word("sign", sign, get_args(Sign))
    check_word("where", where, get_args(Where))
    if n_shuffles < 0:
        raise DataError(f"{n_shuffles} permutations of the labels were asked for; give 0 or more")
    _check_texts(texts)
    seed, n_labels, device = in_force().seed, len(texts.label), device_of(model)
    spans = read_spans(model, texts, request, where)
    actual = balanced(spans, texts.truth, seed)
    schemes = [actual, *permuted(spans, texts.truth, n_shuffles, seed)]
    # Every text belongs to a class and half, and in every permutation to a class.
    groups = [one_hot(actual.half * n_labels + actual.label, len(HALVES) * n_labels).T]
    groups += [one_hot(own.label, n_labels).T for own in schemes[1:]]

    def read(places: Sequence[int]) -> dict[str, Tensor]:
        """Sums over these texts, ``[layer group unit]``."""
        rows, own = list(places), [spans[place] for place in places]
        tokens = pad_left([span.ids for span in own], device)
        width = tokens.ids.shape[1]
        start = torch.tensor([width - len(span.ids) + span.start for span in own])
        counts = torch.stack([scheme.tokens[rows] for scheme in schemes])
        ends = (start + counts - 1).clamp_min(0).to(device)
        members = [
            (own[:, rows] * (count > 0)).double().to(device)
            for own, count in zip(groups, counts, strict=True)
        ]
        member, position, every = members[0], torch.arange(width), torch.arange(len(rows))
        inside = (position >= start[:, None]).to(device)[..., None]
        counted = inside & (position.to(device) <= ends[0][:, None])[..., None]
        found: dict[str, list[Tensor]] = {}

        def signs(layer: int, activation: Tensor) -> None:
            upto = ((activation > 0) & inside).cumsum(1, dtype=torch.int32)
            parts = zip(members, ends, strict=True)
            table = torch.cat([one @ upto[every, end].double() for one, end in parts])
            found.setdefault("active", []).append(table)

        def post(layer: int, activation: Tensor) -> None:
            exact = activation.double()
            kept = exact * counted
            largest = (member[..., None] * kept.abs().amax(1)).amax(1)
            for name, each in (
                ("total", member @ kept.sum(1)),
                ("absolute", member @ kept.abs().sum(1)),
                ("square", member @ kept.square().sum(1)),
                ("peak", largest),
                ("at_last", member @ exact[:, -1]),
            ):
                found.setdefault(name, []).append(each)
            if sign == "product":
                signs(layer, activation)

        def stream(layer: int, activation: Tensor) -> None:
            at_last = member @ activation[:, -1].double()
            found.setdefault("stream_at_last", []).append(at_last)

        takers = {"post": post, "resid_post": stream} | ({"pre": signs} if sign == "gate" else {})
        watch(model, tokens, takers)
        # Layers of a model that is spread over devices have theirs on several.
        return {name: torch.stack([own.to(device) for own in all_]) for name, all_ in found.items()}

    sums: dict[str, Tensor] = {}
    used = torch.stack([own.tokens for own in schemes]).any(0).nonzero()[:, 0].tolist()
    at_once = min(_TEXTS, in_force().rows(_TEXTS))
    for chosen in batches([spans[place].ids for place in used], at_once):
        places = [used[i] for i in chosen]
        for part in halving(read, places, lambda place: name_of_row(model, spans[place].ids)):
            for name, own in part.items():
                merge = torch.maximum if name == "peak" else torch.add
                sums[name] = merge(sums[name], own) if name in sums else own
        advance(len(chosen))

    tables = {name: own.cpu().transpose(0, 1) for name, own in sums.items()}
    active = tables.pop("active").round().long()
    halves: dict[str, Any] = {
        name: own.unflatten(0, (len(HALVES), n_labels)) for name, own in tables.items()
    }
    along = along_neurons(model, tables["stream_at_last"].float()).double()
    n_groups = len(groups[0])
    return Profile(
        **{name: own.contiguous() for name, own in halves.items()},
        tokens=(groups[0] @ actual.tokens).reshape(len(HALVES), n_labels),
        texts=(groups[0] @ (actual.tokens > 0).long()).reshape(len(HALVES), n_labels),
        active=active[:n_groups].unflatten(0, (len(HALVES), n_labels)).contiguous(),
        along_stream=along.unflatten(0, (len(HALVES), n_labels)),
        shuffled_active=active[n_groups:].unflatten(0, (n_shuffles, n_labels)).contiguous(),
        shuffled_tokens=torch.stack(
            [one_hot(own.label, n_labels).T @ own.tokens for own in schemes]
        )[1:],
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
        texts: Of the train split; all of them are read.

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
    member = torch.zeros(len(HALVES), n_labels, len(ids), dtype=torch.float64)
    for (half, label), own in halves_of(texts.truth, seed).items():
        member[half, label, own] = 1.0

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

    sums = torch.zeros(2, *member.shape[:2], len(layers), model.cfg.d_mlp, dtype=torch.float64)
    for chosen in batches(ids, min(_GRADIENTS, in_force().rows(_GRADIENTS))):
        parts = halving(attributions, chosen, lambda place: name_of_row(model, ids[place]))
        values = torch.cat(parts)
        for own, each in zip(sums, (values, values.clamp_min(0)), strict=True):
            own += torch.einsum("sct,tln->scln", member[..., chosen], each)
        advance(len(chosen))
    return LabelAttribution(
        total=sums[0].clone(),
        positive=sums[1].clone(),
        texts=member.sum(-1).long(),
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
