"""What an attribution stands on: the run whose gradients are taken, and the run compared with it.

Denoising takes gradients in the corrupt run, noising in the clean one. Either way a component's
score is the gradient times its clean minus its corrupt activation, summed over matched positions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.measure.cases import Mode
from circuits.measure.pairs import Pair, clean_tokens, corrupt_tokens
from circuits.measure.places import Places
from circuits.measure.readouts import LogitDifference, Projection
from circuits.model.chat import Tokens
from circuits.model.gradients import observe
from circuits.model.protocol import Model

__all__ = ["KINDS", "PAIRS_AT_ONCE", "Sides", "Terms", "per_layer", "picked", "sides", "terms"]

PAIRS_AT_ONCE = 8

KINDS = {
    "heads": "z",
    "neurons": "post",
    "attn": "attn_out",
    "mlp": "mlp_out",
    "queries": "q",
    "keys": "k",
    "values": "v",
}
"""What is scored -> the site of its activation."""

Terms = dict[str, Tensor]
"""Kind -> ``[pair place layer unit]``; sublayers have no unit, inputs no layer either."""

Activations = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True, eq=False)
class Sides:
    """Some pairs' runs, padded on the left, so that matched tokens stand under each other."""

    model: Model
    readout: Projection | LogitDifference
    base: Tokens
    """The run whose gradients are taken."""
    source: Activations
    """The other run's activations, at the last :attr:`width` positions."""
    source_readout: Float[Tensor, " pair"]
    masks: Bool[Tensor, "pair place pos"]
    """Matched positions of each place, among the last :attr:`width`."""
    sign: float
    """1 in denoising, where the other run is the clean one; -1 in noising."""

    @property
    def width(self) -> int:
        """Matched positions of the widest pair."""
        return self.masks.shape[-1]

    @property
    def matched(self) -> Bool[Tensor, "pair pos"]:
        """Positions with a counterpart."""
        return self.masks[:, 0]

    def change(self, site: str, layer: int, base: Tensor) -> Tensor:
        """Other run minus base run at the matched positions, zero where there is no counterpart."""
        apart = self.source[site][layer] - base[:, -self.width :]
        return apart * self.matched.reshape(*self.matched.shape, *[1] * (apart.ndim - 2))

    def moved(self, site: str, layer: int, base: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """The base activation with a share of the way to the other run gone, where matched."""
        moved = base.clone()
        moved[:, -self.width :] += share * self.change(site, layer, base).to(base.dtype)
        return moved

    def placed(self, terms: Float[Tensor, "pair pos *unit"]) -> Float[Tensor, "pair place *unit"]:
        """Sums of each place's positions."""
        masks = self.masks.to(terms.dtype)
        return einsum(terms, masks, "pair pos ..., pair place pos -> pair place ...")


def sides(
    model: Model,
    pairs: Sequence[Pair],
    places: Places,
    readout: Projection | LogitDifference,
    mode: Mode,
    sites: Mapping[str, Sequence[int]],
) -> Sides:
    """Run the other side of some pairs once and keep what is compared with it.

    The first place must be all matched positions.
    """
    clean, corrupt = clean_tokens(model, pairs), corrupt_tokens(model, pairs)
    base, other = (corrupt, clean) if mode == "denoising" else (clean, corrupt)
    width = places.masks.shape[-1]
    seen, value = observe(model, other, sites, readout.score, at=readout.site)
    kept = {site: {i: x[:, -width:] for i, x in own.items()} for site, own in seen.items()}
    sign = 1.0 if mode == "denoising" else -1.0
    return Sides(model, readout, base, kept, value, places.masks.to(base.ids.device), sign)


def terms(side: Sides, values: Activations, gradients: Activations) -> Terms:
    """Clean minus corrupt, times gradient, of everything that has a gradient."""
    found: Terms = {}
    for kind, site in KINDS.items():
        if site in gradients:
            found[kind] = per_layer(
                gradients[site],
                lambda i, site=site: product(side, site, i, values[site][i], gradients[site][i]),
            )
    if "resid_pre" in gradients:
        found["inputs"] = product(
            side, "resid_pre", 0, values["resid_pre"][0], gradients["resid_pre"][0]
        )
    return found


def product(side: Sides, site: str, layer: int, base: Tensor, gradient: Tensor) -> Tensor:
    """One site's terms, ``[pair place unit]``, or ``[pair place]`` where it is one vector."""
    found = side.change(site, layer, base) * gradient[:, -side.width :]
    return side.sign * side.placed(found if site == "post" else found.sum(-1))


def per_layer(layers: Mapping[int, Tensor], term: Callable[[int], Tensor]) -> Tensor:
    """``[pair place layer ...]`` from one term per layer."""
    return torch.stack([term(layer) for layer in layers], dim=2)


def picked(pairs: Sequence[Pair], places: Places, chosen: Sequence[int]) -> Places:
    """The places of some of the pairs."""
    width = max(pairs[place].matched for place in chosen)
    return Places(places.names, places.masks[list(chosen), :, -width:])
