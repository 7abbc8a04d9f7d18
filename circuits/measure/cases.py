"""What a patching sweep stands on: the run that is changed, and the run new values come from.

Denoising changes the corrupt run with values of the clean one, noising the clean run with values
of the corrupt one. Effects have one sign in both: with the clean value minus without it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.measure.pairs import Pair
from circuits.measure.readouts import Readout, ReplyLikelihood
from circuits.model.chat import pad_left
from circuits.model.partial import Kept, keep, resume
from circuits.model.protocol import Hook, Model, device_of
from circuits.names import hook

__all__ = ["Case", "Mode", "cases"]

Mode = Literal["denoising", "noising"]

_LOGITS = "unembed.hook_out"


@dataclass(frozen=True, eq=False)
class Case:
    """Some pairs' runs, padded on the left, so that matched tokens stand under each other."""

    model: Model
    base: Kept
    """The run that is changed."""
    source: Kept
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

        See :func:`~circuits.model.partial.resume`; ``start`` counts within :attr:`width`.
        ``all_positions``: the hooks need all positions of the last MLP.
        """
        seen: list[Tensor] = []

        def see(activation: Tensor, hook: object) -> None:
            seen.append(activation)

        if layer == self.model.cfg.n_layers and self.is_stream:
            return self.sign * self.score(resid)
        offset = self.base.width - self.width
        resume(
            self.model, self.base, rows, offset + start, layer, resid,
            [*hooks, (self.reads, see)], ends=self.tail + 1,
            short=not all_positions,
        )  # fmt: skip
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
    source, of_clean = keep(model, other, wanted), 1.0 if mode == "denoising" else -1.0
    if isinstance(readout, ReplyLikelihood):
        reads, score = _LOGITS, _likelihood(torch.tensor(tail, device=device))
    else:
        reads, score = _place(model, readout.site), _last(readout.score)
    return Case(
        model, keep(model, base, wanted), source, matched, len(tail), rows,
        sign * of_clean, of_clean, reads, score,
    )  # fmt: skip


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
