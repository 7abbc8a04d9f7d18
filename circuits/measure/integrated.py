"""Integrated gradients: gradients averaged along the way between the two runs.

Sundararajan et al. (2017, arXiv 1703.01365), over inputs as in Hanna et al. (2024, arXiv
2403.17806), over activations as in Marks et al. (2024, arXiv 2403.19647). The way is cut into
equal steps and the gradient is taken at the middle of each (midpoint rule).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from circuits.errors import DataError
from circuits.measure.pairs import Pair
from circuits.measure.sides import Activations, Sides
from circuits.model.chat import Tokens
from circuits.model.gradients import trace
from circuits.model.identities import needs
from circuits.model.protocol import Hook
from circuits.names import hook

__all__ = ["PATHS", "chunks", "over_activations", "over_inputs", "refuse_equal_inputs"]

PATHS = {"z": ("z", "attn_out"), "post": ("post", "mlp_out")}
"""Site that is moved along its way -> sites whose gradients are read.

A sublayer's output is linear in what its heads or neurons hand it, so both go the same way.
"""

TOKENS_AT_ONCE = 8192


def over_inputs(side: Sides, base: Activations, steps: int) -> Activations:
    """Mean gradients at all sites while the first residual stream goes from base to other run."""
    layers = range(side.model.cfg.n_layers)
    sites = {site: layers for site in base if site != "resid_pre"} | {"resid_pre": (0,)}
    return _mean_gradients(side, "resid_pre", 0, base["resid_pre"][0], sites, steps)


def over_activations(side: Sides, base: Activations, steps: int) -> Activations:
    """Mean gradients at heads, neurons and sublayers while each site of a layer goes its own way.

    All heads of a layer move together, and all its neurons; what follows reacts, what comes
    before stays.

    Raises:
        ModelError: sublayers are not linear in their heads or neurons (:data:`PATHS`).
    """
    needs(side.model, "gradients integrated over activations", "heads", "neurons")
    found: dict[str, dict[int, Tensor]] = {}
    for moved, read in PATHS.items():
        for layer in range(side.model.cfg.n_layers):
            sites = dict.fromkeys(read, (layer,))
            own = _mean_gradients(side, moved, layer, base[moved][layer], sites, steps)
            for site in read:
                found.setdefault(site, {})[layer] = own[site][layer]
    return found


def chunks(n_pairs: int, width: int, steps: int) -> Iterator[range]:
    """Steps that are run side by side."""
    at_once = max(1, TOKENS_AT_ONCE // (n_pairs * width))
    for first in range(0, steps, at_once):
        yield range(first, min(first + at_once, steps))


def refuse_equal_inputs(pairs: Sequence[Pair]) -> None:
    """Refuse pairs between whose inputs there is no way to go.

    Raises:
        DataError: all matched tokens of a pair are the same.
    """
    for pair in pairs:
        if pair.clean.ids[-pair.matched :] == pair.corrupt.ids[-pair.matched :]:
            other = pair.other or "plain"
            raise DataError(
                f"method 'ig-inputs' moves the inputs of matched tokens, and those of context "
                f"{pair.context.id} ({pair.emotion} against {other}) are the same in both prompts; "
                "compare two emotions, or use 'ig-activations'"
            )


def _mean_gradients(
    side: Sides,
    moved: str,
    layer: int,
    base: Tensor,
    sites: Mapping[str, Sequence[int]],
    steps: int,
) -> dict[str, dict[int, Tensor]]:
    n_pairs, width = side.base.ids.shape
    target = side.moved(moved, layer, base)
    total: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    for chunk in chunks(n_pairs, width, steps):
        shares = torch.tensor([(step + 0.5) / steps for step in chunk], dtype=base.dtype)
        shares = shares.to(base.device).reshape(-1, *[1] * base.ndim)
        rows = (base + shares * (target - base)).flatten(0, 1)
        tokens = Tokens(side.base.ids.repeat(len(chunk), 1), side.base.mask.repeat(len(chunk), 1))
        found = trace(
            side.model, tokens, sites, side.readout.score,
            at=side.readout.site, hooks=[_put(moved, layer, rows)],
        ).gradients  # fmt: skip
        for site, own in found.items():
            for i, gradient in own.items():
                part = gradient.unflatten(0, (len(chunk), n_pairs)).sum(0) / steps
                total[site][i] = total[site][i] + part if i in total[site] else part
    return total


def _put(site: str, layer: int, rows: Tensor) -> Hook:
    def put(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        return rows.detach().requires_grad_()

    return hook(site, layer), put
