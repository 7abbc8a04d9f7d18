"""What a patching sweep will cost, told before it starts: its loops without its passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import pad

from circuits.measure.pairs import Pair
from circuits.measure.patched_runs import TOKENS_AT_ONCE, goes_around, kept_sites
from circuits.measure.patching import PAIRS_AT_ONCE
from circuits.measure.places import find_places, spans
from circuits.measure.readouts import Readout, ReplyLikelihood
from circuits.model.partial import can_run_mlp, layers_run
from circuits.model.protocol import Model, dtype_of
from circuits.model.receipts import Cost

__all__ = ["head_patching_cost", "site_patching_cost"]

_THROUGH_MLP = ("attn_out", "resid_mid", "z")


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pairs that are run together, as :class:`~circuits.measure.cases.Case` has them."""

    model: Model
    pairs: Sequence[Pair]
    masks: Bool[Tensor, "pair place pos"]
    tail: int
    reads_stream: bool

    @property
    def width(self) -> int:
        return max(pair.matched for pair in self.pairs) + self.tail

    @property
    def tokens(self) -> int:
        """Tokens of the clean and of the corrupt batch, padding included."""
        runs = ([p.clean.ids for p in self.pairs], [p.corrupt.ids for p in self.pairs])
        return sum(len(self.pairs) * (max(map(len, ids)) + self.tail) for ids in runs)


def site_patching_cost(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    *,
    sites: Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    by: str = "role",
) -> Cost:
    """Cost of :func:`~circuits.measure.patching.patch_sites` with the same arguments.

    Raises:
        AxisError: ``by`` is unknown.
        DataError: there are no pairs, or a reply is missing.
    """
    total = Cost()
    for batch in _batches(model, pairs, readout, by):
        total += _unpatched(batch, kept_sites(sites))
        for site in sites:
            for layer in range(model.cfg.n_layers):
                if site in ("attn_out", "resid_mid") and not can_run_mlp(model):
                    total += _inside(batch, layer, 1)
                    continue
                following = layer if site == "resid_pre" else layer + 1
                middle = len(batch.pairs) * batch.width if site in _THROUGH_MLP else 0
                total += Cost(token_layers=middle) + _reads(batch, following, 1)
    return total


def head_patching_cost(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    *,
    site: str = "z",
    by: str = "role",
) -> Cost:
    """Cost of :func:`~circuits.measure.patching.patch_heads` with the same arguments.

    Raises:
        AxisError: ``by`` is unknown.
        DataError: there are no pairs, or a reply is missing.
    """
    groups = int(getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads)
    units, total = groups if site in ("k", "v") else model.cfg.n_heads, Cost()
    for batch in _batches(model, pairs, readout, by):
        total += _unpatched(batch, kept_sites([site]))
        for layer in range(model.cfg.n_layers):
            if site == "z" and goes_around(model):
                middle = len(batch.pairs) * units * batch.width
                total += Cost(token_layers=middle) + _reads(batch, layer + 1, units)
            else:
                total += _inside(batch, layer, units)
    return total


def _batches(model: Model, pairs: Sequence[Pair], readout: Readout, by: str) -> Iterator[_Batch]:
    masks, stream = find_places(pairs, by).masks, readout.site == "resid_post"
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = pairs[first : first + PAIRS_AT_ONCE]
        own = masks[first : first + PAIRS_AT_ONCE]
        if not isinstance(readout, ReplyLikelihood):
            yield _batch(model, some, own, 0, stream)
            continue
        for row, pair in enumerate(some):
            for tail in readout.tails(pair.context.id):
                yield _batch(model, [pair], own[row : row + 1], len(tail), stream)


def _batch(model: Model, pairs: Sequence[Pair], masks: Tensor, tail: int, stream: bool) -> _Batch:
    width = max(pair.matched for pair in pairs)
    return _Batch(model, pairs, pad(masks[..., -width:], (0, tail)), tail, stream)


def _unpatched(batch: _Batch, sites: Sequence[str]) -> Cost:
    """Clean and corrupt runs and their readouts."""
    cfg, n_pairs = batch.model.cfg, len(batch.pairs)
    readouts = Cost() if batch.reads_stream else _run(batch, 2 * n_pairs, 1, cfg.n_layers)
    widths = {"z": cfg.n_heads * cfg.d_head, "q": cfg.n_heads * cfg.d_head}
    per_token = sum(widths.get(site, cfg.d_model) for site in {*sites, "resid_pre"})
    size = dtype_of(batch.model).itemsize
    memory = batch.tokens * cfg.n_layers * (per_token + 2 * cfg.d_model) * size
    memory += 8 * TOKENS_AT_ONCE * max(cfg.d_mlp, 4 * cfg.d_model) * size
    return readouts + Cost(
        passes=2 * n_pairs, token_layers=batch.tokens * cfg.n_layers, memory=memory
    )


def _reads(batch: _Batch, layer: int, variants: int) -> Cost:
    at_end, total = layer == batch.model.cfg.n_layers, Cost()
    if at_end and batch.reads_stream:
        return total
    first = batch.width - batch.tail - 1 if at_end else 0
    for span in spans(batch.masks[..., first:], len(batch.pairs) * variants, TOKENS_AT_ONCE):
        rows = len(batch.pairs) * len(span.places) * variants
        total += _run(batch, rows, batch.width - first - span.start, layer)
    return total


def _inside(batch: _Batch, layer: int, units: int) -> Cost:
    total = Cost()
    for span in spans(batch.masks, len(batch.pairs) * units, TOKENS_AT_ONCE):
        rows = len(batch.pairs) * len(span.places) * units
        total += _run(batch, rows, batch.width - span.start, layer)
    return total


def _run(batch: _Batch, rows: int, positions: int, layer: int) -> Cost:
    positions = positions if layer < batch.model.cfg.n_layers else batch.tail + 1
    return Cost(steps=rows, token_layers=rows * positions * layers_run(batch.model, layer))
