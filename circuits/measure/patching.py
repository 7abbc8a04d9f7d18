"""Activation patching: values of one run placed in another run of the same context.

A clean value in the corrupt run (denoising) asks whether the place is enough, a corrupt value in
the clean run (noising) whether it is needed (Heimersheim and Nanda 2024, arXiv 2404.15255).
Effects are exact: everything downstream is run again, from the patched layer and position on.
Many patched runs go side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import AxisError
from circuits.measure.cases import Case, Mode, cases
from circuits.measure.moments import Moments
from circuits.measure.pairs import Pair
from circuits.measure.patched_runs import (
    HeadSite,
    StreamSite,
    kept_sites,
    patched_heads,
    patched_stream,
)
from circuits.measure.places import Places, find_places
from circuits.measure.readouts import Readout
from circuits.model.finite import check_values
from circuits.model.halving import halving_tables
from circuits.model.identities import needs
from circuits.model.protocol import Model
from circuits.provenance import Provenance
from circuits.records import Record

__all__ = ["HeadPatches", "SitePatches", "patch_heads", "patch_sites"]

PAIRS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class SitePatches(Record):
    """Effects of patching the residual stream or what a sublayer writes.

    Effect: readout with the clean value minus readout with the corrupt one; positive pushes
    towards the emotion. Unit: that of the readout.
    """

    effect: Float[Tensor, "site layer place"]
    """Averaged over contexts."""
    stderr: Float[Tensor, "site layer place"]
    """Standard error over contexts; NaN for a single one."""
    gap: Float[Tensor, " run"]
    """Readout of the clean and of the corrupt run, averaged over contexts."""

    site: tuple[str, ...]
    layer: tuple[int, ...]
    place: tuple[str, ...]
    run: tuple[str, ...]
    emotion: str
    other: str
    mode: str
    readout: str
    n_contexts: int


@dataclass(frozen=True, eq=False)
class HeadPatches(Record):
    """Effects of patching one head's output, query, attention pattern, or a group's key or value.

    Sign and unit as in :class:`SitePatches`.
    """

    effect: Float[Tensor, "layer head place"]
    stderr: Float[Tensor, "layer head place"]
    gap: Float[Tensor, " run"]

    layer: tuple[int, ...]
    head: tuple[int, ...]
    """Heads; key-value groups where keys or values are patched."""
    place: tuple[str, ...]
    run: tuple[str, ...]
    site: str
    emotion: str
    other: str
    mode: str
    readout: str
    n_contexts: int


def patch_sites(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    provenance: Provenance,
    *,
    sites: Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    by: str = "role",
    mode: Mode = "denoising",
) -> SitePatches:
    """Patch every site of every layer at every place.

    Args:
        model: The model.
        pairs: Clean and corrupt prompts of one contrast, one pair per context.
        readout: What the runs are judged by.
        provenance: Of the result.
        sites: Which activations: :data:`~circuits.measure.patched_runs.StreamSite`.
        by: What a place is: :data:`~circuits.measure.places.By`. By position, contexts are
            compared counted from the end.
        mode: Clean values into the corrupt run, or the other way round.

    Raises:
        AxisError: a site is not one of the residual stream or its sublayers.
        ModelError: there is no ``resid_mid``, or a prompt is longer than an attention window.
        DataError: there are no pairs, or they are of different contrasts.
    """
    for site in sites:
        _check(site, get_args(StreamSite), "place of the residual stream")
        if site == "resid_mid":
            needs(model, "patches", "sequence")
    layers, places = range(model.cfg.n_layers), find_places(pairs, by)

    def sweep(case: Case, masks: Tensor) -> Tensor:
        rows = [[patched_stream(case, masks, site, i) for i in layers] for site in sites]
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)

    found = _average(model, pairs, readout, mode, places, kept_sites(sites), sweep)
    return SitePatches(
        provenance=provenance,
        site=tuple(sites),
        layer=tuple(layers),
        **found,
        **_described(pairs, readout, mode, places),
    )


def patch_heads(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    provenance: Provenance,
    *,
    site: str = "z",
    by: str = "role",
    mode: Mode = "denoising",
) -> HeadPatches:
    """Patch every head (or key-value group) of every layer at every place.

    For ``pattern`` a place is the position that attends.

    Raises:
        AxisError: the site is unknown, or patterns of prompts of different length are to be
            patched, which have no counterpart.
        DataError: there are no pairs, or they are of different contrasts.
    """
    _check(site, get_args(HeadSite), "part of a head")
    places = find_places(pairs, by)
    if site == "pattern":
        _refuse_lengths(pairs)
    layers = range(model.cfg.n_layers)

    def sweep(case: Case, masks: Tensor) -> Tensor:
        return torch.stack([patched_heads(case, masks, site, i) for i in layers], dim=1)

    found = _average(model, pairs, readout, mode, places, kept_sites([site]), sweep)
    return HeadPatches(
        provenance=provenance,
        layer=tuple(layers),
        head=tuple(range(found["effect"].shape[1])),
        site=site,
        **found,
        **_described(pairs, readout, mode, places),
    )


def _average(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    mode: Mode,
    places: Places,
    sites: Sequence[str],
    sweep: Callable[[Case, Tensor], Tensor],
) -> dict[str, Tensor]:

    def patch(chosen: Sequence[int]) -> dict[str, Tensor]:
        own, masks = [pairs[place] for place in chosen], places.masks[list(chosen)]
        found = [
            _of_case(case, masks[case.rows], sweep)
            for case in cases(model, own, readout, mode, sites)
        ]
        gap = _joined([gap for _, gap in found], len(own)).cpu()
        check_values(model, gap, f"the readout {readout.name}", [pair.clean.ids for pair in own])
        return {"effect": _joined([effect for effect, _ in found], len(own)).cpu(), "gap": gap}

    together = [
        range(len(pairs))[i : i + PAIRS_AT_ONCE] for i in range(0, len(pairs), PAIRS_AT_ONCE)
    ]
    parts = [halving_tables(patch, some, lambda place: pairs[place].name) for some in together]
    values, gaps = (torch.cat([part[key] for part in parts]) for key in ("effect", "gap"))
    moments = Moments((1, *values.shape[1:]))
    moments.update(values, torch.zeros(len(values), dtype=torch.long))
    summary = moments.result()
    return {
        "effect": summary.mean[0],
        "stderr": summary.stderr[0],
        "gap": gaps.mean(0).float(),
    }


def _of_case(
    case: Case, masks: Tensor, sweep: Callable[[Case, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    base, other = case.baseline, case.other()
    values = sweep(case, masks[..., -(case.width - case.tail) :])
    effect = values - base.reshape(-1, *[1] * (values.ndim - 1))
    ends = (other, base) if case.sign_of_clean > 0 else (base, other)
    return effect, case.sign_of_clean * torch.stack(ends, dim=1)


def _joined(parts: Sequence[Tensor], n_pairs: int) -> Tensor:
    # A reply likelihood has two cases per pair, whose signed readouts add up.
    joined = torch.cat(list(parts))
    return joined.reshape(n_pairs, -1, *joined.shape[1:]).sum(1)


def _check(site: str, known: Sequence[str], what: str) -> None:
    if site not in known:
        raise AxisError(f"{site!r} is no {what} that can be patched; give {', '.join(known)}")


def _refuse_lengths(pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        clean, corrupt = len(pair.clean.ids), len(pair.corrupt.ids)
        if clean != corrupt:
            raise AxisError(
                f"attention patterns of context {pair.context.id} have no counterpart: the clean "
                f"prompt has {clean} tokens, the corrupt one {corrupt}, and the tokens of the "
                "asking line are keys too. Give two emotions whose words have as many tokens"
            )


def _described(
    pairs: Sequence[Pair], readout: Readout, mode: Mode, places: Places
) -> dict[str, Any]:
    return {
        "place": places.names,
        "run": ("clean", "corrupt"),
        "emotion": pairs[0].emotion,
        "other": pairs[0].other or "plain",
        "mode": mode,
        "readout": readout.name,
        "n_contexts": len(pairs),
    }
