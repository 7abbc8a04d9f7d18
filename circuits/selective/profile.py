"""How active every neuron is on texts of every class: one pass over them, reduced on the way.

Two tests of "active" are in use. ``gate``: the gate's input to the activation function is above
zero, as in LAPE (Tang et al. 2024, arXiv 2402.16438). ``product``: what the output weights read is
above zero, as Lee et al. (Findings of ACL 2025) have been reconstructed. They differ wherever the
linear branch of a gated MLP is negative.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

from circuits.data.texts import Texts
from circuits.errors import DataError
from circuits.model.generation import Progress, batches
from circuits.model.halving import halving
from circuits.model.identities import need_neurons
from circuits.model.protocol import Model
from circuits.model.rows import name_of_row
from circuits.provenance import Provenance
from circuits.records import Record
from circuits.selective.counting import (
    HALVES,
    Where,
    balanced,
    check_texts,
    check_word,
    permuted,
    read_spans,
)
from circuits.selective.sums import Schemes, Sums

__all__ = ["Profile", "Sign", "profile_texts"]

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
    provenance: Provenance,
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
        provenance: Of the result.
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
        provenance=provenance,
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
