"""Maps of patching and of paths."""

from typing import Any, Final

import plotly.graph_objects as go
import torch

from circuits.names import head_name
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.patching.paths import ExactPaths, PathEffects
from circuits.plots.style import (
    BASELINE,
    bars,
    chart,
    colour,
    details,
    figure_of,
    heat,
    line,
    words,
)

__all__ = ["patch_map", "path_agreement", "path_map"]

_SITE_WORDS: Final = {
    "resid_pre": "residual stream before the layer",
    "attn_out": "attention output",
    "resid_mid": "residual stream after attention",
    "mlp_out": "MLP output",
    "resid_post": "residual stream after the layer",
    "z": "head output",
    "q": "query",
    "k": "key",
    "v": "value",
    "pattern": "attention pattern",
}
_UNITS: Final = {
    "projection": "residual-stream length",
    "logit difference": "logits",
    "reply likelihood": "nats per token",
}
_MODES: Final = {
    "denoising": "clean value in the corrupt run",
    "noising": "corrupt value in the clean run",
}
_MOST: Final = 40
"""Heads shown by position, those with the largest effect."""


@figure_of.register
def patch_map(patches: SitePatches | HeadPatches) -> go.Figure:
    """Effects of patching as heat maps.

    Streams: layer by place, a menu picks the site. Heads by role: layer by head, a menu picks the
    place. Heads by position: the heads with the largest effects by position.
    """
    limit, unit = float(patches.effect.abs().max()), _UNITS.get(patches.readout, patches.readout)
    places = [words(place) for place in patches.place]

    def cells(where: str, *at: Any) -> list[go.Heatmap]:
        values, texts = patches.effect[at], details(patches.stderr[at])
        hover = f"{where}<br>effect %{{z:.3g}} ± %{{customdata[0]}}"
        return [heat(values, None, None, unit, hover, limit=limit, customdata=texts)]

    # Labels begin with the place, so that a word may occur twice.
    xaxis: dict[str, Any] = {"tickvals": [*range(len(places))], "ticktext": places}
    xaxis |= {"tickangle": -90, "showgrid": False}
    look: dict[str, Any] = {"height": max(420, min(900, 260 + 20 * len(patches.layer)))}
    look |= {"menu": "Site", "yaxis": {"dtick": 1, "showgrid": False}}
    what, x, y = "Patching", "position", "layer"
    if isinstance(patches, SitePatches):
        sites = enumerate(patches.site)
        groups = {_SITE_WORDS[site]: cells("layer %{y}, %{x}", s) for s, site in sites}
    elif len(places) <= 8:
        x = "key-value group" if patches.site in ("k", "v") else "head"
        xaxis, look["menu"] = {"dtick": 1, "showgrid": False}, "Place"
        # The place with the largest effects is what is shown first.
        order = patches.effect.abs().amax((0, 1)).argsort(descending=True, stable=True).tolist()
        where = f"layer %{{y}}, {x.split()[-1]} %{{x}}"
        groups = {patches.place[p]: cells(where, ..., p) for p in order}
    else:
        y, sizes = "head", patches.effect.abs().amax(2)
        kept = sizes.flatten().argsort(descending=True)[:_MOST].sort().values
        layers, heads = kept // sizes.shape[1], kept % sizes.shape[1]
        groups = cells("%{y} at %{x}", layers, heads)
        pairs = zip(layers.tolist(), heads.tolist(), strict=True)
        names = [head_name(patches.layer[n], patches.head[h]) for n, h in pairs]
        look["yaxis"] = {"tickvals": [*range(len(names))], "ticktext": names, "showgrid": False}
        look |= {"menu": "", "height": max(460, 240 + 15 * len(names))}
    if isinstance(patches, HeadPatches):
        what = f"{_SITE_WORDS[patches.site].capitalize()} patched"
    contexts = "context" if patches.n_contexts == 1 else "contexts"
    title = (
        f"{what}: {words(patches.emotion)} against {words(patches.other)}, "
        f"{_MODES[patches.mode]} ({patches.n_contexts} {contexts})"
    )
    return chart(groups, title, x, y, xaxis=xaxis, **look)


@figure_of.register
def path_map(paths: PathEffects, most: int = 18) -> go.Figure:
    """Attribution of the paths between the ends with the strongest ones, sender by receiver.

    Empty cells are no paths: the sender comes after the input.

    Args:
        paths: All paths.
        most: Senders, and receivers, drawn.
    """
    values, sizes = torch.where(paths.exists, paths.mean, torch.nan), paths.mean.abs()
    rows, columns = (
        sizes.amax(across).argsort(descending=True)[:most].sort().values for across in (1, 0)
    )
    at = rows[:, None], columns
    cells = heat(
        values[at],
        [words(paths.receiver[column]) for column in columns.tolist()],
        [words(paths.sender[row]) for row in rows.tolist()],
        _UNITS.get(paths.readout, words(paths.readout)),
        "%{y} to %{x}: %{z:.3g} ± %{customdata[0]} (95%)<br>random baseline %{customdata[1]}",
        limit=float(sizes.max()),
        customdata=details(1.96 * paths.stderr[at], paths.random_baseline[at]),
        hoverongaps=False,
    )
    title = (
        f"Attribution of paths: {words(paths.emotion)} against "
        f"{words(paths.other or 'no emotion')} (the strongest of {int(paths.exists.sum()):,})"
    )
    axis = {"dtick": 1, "tickfont": {"size": 9}, "showgrid": False}
    look: Any = {"xaxis": {**axis, "tickangle": -90}, "yaxis": axis, "height": 240 + 20 * len(rows)}
    return chart([cells], title, "input (receiver)", "writer (sender)", **look)


def path_agreement(paths: PathEffects, exact: ExactPaths) -> go.Figure:
    """Attributed by patched effect of the same paths; on the dotted line they are equal."""
    ends = [edge.split("->") for edge in exact.edge]
    guessed, error = (
        torch.tensor([paths.at(name, sender=start, receiver=end) for start, end in ends])
        for name in ("mean", "stderr")
    )
    reach = {"error_x": (guessed, 1.96 * error), "error_y": (exact.mean, 1.96 * exact.stderr)}
    both = [0.0, *guessed.tolist(), *exact.mean.tolist()]
    diagonal = torch.tensor([min(both), max(both)])
    look: Any = {"shade": BASELINE, "dash": "dot", "size": 0, "hoverinfo": "skip"}
    equal = line("equal", diagonal.tolist(), diagonal, "", **look)
    points = line(
        exact.emotion,
        guessed.tolist(),
        exact.mean,
        "%{customdata}<br>attributed %{x:.3g}, patched %{y:.3g}",
        name="path",
        mode="markers",
        customdata=[words(edge) for edge in exact.edge],
        **{
            side: bars(own, own - far, own + far, colour(exact.emotion))
            for side, (own, far) in reach.items()
        },
    )
    unit = _UNITS.get(exact.readout, words(exact.readout))
    title = f"Paths of {words(exact.emotion)}: estimated and measured"
    return chart([equal, points], title, f"attributed ({unit})", f"patched ({unit})", height=460)
