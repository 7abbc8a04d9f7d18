"""Patched runs of one layer, side by side: a row per pair, place and head.

What a head or sublayer writes changes the residual stream by a sum, position by position. So a
layer's own MLP is run once per changed position, and what follows once per row, from the next
layer and the first changed position on. Where an MLP cannot be run by itself, the layer is run
again as a whole.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from circuits.measure.cases import Case
from circuits.measure.places import spans
from circuits.model.halving import halving
from circuits.model.identities import adds_up
from circuits.model.partial import after_mlp, can_run_mlp
from circuits.model.protocol import Hook, Model
from circuits.model.readers import output_weights
from circuits.model.runs import hook_name

__all__ = [
    "HeadSite",
    "StreamSite",
    "goes_around",
    "kept_sites",
    "patched_heads",
    "patched_stream",
]

StreamSite = Literal["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
HeadSite = Literal["z", "q", "k", "v", "pattern"]
"""Keys and values are patched by key-value group, the others by head."""

TOKENS_AT_ONCE = 4096

_Masks = Bool[Tensor, "pair place other_pos"]
"""Positions of each place among those of the prompt, a reply after it not counted."""


def kept_sites(sites: Sequence[str]) -> tuple[str, ...]:
    """What has to be kept of the unpatched runs to patch these sites."""
    through_mlp = {"attn_out", "resid_mid", "z"} & set(sites)
    return (*sites, "resid_mid", "resid_post") if through_mlp else (*sites, "resid_post")


def patched_stream(case: Case, masks: _Masks, site: str, layer: int) -> Float[Tensor, "pair place"]:
    """Signed readout with ``site`` of ``layer`` patched at every place."""
    if site in ("attn_out", "resid_mid") and not can_run_mlp(case.model):
        return _inside(case, masks, site, layer)[:, 0]
    if site == "resid_pre":
        following, before = layer, case.kept("resid_pre", layer)
        changed = before + case.change(site, layer)
    else:
        following, before = layer + 1, case.kept("resid_post", layer)
        changed = _after(case, site, layer, case.change(site, layer))
    return _read(case, masks, following, before[:, None], changed[:, None])[..., 0]


def patched_heads(
    case: Case, masks: _Masks, site: str, layer: int
) -> Float[Tensor, "pair head place"]:
    """Signed readout with ``site`` of each head (or group) of ``layer`` patched at every place."""
    if site != "z" or not goes_around(case.model):
        return _inside(case, masks, site, layer)
    W_O = output_weights(case.model, "head", layer)
    write = einsum(
        case.change("z", layer).to(W_O.dtype),
        W_O,
        "pair pos head d_head, head d_head d_model -> pair head pos d_model",
    )
    before = case.kept("resid_post", layer)[:, None]
    changed = _after(case, site, layer, write)
    return rearrange(
        _read(case, masks, layer + 1, before, changed), "pair place head -> pair head place"
    )


def goes_around(model: Model) -> bool:
    """May a head be patched by what it writes, without its attention being run again?"""
    return can_run_mlp(model) and adds_up(model, "heads")


def _after(case: Case, site: str, layer: int, change: Tensor) -> Tensor:
    """resid_post of ``layer`` when ``change`` is added to what ``site`` is part of."""
    if site in ("mlp_out", "resid_post"):
        return case.kept("resid_post", layer) + change
    middle = case.kept("resid_mid", layer)
    if change.ndim == 3:
        return after_mlp(case.model, layer, middle + change)
    rows = (middle[:, None] + change).flatten(0, 1)
    return after_mlp(case.model, layer, rows).unflatten(0, change.shape[:2])


def _read(
    case: Case,
    masks: _Masks,
    layer: int,
    before: Float[Tensor, "pair 1 pos d_model"],
    changed: Float[Tensor, "pair variant pos d_model"],
) -> Float[Tensor, "pair place variant"]:
    """Readouts when ``changed`` stands where a place is, and ``before`` elsewhere."""
    n_variants = changed.shape[1]
    first = case.end if layer == case.model.cfg.n_layers else 0
    masks = pad(masks, (0, case.tail))[..., first:]
    # A place from which nothing reaches the readout leaves it as it is, exactly.
    untouched = case.baseline[:, None, None]
    found = untouched.repeat(1, masks.shape[1], n_variants)
    for span in spans(masks, case.n_pairs * n_variants, TOKENS_AT_ONCE):

        def patch(places: Sequence[int], start: int = span.start) -> None:
            chosen = masks[:, list(places), None, start:, None]
            begin = first + start
            resid = changed[:, None, :, begin:].where(chosen, before[:, None, :, begin:])
            rows = _rows(case, places, n_variants)
            read = case.read(rows, begin, layer, resid.flatten(0, 2)).to(found.dtype)
            reached = chosen.any(dim=3)[..., 0]
            found[:, list(places)] = read.unflatten(0, resid.shape[:3]).where(reached, untouched)

        halving(patch, span.places, _place, rows=False)
    return found


def _inside(case: Case, masks: _Masks, site: str, layer: int) -> Float[Tensor, "pair head place"]:
    given = case.source.sites[site][layer]
    if site == "resid_mid":  # what attention would have to write
        site, given = "attn_out", given - case.base.sites["resid_pre"][layer]
    whole = site == "attn_out"
    units = 1 if whole else given.shape[1 if site == "pattern" else 2]
    masks = pad(masks, (0, case.tail))
    found = case.baseline.new_empty(case.n_pairs, units, masks.shape[1])
    for span in spans(masks, case.n_pairs * units, TOKENS_AT_ONCE):

        def patch(places: Sequence[int], start: int = span.start) -> None:
            rows = _rows(case, places, units)
            resid = case.kept("resid_pre", layer)[:, start:]
            units_of = _one_unit(masks[:, list(places), start:], units)
            put = _put(site, layer, given[rows], units_of[..., 0] if whole else units_of)
            read = case.read(rows, start, layer, resid[rows], [put])
            shape = (case.n_pairs, len(places), units)
            found[:, :, list(places)] = rearrange(
                read.to(found.dtype).reshape(shape), "pair place head -> pair head place"
            )

        halving(patch, span.places, _place, rows=False)
    return found


def _place(place: int) -> str:
    return f"patching of place {place}"


def _one_unit(chosen: Tensor, units: int) -> Bool[Tensor, "row pos head"]:
    """Row by row (pair, place, unit) the positions of the place, at that unit alone."""
    eye = torch.eye(units, dtype=torch.bool, device=chosen.device)
    own = chosen[:, :, None, :, None] & eye[:, None]
    return rearrange(own, "pair place unit pos head -> (pair place unit) pos head")


def _put(site: str, layer: int, given: Tensor, chosen: Bool[Tensor, "row pos *head"]) -> Hook:
    width = chosen.shape[1]

    def put(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        if site == "pattern":
            where = rearrange(chosen, "row pos head -> row head pos 1")
            return given[:, :, -width:].to(activation.dtype).where(where, activation)
        return given[:, -width:].to(activation.dtype).where(chosen[..., None], activation)

    return hook_name(site, layer), put


def _rows(case: Case, places: Sequence[int], variants: int) -> list[int]:
    pairs = torch.arange(case.n_pairs)
    return repeat(pairs, "pair -> (pair times)", times=len(places) * variants).tolist()
