"""Sums of activations per class and half, and of counts per permutation of the labels.

Every batch is reduced to its groups inside the pass: no activation outlives the hook that reads
it. A permutation counts most texts whole, so their counts are shared by all permutations; only
the texts that a permutation cuts short are counted for it again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.model.chat import pad_left
from circuits.model.protocol import Model, device_of
from circuits.model.runs import Take, watch
from circuits.model.weights import along_neurons
from circuits.selective.counting import HALVES, Share, Span

__all__ = ["Schemes", "Sums"]

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
