"""Maps of patching and of paths."""

from typing import Any, Final

import plotly.graph_objects as go
import torch

from circuits.names import head_name
from circuits.patching.exact_paths import ExactPaths
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.patching.paths import PathEffects
from circuits.plots.style import BASELINE, choose_one, colour, cue, heat, layout, numbers, words

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


def patch_map(patches: SitePatches | HeadPatches) -> go.Figure:
    """Effects of patching as heat maps.

    Streams: layer by place, a menu picks the site. Heads by role: layer by head, a menu picks the
    place. Heads by position: the heads with the largest effects by position.
    """
    figure, limit = go.Figure(), float(patches.effect.abs().max()) or 1.0
    unit = _UNITS.get(patches.readout, patches.readout)

    def cells(values: Any, errors: Any, where: str) -> go.Heatmap:
        known = torch.where(errors.isfinite(), errors, torch.nan)
        hover = f"{where}<br>effect %{{z:.3g}} ± %{{customdata:.2g}}"
        return heat(values, None, None, unit, hover, limit=limit, customdata=numbers(known))

    height, x, y = max(420, min(900, 260 + 20 * len(patches.layer))), "position", "layer"
    if isinstance(patches, SitePatches):
        groups = {
            _SITE_WORDS[site]: cells(patches.effect[s], patches.stderr[s], "layer %{y}, %{x}")
            for s, site in enumerate(patches.site)
        }
        choose_one(figure, "Site", groups)
        figure.update_yaxes(dtick=1)
    elif len(patches.place) <= 8:
        x = "key-value group" if patches.site in ("k", "v") else "head"
        where = f"layer %{{y}}, {x.split()[-1]} %{{x}}"
        # The place with the largest effects is what is shown first.
        order = patches.effect.abs().amax((0, 1)).argsort(descending=True, stable=True).tolist()
        groups = {
            words(patches.place[p]): cells(patches.effect[..., p], patches.stderr[..., p], where)
            for p in order
        }
        choose_one(figure, "Place", groups)
        figure.update_xaxes(dtick=1, showgrid=False)
        figure.update_yaxes(dtick=1)
    else:
        y, names = "head", [head_name(i, j) for i in patches.layer for j in patches.head]
        values, errors = patches.effect.flatten(0, 1), patches.stderr.flatten(0, 1)
        strongest = values.abs().amax(1).argsort(descending=True)[:_MOST].sort().values
        figure.add_trace(cells(values[strongest], errors[strongest], "%{y} at %{x}"))
        kept = [names[i] for i in strongest.tolist()]
        figure.update_yaxes(tickvals=list(range(len(kept))), ticktext=kept)
        height = max(460, 240 + 15 * len(kept))
    if x == "position":
        # Labels begin with the place, so that a word may occur twice.
        labels = [words(place) for place in patches.place]
        figure.update_xaxes(
            tickvals=list(range(len(labels))), ticktext=labels, tickangle=-90, showgrid=False
        )
    figure.update_yaxes(showgrid=False)
    site = None if isinstance(patches, SitePatches) else patches.site
    what = f"{_SITE_WORDS[site].capitalize()} patched" if site else "Patching"
    contexts = "context" if patches.n_contexts == 1 else "contexts"
    title = (
        f"{what}: {words(patches.emotion)} against {words(patches.other)}, "
        f"{_MODES[patches.mode]} ({patches.n_contexts} {contexts})"
    )
    return layout(figure, title, x=x, y=y, height=height)


def path_map(paths: PathEffects, most: int = 18) -> go.Figure:
    """Attribution of the paths between the ends with the strongest ones, sender by receiver.

    Empty cells are no paths: the sender comes after the input.

    Args:
        paths: All paths.
        most: Senders, and receivers, drawn.
    """
    values, sizes = torch.where(paths.exists, paths.mean, torch.nan), paths.mean.abs()
    rows = sizes.amax(1).argsort(descending=True)[:most].sort().values.tolist()
    columns = sizes.amax(0).argsort(descending=True)[:most].sort().values.tolist()
    details = torch.stack([1.96 * paths.stderr, paths.random_baseline], dim=-1)
    figure = go.Figure(
        heat(
            values[rows][:, columns],
            [words(paths.receiver[column]) for column in columns],
            [words(paths.sender[row]) for row in rows],
            _UNITS.get(paths.readout, words(paths.readout)),
            "%{y} to %{x}: %{z:.3g} ± %{customdata[0]:.2g} (95%)"
            "<br>random baseline %{customdata[1]:.2g}",
            limit=float(sizes.max()) or 1.0,
            customdata=numbers(details[rows][:, columns]),
            hoverongaps=False,
        )
    )
    figure.update_xaxes(tickangle=-90, dtick=1, tickfont={"size": 9}, showgrid=False)
    figure.update_yaxes(dtick=1, tickfont={"size": 9}, showgrid=False)
    title = (
        f"Attribution of paths: {words(paths.emotion)} against "
        f"{words(paths.other or 'no emotion')} (the strongest of {int(paths.exists.sum()):,})"
    )
    height = 240 + 20 * len(rows)
    return layout(figure, title, x="input (receiver)", y="writer (sender)", height=height)


def path_agreement(paths: PathEffects, exact: ExactPaths) -> go.Figure:
    """Attributed by patched effect of the same paths; on the dotted line they are equal."""
    ends = [edge.split("->") for edge in exact.edge]
    guessed = [paths.at("mean", sender=start, receiver=end) for start, end in ends]
    across = [1.96 * paths.at("stderr", sender=start, receiver=end) for start, end in ends]
    patched = numbers(exact.mean)
    ends_of_line = [min([0.0, *guessed, *patched]), max([0.0, *guessed, *patched])]
    figure = go.Figure(
        go.Scatter(
            x=ends_of_line,
            y=ends_of_line,
            name="equal",
            mode="lines",
            line={"color": BASELINE, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    shade = colour(exact.emotion)
    bars = {"type": "data", "color": shade, "thickness": 1, "width": 2}
    figure.add_trace(
        go.Scatter(
            x=numbers(guessed),
            y=patched,
            error_x={**bars, "array": numbers(across)},
            error_y={**bars, "array": numbers(1.96 * exact.stderr)},
            name="path",
            mode="markers",
            marker={"color": shade, "symbol": cue(exact.emotion, "symbol"), "size": 8},
            customdata=[words(edge) for edge in exact.edge],
            hovertemplate="%{customdata}<br>attributed %{x:.3g}, patched %{y:.3g}<extra></extra>",
        )
    )
    unit = _UNITS.get(exact.readout, words(exact.readout))
    title = f"Paths of {words(exact.emotion)}: estimated and measured"
    return layout(figure, title, x=f"attributed ({unit})", y=f"patched ({unit})", height=460)
