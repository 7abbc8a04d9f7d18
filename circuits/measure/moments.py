"""Running means and variances per group: a small accumulator and its frozen result."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Moments", "Summary"]


@dataclass(frozen=True, eq=False)
class Summary:
    """Means of a quantity over contexts, with their standard errors."""

    mean: Float[Tensor, "..."]
    stderr: Float[Tensor, "..."]
    """Standard deviation over contexts (ddof 1) divided by the root of their number."""
    count: Int[Tensor, " group"]


class Moments:
    """Mean and variance per group, updated batch by batch, or merged from parts.

    Counts, means and sums of squared deviations are merged (Chan, Golub and LeVeque 1983), which
    loses no digits to cancellation, whatever the order and size of the batches and parts.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._count = torch.zeros(shape[0], dtype=torch.long)
        self._mean = torch.zeros(shape, dtype=torch.float64)
        self._square = torch.zeros(shape, dtype=torch.float64)

    def update(self, values: Float[Tensor, "batch ..."], groups: Int[Tensor, " batch"]) -> None:
        """Add rows; ``groups`` says which group each row belongs to."""
        for group in groups.unique().tolist():
            rows = values[groups == group].double()
            n, seen = len(rows), int(self._count[group])
            mean = rows.mean(0)
            apart = mean - self._mean[group]
            self._mean[group] += apart * (n / (n + seen))
            self._square[group] += ((rows - mean) ** 2).sum(0) + apart**2 * (n * seen / (n + seen))
            self._count[group] += n

    def merge(self, other: "Moments") -> None:
        """Add the rows that another one has seen."""
        shape = (-1, *[1] * (self._mean.ndim - 1))
        n, seen = (each._count.double().reshape(shape) for each in (other, self))
        both = (n + seen).clamp_min(1)
        apart = other._mean - self._mean
        self._mean += apart * (n / both)
        self._square += other._square + apart.square_() * (n * seen / both)
        self._count += other._count

    def result(self) -> Summary:
        """The means and standard errors so far; NaN where rows are too few (one, two)."""
        count = self._count.reshape(-1, *[1] * (self._mean.ndim - 1)).double()
        freedom = torch.where(count > 1, count - 1, torch.nan)
        stderr = (self._square / freedom / count).sqrt()
        mean = torch.where(count > 0, self._mean, torch.nan)
        return Summary(mean.float(), stderr.float(), self._count.clone())
