"""What every neuron does for the right label, estimated from one gradient per text.

Activation times gradient (attribution of a neuron set to zero; Nanda 2023) of the margin by which
a text's own label wins: the logit of the label's first token minus the log of the summed
exponentials of the other labels' first tokens, where the reply begins. A score above zero
estimates by how many nats the margin falls when the neuron is set to zero at all positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from circuits.data.prompts import questions
from circuits.data.texts import Texts
from circuits.errors import DataError
from circuits.model.chat import encode_prompt, encode_text, pad_left
from circuits.model.finite import check_values
from circuits.model.generation import Progress, batches
from circuits.model.gradients import trace
from circuits.model.halving import halving
from circuits.model.identities import need_neurons
from circuits.model.protocol import Model, device_of
from circuits.model.rows import name_of_row
from circuits.provenance import Provenance
from circuits.records import Record
from circuits.selective.counting import HALVES, check_texts, halves_of

__all__ = ["LabelAttribution", "label_attribution"]


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
    provenance: Provenance,
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
        provenance: Of the result.
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
    ids = [encode_prompt(model, question) for question in questions(texts.rows, request)]
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
        provenance=provenance,
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
