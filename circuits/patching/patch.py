"""Activation patching: sites, heads and whole components, with its cost.

Activation patching: values of one run placed in another run of the same context.

A clean value in the corrupt run (denoising) asks whether the place is enough, a corrupt value in
the clean run (noising) whether it is needed (Heimersheim and Nanda 2024, arXiv 2404.15255).
Effects are exact: everything downstream is run again, from the patched layer and position on.
Many patched runs go side by side.

Patched runs of one layer, side by side: a row per pair, place and head.

What a head or sublayer writes changes the residual stream by a sum, position by position. So a
layer's own MLP is run once per changed position, and what follows once per row, from the next
layer and the first changed position on. Where an MLP cannot be run by itself, the layer is run
again as a whole.

Patching of named parts, alone or several at once, at all matched positions or the last.

Unlike a sweep over places, any set of heads, neurons and sublayers can be patched together: each
is set to its value in the other run, whatever the parts before it did.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from circuits.effects.activations import Moments
from circuits.errors import AxisError
from circuits.models.families import adds_up, needs, output_weights
from circuits.models.memory import halving, halving_tables
from circuits.models.protocol import Hook, Model
from circuits.models.run import after_mlp, can_run_mlp, check_values, hook_name
from circuits.names import component
from circuits.patching.pairs import (
    Case,
    LogitWords,
    Mode,
    Pair,
    Places,
    Readout,
    cases,
    find_places,
    pairs_between,
    spans,
)
from circuits.prompts.prompt import PromptLike
from circuits.records import Record

__all__ = [
    "HeadPatches",
    "HeadSite",
    "Parts",
    "SitePatches",
    "StreamSite",
    "goes_around",
    "kept_sites",
    "patch",
    "patch_heads",
    "patch_parts",
    "patch_sites",
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


def patch(
    model: Model,
    clean: PromptLike | Sequence[PromptLike],
    corrupt: PromptLike | Sequence[PromptLike],
    *,
    sites: str | Sequence[str] = "heads",
    readout: Readout | LogitWords,
    by: str | None = None,
    mode: Mode = "denoising",
) -> SitePatches | HeadPatches:
    """Activation patching between any two prompts, or two sequences of prompts.

    Args:
        model: The model.
        clean: Strings, chat messages, token ids or prompts.
        corrupt: One for each clean prompt. Those of as many tokens are matched position by
            position, others from their common end.
        sites: ``heads`` (the output of every head), ``q``, ``k``, ``v`` or ``pattern``; or places
            of the residual stream: :data:`StreamSite`.
        readout: What the runs are judged by, such as
            :func:`~circuits.patching.pairs.logit_difference`.
        by: ``position``, ``all`` matched positions at once, or ``last``; by default all for heads
            and position for the residual stream.
        mode: ``denoising`` puts clean values into the corrupt run, ``noising`` the other way round.

    Returns:
        Effects: readout with the clean value minus readout with the corrupt one.

    Raises:
        AxisError: a site is unknown.
        DataError: the prompts cannot be matched, or a word of the readout is no single token.
    """
    pairs = pairs_between(model, clean, corrupt)
    measure = readout.of(model) if isinstance(readout, LogitWords) else readout
    names = [sites] if isinstance(sites, str) else list(sites)
    of_heads = {"heads": "z", **{site: site for site in get_args(HeadSite)}}
    if len(names) == 1 and names[0] in of_heads:
        site = of_heads[names[0]]
        return patch_heads(model, pairs, measure, site=site, by=by or "all", mode=mode)
    for name in names:
        _check(name, (*of_heads, *get_args(StreamSite)), "site")
    return patch_sites(model, pairs, measure, sites=names, by=by or "position", mode=mode)


def patch_sites(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
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
        sites: Which activations: :data:`StreamSite`.
        by: What a place is: :data:`~circuits.patching.pairs.By`. By position, contexts are
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
        site=tuple(sites),
        layer=tuple(layers),
        **found,
        **_described(pairs, readout, mode, places),
    )


def patch_heads(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
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
        "other": pairs[0].other or "neutral",
        "mode": mode,
        "readout": readout.name,
        "n_contexts": len(pairs),
    }


Parts = Sequence[str | Sequence[str]]
"""Names (``L3H5``, ``L3N512``, ``L3.attn``, ``L3.mlp``), or groups of names patched at once."""

_TOKENS_AT_ONCE = 4096
_SITES = {"head": "z", "neuron": "post", "attn": "attn_out", "mlp": "mlp_out"}


@dataclass(frozen=True, eq=False)
class _Chosen:
    """What is patched, per site and layer: ``[part unit]``, or ``[part 1]`` for a sublayer."""

    masks: dict[tuple[str, int], Bool[Tensor, "part unit"]]
    first: tuple[int, ...]
    """Lowest layer of every part."""

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(site for site, _ in self.masks))


@torch.no_grad()
def patch_parts(
    model: Model,
    pairs: Sequence[Pair],
    readout: Readout,
    parts: Parts,
    *,
    mode: Mode = "denoising",
    last_only: bool = False,
) -> Float[Tensor, "pair part"]:
    """Effect of patching each part, or each group of parts at once.

    Args:
        model: The model.
        pairs: Clean and corrupt prompts.
        readout: What the runs are judged by; gives the unit.
        parts: What is patched.
        mode: Clean values into the corrupt run, or the other way round.
        last_only: Patch the last position alone, instead of all matched ones.

    Returns:
        Readout with the clean values minus readout without them, per pair and part.

    Raises:
        AxisError: a name is no part of the model, or a group is empty.
    """
    chosen = _choose(model, parts)

    def patch(some: Sequence[Pair]) -> Tensor:
        values = torch.zeros(len(some), len(parts))
        for case in cases(model, some, readout, mode, (*chosen.sites, "resid_pre")):
            values[case.rows] += _effects(case, chosen, last_only)
        check_values(model, values, "the readout of a patched run", [p.clean.ids for p in some])
        return values

    found: list[Tensor] = []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = pairs[first : first + PAIRS_AT_ONCE]
        found += halving(patch, some, lambda pair: pair.name)
    return torch.cat(found)


def _effects(case: Case, chosen: _Chosen, last_only: bool) -> Float[Tensor, "pair part"]:
    found = torch.zeros(case.n_pairs, len(chosen.first))
    baseline = case.baseline.float().cpu()
    start = case.end if last_only else 0
    at = case.matched[:, start:].clone()
    if last_only:
        at[:, 1:] = False
    for layer, numbers in _together(case, chosen, case.width - start):

        def patch(numbers: Sequence[int], layer: int = layer) -> None:
            rows = [pair for pair in range(case.n_pairs) for _ in numbers]
            part = torch.tensor(numbers).repeat(case.n_pairs)
            hooks = [
                _put_parts(place, case.source.sites[place[0]][place[1]][rows], mask[part], at[rows])
                for place, mask in chosen.masks.items()
                if bool(mask[part].any())
            ]
            resid = case.kept("resid_pre", layer)[:, start:]
            read = case.read(rows, start, layer, resid[rows], hooks, all_positions=True)
            found[:, numbers] = read.reshape(case.n_pairs, -1).float().cpu() - baseline[:, None]

        halving(patch, numbers, lambda number: f"patching of part {number}", rows=False)
    return found


def _together(case: Case, chosen: _Chosen, width: int) -> Iterator[tuple[int, list[int]]]:
    """Parts that begin in one layer, as many as fit into a pass."""
    by_layer: dict[int, list[int]] = defaultdict(list)
    for number, layer in enumerate(chosen.first):
        by_layer[layer].append(number)
    at_once = max(1, _TOKENS_AT_ONCE // (case.n_pairs * width))
    for layer, numbers in sorted(by_layer.items()):
        for begin in range(0, len(numbers), at_once):
            yield layer, numbers[begin : begin + at_once]


def _put_parts(place: tuple[str, int], given: Tensor, mask: Tensor, at: Tensor) -> Hook:
    width = at.shape[1]
    where = mask[:, None] & at[..., None]  # [row pos unit]
    where = where[..., None] if place[0] == "z" else where

    def put(activation: Tensor, hook: object) -> Tensor:  # TransformerLens names it `hook`
        return given[:, -width:].to(activation.dtype).where(where, activation)

    return hook_name(*place), put


def _choose(model: Model, parts: Parts) -> _Chosen:
    sizes = {"z": model.cfg.n_heads, "post": model.cfg.d_mlp, "attn_out": 1, "mlp_out": 1}
    masks: dict[tuple[str, int], Tensor] = {}
    first = []
    for number, part in enumerate(parts):
        names = [part] if isinstance(part, str) else list(part)
        if not names:
            raise AxisError(f"group {number} of the parts to patch is empty; name one or more")
        layers = []
        for name in names:
            found = component(name)
            kind = found.kind if found.kind in _SITES else found.sublayer or ""
            if kind not in _SITES or found.layer is None:
                raise AxisError(f"{name} cannot be patched; give heads, neurons or sublayers")
            site, unit = _SITES[kind], found.index or 0
            _check_parts(model, name, found.layer, unit, sizes[site])
            place = (site, found.layer)
            if place not in masks:
                masks[place] = torch.zeros(len(parts), sizes[site], dtype=torch.bool)
            masks[place][number, unit] = True
            layers.append(found.layer)
        first.append(min(layers))
    return _Chosen(masks, tuple(first))


def _check_parts(model: Model, name: str, layer: int, unit: int, units: int) -> None:
    if layer >= model.cfg.n_layers or unit >= units:
        raise AxisError(
            f"{name} is no part of the model, which has {model.cfg.n_layers} layers of "
            f"{model.cfg.n_heads} heads and {model.cfg.d_mlp} neurons"
        )
