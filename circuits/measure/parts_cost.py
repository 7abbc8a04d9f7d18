"""What patching named parts will cost, told before it starts."""

from collections.abc import Sequence

from circuits.measure.pairs import Pair
from circuits.measure.parts import PAIRS_AT_ONCE, Parts
from circuits.measure.readouts import Readout, ReplyLikelihood
from circuits.model.partial import layers_run
from circuits.model.protocol import Model, dtype_of
from circuits.model.receipts import Cost
from circuits.names import component

__all__ = ["parts_cost"]


def parts_cost(model: Model, pairs: Sequence[Pair], readout: Readout, parts: Parts) -> Cost:
    """Cost of :func:`~circuits.measure.parts.patch_parts` with the same arguments.

    Raises:
        AxisError: a name is no component.
        DataError: a reply is missing.
    """
    firsts = [_first(part) for part in parts]
    total = Cost()
    for begin in range(0, len(pairs), PAIRS_AT_ONCE):
        some = pairs[begin : begin + PAIRS_AT_ONCE]
        if not isinstance(readout, ReplyLikelihood):
            total += _batch(model, some, 0, firsts, readout.site == "resid_post")
            continue
        for pair in some:
            for tail in readout.tails(pair.context.id):
                total += _batch(model, [pair], len(tail), firsts, False)
    return total


def _first(part: str | Sequence[str]) -> int:
    names = [part] if isinstance(part, str) else part
    return min(component(name).layer or 0 for name in names)


def _batch(
    model: Model, pairs: Sequence[Pair], tail: int, firsts: Sequence[int], stream: bool
) -> Cost:
    n, layers = len(pairs), model.cfg.n_layers
    runs = ([pair.clean.ids for pair in pairs], [pair.corrupt.ids for pair in pairs])
    tokens = sum(n * (max(map(len, ids)) + tail) for ids in runs)
    width = max(pair.matched for pair in pairs) + tail
    again = sum(n * width * layers_run(model, first) for first in firsts)
    baseline = 0 if stream else n * (tail + 1) * layers_run(model, layers)
    per_token = model.cfg.n_heads * model.cfg.d_head + model.cfg.d_mlp + 5 * model.cfg.d_model
    return Cost(
        passes=2 * n,
        steps=n * len(firsts) + (0 if stream else n),
        token_layers=tokens * layers + again + baseline,
        memory=tokens * layers * per_token * dtype_of(model).itemsize,
    )
