"""Activation patching: values of one run placed in another run of the same context.

A clean value in the corrupt run (denoising) asks whether the place is enough, a corrupt value in
the clean run (noising) whether it is needed (Heimersheim and Nanda 2024, arXiv 2404.15255).
Effects are exact: everything downstream is run again, many patched runs side by side, each from
the patched layer and position on. What a head or sublayer writes changes the residual stream by a
sum, so a layer's own MLP is run once per changed position and what follows once per row; where an
MLP cannot be run by itself, the layer is run again as a whole.

Named components, alone or several at once, are each set to their value in the other run, whatever
the components before them did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal, get_args

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import AxisError
from circuits.models.families import adds_up, needs, output_weights
from circuits.models.memory import halving
from circuits.models.protocol import Hook, Model
from circuits.models.run import after_mlp, can_run_mlp, hook_name
from circuits.names import component
from circuits.patching.pairs import CleanCorrupt, LogitWords, Mode, Readout, over_contexts
from circuits.prompts.prompt import PromptLike
from circuits.records import Record

__all__ = [
    "Components",
    "HeadPatches",
    "HeadSite",
    "SitePatches",
    "StreamSite",
    "patch",
    "patch_components",
    "patch_heads",
    "patch_sites",
]

StreamSite = Literal["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
HeadSite = Literal["z", "q", "k", "v", "pattern"]
"""Keys and values are patched by key-value group, the others by head."""

Components = Sequence[str | Sequence[str]]
"""Names (``L3H5``, ``L3N512``, ``L3.attn``, ``L3.mlp``), or groups of names patched at once."""

TOKENS_AT_ONCE = 4096

_WRITE = "pair pos head d_head, head d_head d_model -> pair head pos d_model"


@dataclass(frozen=True, eq=False)
class SitePatches(Record):
    """Effects of patching the residual stream or what a sublayer writes.

    Effect: readout with the clean value minus readout with the corrupt one; positive pushes
    towards the emotion. Unit: that of the readout. Means over contexts, and their standard errors
    (NaN for a single one).
    """

    effect: Float[Tensor, "site layer place"]
    stderr: Float[Tensor, "site layer place"]
    gap: Float[Tensor, " run"]
    """Readout of the clean and of the corrupt run, averaged over contexts."""

    site: tuple[str, ...]
    layer: tuple[int, ...]
    place: tuple[str, ...]
    """Positions, or roles of positions."""
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
        sites: ``heads`` (the output of every head), ``q``, ``k``, ``v`` or ``pattern``; or hook
            points of the residual stream: :data:`StreamSite`.
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
    pairs = CleanCorrupt.of(model, clean, corrupt)
    measure = readout.of(model) if isinstance(readout, LogitWords) else readout
    names = [sites] if isinstance(sites, str) else list(sites)
    of_heads = ("heads", *get_args(HeadSite))
    if len(names) == 1 and names[0] in of_heads:
        site = "z" if names[0] == "heads" else names[0]
        return patch_heads(pairs, measure, site=site, by=by or "all", mode=mode)
    for name in names:
        _check(name, (*of_heads, *get_args(StreamSite)), "site")
    return patch_sites(pairs, measure, sites=names, by=by or "position", mode=mode)


def patch_sites(
    pairs: CleanCorrupt,
    readout: Readout,
    *,
    sites: Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    by: str = "role",
    mode: Mode = "denoising",
) -> SitePatches:
    """Patch every site of every layer at every place.

    Args:
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
        _check(site, get_args(StreamSite), "hook point of the residual stream")
        if site == "resid_mid":
            needs(pairs.model, "patches", "sequence")
    found = _patched(pairs, readout, mode, by, sites)
    tables = {name: found.pop(name)[:, :, 0] for name in ("effect", "stderr")}
    return SitePatches(site=tuple(sites), **tables, **found)


def patch_heads(
    pairs: CleanCorrupt,
    readout: Readout,
    *,
    site: str = "z",
    by: str = "role",
    mode: Mode = "denoising",
) -> HeadPatches:
    """Patch every head (or key-value group) of every layer at every place.

    For ``pattern`` a place is the position that attends. Arguments as in :func:`patch_sites`.

    Raises:
        AxisError: the site is unknown, or patterns of prompts of different length are to be
            patched, which have no counterpart.
        DataError: there are no pairs, or they are of different contrasts.
    """
    _check(site, get_args(HeadSite), "part of a head")
    for pair in pairs if site == "pattern" else ():
        clean, corrupt = len(pair.clean.ids), len(pair.corrupt.ids)
        if clean != corrupt:
            raise AxisError(
                f"attention patterns of context {pair.context.id} have no counterpart: the clean "
                f"prompt has {clean} tokens, the corrupt one {corrupt}, and the tokens of the "
                "asking line are keys too. Give two emotions whose words have as many tokens"
            )

    found = _patched(pairs, readout, mode, by, [site])
    tables = {name: found.pop(name)[0] for name in ("effect", "stderr")}
    heads = tuple(range(tables["effect"].shape[1]))
    return HeadPatches(head=heads, site=site, **tables, **found)


def patch_components(
    pairs: CleanCorrupt, readout: Readout, components: Components, *, mode: Mode = "denoising"
) -> Float[Tensor, "pair component"]:
    """Effect of patching each component, or each group at once, at all matched positions.

    Args:
        pairs: Clean and corrupt prompts.
        readout: What the runs are judged by; gives the unit.
        components: What is patched.
        mode: Clean values into the corrupt run, or the other way round.

    Returns:
        Readout with the clean values minus readout without them, per pair and component.

    Raises:
        AxisError: a name is no component of the model, or a group is empty.
        DataError: there are no pairs.
    """
    chosen, first = _choose(pairs.model, components)
    sites = (*(site for site, _ in chosen), "resid_pre")

    def work(runs: CleanCorrupt) -> dict[str, Tensor]:
        return {"effect": _patched_components(runs, chosen, first)}

    tables = pairs.batches(work, readout, mode, sites)
    return torch.cat([found["effect"] for found in tables])


def _check(site: str, known: Sequence[str], what: str) -> None:
    if site not in known:
        raise AxisError(f"{site!r} is no {what} that can be patched; give {', '.join(known)}")


def _patched(
    pairs: CleanCorrupt, readout: Readout, mode: Mode, by: str, sites: Sequence[str]
) -> dict[str, Any]:
    """What a record says of patches ``[site layer unit place]``."""
    names, layers = pairs.positions(by), range(pairs.model.cfg.n_layers)
    # What has to be kept of the unpatched runs to patch these sites.
    kept = (*sites, "resid_mid") if {"attn_out", "resid_mid", "z"} & set(sites) else sites

    def work(runs: CleanCorrupt) -> dict[str, Tensor]:
        rows = [torch.stack([_swept(runs, s, i) for i in layers], dim=1) for s in sites]
        values = torch.stack(rows, dim=1)
        base = runs.baseline.reshape(-1, *[1] * (values.ndim - 1))
        return {"effect": runs.sign * (values - base), "gap": runs.gap}

    found = over_contexts(pairs.batches(work, readout, mode, kept, names))
    return {
        "effect": found["effect"],
        "stderr": found["effect_stderr"],
        "gap": found["gap"],
        "layer": tuple(layers),
        "place": names,
        "run": ("clean", "corrupt"),
        **pairs.described(readout, mode),
    }


def _swept(runs: CleanCorrupt, site: str, layer: int) -> Float[Tensor, "pair unit place"]:
    """Readout with ``site`` of ``layer``, or of each of its heads, patched at every place."""
    model, before_mlp = runs.model, site in ("attn_out", "resid_mid", "z")
    adds = site not in ("q", "k", "v", "pattern") and (not before_mlp or can_run_mlp(model))
    if not adds or (site == "z" and not adds_up(model, "heads")):
        return _inside(runs, site, layer)
    before = _base(runs, "resid_pre" if site == "resid_pre" else "resid_post", layer)[:, None]
    change = runs.change(runs.other_run.sites[site][layer], runs.base_run.sites[site][layer])
    W_O = output_weights(model, "head", layer) if site == "z" else None
    change = change[:, None] if W_O is None else einsum(change.to(W_O.dtype), W_O, _WRITE)
    if before_mlp:
        middle = _base(runs, "resid_mid", layer)[:, None] + change
        changed = after_mlp(model, layer, middle.flatten(0, 1)).unflatten(0, middle.shape[:2])
    else:
        changed = before + change
    return _read(runs, layer + (site != "resid_pre"), before, changed).transpose(1, 2)


def _base(runs: CleanCorrupt, site: str, layer: int) -> Tensor:
    """The base run's activation in the window."""
    return runs.base_run.sites[site][layer][:, -runs.width :]


def _read(
    runs: CleanCorrupt,
    layer: int,
    before: Float[Tensor, "pair 1 pos d_model"],
    changed: Float[Tensor, "pair variant pos d_model"],
) -> Float[Tensor, "pair place variant"]:
    """Readouts when ``changed`` stands where a place is, and ``before`` elsewhere."""
    n_variants = changed.shape[1]
    first = runs.end if layer == runs.model.cfg.n_layers else 0
    masks = runs.masks[..., first:]
    # A place from which nothing reaches the readout leaves it as it is, exactly.
    untouched = runs.baseline[:, None, None]
    found = untouched.repeat(1, masks.shape[1], n_variants)

    def patch(places: list[int], start: int) -> None:
        chosen, begin = masks[:, places, None, start:, None], first + start
        resid = changed[:, None, :, begin:].where(chosen, before[:, None, :, begin:])
        rows = _rows(runs, len(places) * n_variants)
        read = runs.read(rows, begin, layer, resid.flatten(0, 2)).to(found.dtype)
        reached = chosen.any(dim=3)[..., 0]
        found[:, places] = read.unflatten(0, resid.shape[:3]).where(reached, untouched)

    _side_by_side(masks, len(runs) * n_variants, patch)
    return found


def _inside(runs: CleanCorrupt, site: str, layer: int) -> Float[Tensor, "pair head place"]:
    """The same where the layer is run again as a whole, with the other run's value inside."""
    given, masks = runs.other_run.sites[site][layer], runs.masks
    if site == "resid_mid":  # what attention would have to write
        site, given = "attn_out", given - runs.base_run.sites["resid_pre"][layer]
    units = 1 if site == "attn_out" else given.shape[1 if site == "pattern" else 2]
    found = runs.baseline.new_empty(len(runs), units, masks.shape[1])
    one_unit = torch.eye(units, dtype=torch.bool, device=masks.device)

    def patch(places: list[int], start: int) -> None:
        rows = _rows(runs, len(places) * units)
        # Row by row (pair, place, unit) the positions of the place, at that unit alone.
        where = masks[:, places, None, start:, None] & one_unit[:, None]
        put = _put((site, layer), given[rows], where.flatten(0, 2))
        resid = _base(runs, "resid_pre", layer)[:, start:]
        read = runs.read(rows, start, layer, resid[rows], [put]).to(found.dtype)
        found[:, :, places] = read.reshape(len(runs), len(places), units).transpose(1, 2)

    _side_by_side(masks, len(runs) * units, patch)
    return found


def _put(place: tuple[str, int], given: Tensor, where: Bool[Tensor, "row pos unit"]) -> Hook:
    """The other run's values at these positions and units."""
    site, width = place[0], where.shape[1]
    if site == "pattern":
        where, given = rearrange(where, "row pos head -> row head pos 1"), given[:, :, -width:]
    else:
        # Heads are vectors; neurons, and a sublayer as a whole, are not.
        where = where if site in ("post", "attn_out", "mlp_out") else where[..., None]
        given = given[:, -width:]
    return hook_name(*place), lambda x, hook: given.to(x.dtype).where(where, x)


def _rows(runs: CleanCorrupt, times: int) -> list[int]:
    return [pair for pair in range(len(runs)) for _ in range(times)]


def _side_by_side(
    masks: Bool[Tensor, "pair place pos"], per_place: int, patch: Callable[..., None]
) -> None:
    """Patch places (``start``: their first position) in groups whose runs begin close together.

    A place that has no position is left out; ``per_place``: runs of each.
    """
    anywhere = masks.any(0)
    firsts = anywhere.to(torch.uint8).argmax(-1).tolist()
    width, groups = masks.shape[-1], list[list[int]]()
    some = anywhere.any(-1).nonzero()[:, 0].tolist()
    for place in sorted(some, key=lambda place: firsts[place]):
        start = firsts[groups[-1][0]] if groups else 0
        # Positions between the group's start and the place are run for nothing.
        near = firsts[place] - start <= 0.1 * (width - start)
        rows = (len(groups[-1]) + 1) * per_place if groups else 0
        if groups and near and rows * (width - start) <= TOKENS_AT_ONCE:
            groups[-1].append(place)
        else:
            groups.append([place])
    for group in groups:
        halving(
            partial(patch, start=firsts[group[0]]),
            group,
            lambda place: f"patching of place {place}",
            rows=False,
        )


_SITES = {"head": "z", "neuron": "post", "attn": "attn_out", "mlp": "mlp_out"}


def _choose(
    model: Model, components: Components
) -> tuple[dict[tuple[str, int], Bool[Tensor, "component unit"]], list[int]]:
    """What is patched by site and layer, a sublayer as one unit, and each group's lowest layer."""
    cfg = model.cfg
    sizes = {"z": cfg.n_heads, "post": cfg.d_mlp, "attn_out": 1, "mlp_out": 1}
    masks, first = dict[tuple[str, int], Tensor](), list[int]()
    for number, own in enumerate(components):
        parts = {name: component(name) for name in ([own] if isinstance(own, str) else own)}
        if not parts:
            raise AxisError(f"group {number} of the components is empty; name one or more")
        for name, part in parts.items():
            site, unit = _SITES.get(part.kind) or _SITES.get(part.sublayer or ""), part.index or 0
            if site is None or part.layer is None:
                raise AxisError(f"{name} cannot be patched; give heads, neurons or sublayers")
            if part.layer >= cfg.n_layers or unit >= sizes[site]:
                raise AxisError(
                    f"{name} is no component of the model, which has {cfg.n_layers} layers of "
                    f"{cfg.n_heads} heads and {cfg.d_mlp} neurons"
                )
            empty = torch.zeros(len(components), sizes[site], dtype=torch.bool)
            masks.setdefault((site, part.layer), empty)[number, unit] = True
        first.append(min(part.layer or 0 for part in parts.values()))
    return masks, first


def _patched_components(
    runs: CleanCorrupt, chosen: Mapping[tuple[str, int], Tensor], first: Sequence[int]
) -> Float[Tensor, "pair component"]:
    found, baseline = torch.zeros(len(runs), len(first)), runs.baseline.float().cpu()
    at = runs.matched[..., None]

    def patch(numbers: Sequence[int]) -> None:
        rows, layer = _rows(runs, len(numbers)), first[numbers[0]]
        own = torch.tensor(numbers).repeat(len(runs))
        hooks = [
            _put(place, runs.other_run.sites[place[0]][place[1]][rows], mask & at[rows])
            for place, whole in chosen.items()
            if bool((mask := whole[own, None].to(at.device)).any())
        ]
        resid = _base(runs, "resid_pre", layer)[rows]
        read = runs.read(rows, 0, layer, resid, hooks, all_positions=True)
        apart = read.reshape(len(runs), -1).float().cpu() - baseline[:, None]
        found[:, numbers] = runs.sign * apart

    at_once = max(1, TOKENS_AT_ONCE // (len(runs) * runs.width))
    order = sorted(range(len(first)), key=first.__getitem__)
    for _, same in groupby(order, key=first.__getitem__):
        numbers = list(same)
        for begin in range(0, len(numbers), at_once):
            some = numbers[begin : begin + at_once]
            halving(patch, some, lambda number: f"patching of component {number}", rows=False)
    return found
