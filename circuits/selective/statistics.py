"""From log-probabilities of labels to accuracies, intervals and p-values: arithmetic, no model."""

import torch
from jaxtyping import Float, Int
from scipy.stats import false_discovery_control
from torch import Tensor

from circuits.measure.resampling import bootstrap_counts

__all__ = [
    "above",
    "below",
    "by_class",
    "corrected",
    "counts",
    "gains",
    "hits",
    "interval",
    "intervals",
]

_ROUNDING = 1e-6


def hits(logs: Float[Tensor, "*rest text label"], truth: Int[Tensor, " text"]) -> Tensor:
    """``[*rest text]``: is the true label the most likely one? Of equal ones the first is named."""
    return logs.argmax(-1) == truth


def counts(
    logs: Float[Tensor, "text label"], truth: Int[Tensor, " text"]
) -> Int[Tensor, "true label"]:
    """How often each label is named, for texts of every class."""
    n = logs.shape[1]
    return torch.bincount(truth * n + logs.argmax(-1), minlength=n * n).reshape(n, n)


def by_class(
    values: Float[Tensor, "*rest text"], truth: Int[Tensor, " text"], classes: int
) -> Float[Tensor, "*rest label"]:
    """Means over the texts of every class, in float64; NaN for a class without texts."""
    member = torch.nn.functional.one_hot(truth, classes).double()
    return values.double() @ member / member.sum(0)


def gains(
    masked: Float[Tensor, "*rest text label"],
    base: Float[Tensor, "text label"],
    truth: Int[Tensor, " text"],
) -> Float[Tensor, "*rest text"]:
    """100 where only the masked model names the true label, -100 where only the other does."""
    return 100.0 * (hits(masked, truth).double() - hits(base, truth).double())


def interval(
    values: Float[Tensor, "*rest text"], random: torch.Generator
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """95% interval of the mean over texts drawn with replacement.

    For a change the values are differences of the same text with and without a mask, so that what
    makes a text hard cancels (paired bootstrap).
    """
    count = values.shape[-1]
    means = values.double() @ bootstrap_counts(count, random).T / count
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = means.quantile(ends, dim=-1)
    return low, high


def intervals(
    values: Float[Tensor, "*rest text"], truth: Int[Tensor, " text"], classes: int, seed: int
) -> tuple[Float[Tensor, "*rest label"], Float[Tensor, "*rest label"]]:
    """:func:`interval` for the texts of every class by itself."""
    random = torch.Generator().manual_seed(seed)
    ends = [interval(values[..., truth == place], random) for place in range(classes)]
    low, high = zip(*ends, strict=True)
    return torch.stack(low, -1), torch.stack(high, -1)


def below(observed: Float[Tensor, "*rest"], random: Float[Tensor, "draw *rest"]) -> Tensor:
    """``[*rest]``: (1 + draws that are at least as low) / (1 + draws), which is never 0."""
    return (1.0 + (random <= observed + _ROUNDING).sum(0)) / (1.0 + len(random))


def above(observed: Float[Tensor, "*rest"], random: Float[Tensor, "draw *rest"]) -> Tensor:
    """``[*rest]``: (1 + draws that are at least as high) / (1 + draws)."""
    return below(-observed, -random)


def corrected(p: Float[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
    """p-values corrected for their number; the shape stays.

    Benjamini and Hochberg 1995: of the claims with a value below q, an expected share of at most q
    is wrong. With few random sets no p is small enough for a correction by their number alone.
    """
    found = false_discovery_control(p.flatten().double().numpy())
    return torch.from_numpy(found).to(p).reshape(p.shape)
