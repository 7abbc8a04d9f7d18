"""What an attribution will cost, told before it starts: its loops without its passes."""

from collections.abc import Sequence

from circuits.measure.agreement import sampled_parts
from circuits.measure.attribution import check_request
from circuits.measure.attribution_methods import METHODS, Method
from circuits.measure.cases import Mode
from circuits.measure.integrated import chunks
from circuits.measure.pairs import Pair
from circuits.measure.parts_cost import parts_cost
from circuits.measure.places import find_places
from circuits.measure.readouts import Readout
from circuits.measure.sides import PAIRS_AT_ONCE
from circuits.model.protocol import Model, dtype_of
from circuits.model.receipts import Cost

__all__ = ["attribution_cost"]


def attribution_cost(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    method: Method = "atp",
    *,
    mode: Mode = "denoising",
    steps: int = 10,
    sample: int = 24,
    seed: int = 0,
) -> Cost:
    """Cost of :func:`~circuits.measure.attribution.attribute` with the same arguments.

    Raises:
        As :func:`~circuits.measure.attribution.attribute` does.
    """
    check_request(model, pairs, readout, method, steps, sample)
    layers = model.cfg.n_layers
    forwards, backwards = METHODS[method].passes(layers, steps)
    total = Cost()
    find_places(pairs, "all")
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = pairs[first : first + PAIRS_AT_ONCE]
        widths = [max(len(ids) for ids in own) for own in _runs(some)]
        other, base = widths if mode == "denoising" else widths[::-1]
        rows = len(some)
        together = len(next(chunks(rows, base, steps))) if METHODS[method].stepwise else 1
        total += Cost(
            passes=rows * forwards,
            token_layers=rows * (other + (forwards - 1) * base) * layers,
            backward_passes=rows * backwards,
            backward_token_layers=rows * backwards * base * layers,
            memory=_memory(model, rows * together, base),
        )
    return total + parts_cost(model, pairs, readout, sampled_parts(model, sample, seed))


def _runs(pairs: Sequence[Pair]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    return [pair.clean.ids for pair in pairs], [pair.corrupt.ids for pair in pairs]


def _memory(model: Model, rows: int, width: int) -> int:
    """What a graph keeps of every token and layer, and its values and gradients read beside it."""
    cfg = model.cfg
    heads = 8 * cfg.n_heads * cfg.d_head + 4 * cfg.n_heads * width
    per_token = heads + 14 * cfg.d_model + 8 * cfg.d_mlp
    return rows * width * cfg.n_layers * per_token * dtype_of(model).itemsize
