"""Maps of patching and of paths."""

from typing import Any, Final

import plotly.graph_objects as go
import torch
from torch import Tensor

from circuits.names import head_name
from circuits.patching.exact_paths import ExactPaths
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.patching.paths import PathEffects
from circuits.plots.style import CONTROL, DIVERGING, choose, colour, cue, layout, numbers, words

__all__ = [
    "patch_map",
    "path_agreement",
    "path_map",
]

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
    if isinstance(patches, SitePatches):
        return _streams(patches)
    return _heads(patches) if len(patches.place) <= 8 else _heads_by_position(patches)


def _streams(patches: SitePatches) -> go.Figure:
    figure, shown = go.Figure(), {}
    for s, site in enumerate(patches.site):
        figure.add_trace(_cells(patches.effect[s], patches.stderr[s], patches, "layer %{y}, %{x}"))
        shown[_SITE_WORDS[site]] = [s]
    if len(shown) > 1:
        choose(figure, "Site", shown)
    _places(figure, patches.place)
    figure.update_yaxes(dtick=1, showgrid=False)
    height = max(420, min(900, 260 + 20 * len(patches.layer)))
    return layout(figure, _title(patches, None), x="position", y="layer", height=height)


def _heads(patches: HeadPatches) -> go.Figure:
    figure, shown = go.Figure(), {}
    unit = "group" if patches.site in ("k", "v") else "head"
    # The place with the largest effects is what is shown first.
    order = patches.effect.abs().amax((0, 1)).argsort(descending=True, stable=True).tolist()
    for number, p in enumerate(order):
        values, errors = patches.effect[:, :, p], patches.stderr[:, :, p]
        figure.add_trace(_cells(values, errors, patches, f"layer %{{y}}, {unit} %{{x}}"))
        shown[words(patches.place[p])] = [number]
    if len(shown) > 1:
        choose(figure, "Place", shown)
    figure.update_xaxes(dtick=1, showgrid=False)
    figure.update_yaxes(dtick=1, showgrid=False)
    height = max(420, min(900, 260 + 20 * len(patches.layer)))
    what = "key-value group" if unit == "group" else unit
    return layout(figure, _title(patches, patches.site), x=what, y="layer", height=height)


def _heads_by_position(patches: HeadPatches) -> go.Figure:
    names = [head_name(i, j) for i in patches.layer for j in patches.head]
    values, errors = patches.effect.flatten(0, 1), patches.stderr.flatten(0, 1)
    strongest = values.abs().amax(1).argsort(descending=True)[:_MOST].sort().values
    cells = _cells(values[strongest], errors[strongest], patches, "%{y} at %{x}")
    figure = go.Figure(cells)
    kept = [names[i] for i in strongest.tolist()]
    figure.update_yaxes(tickvals=list(range(len(kept))), ticktext=kept, showgrid=False)
    _places(figure, patches.place)
    height = max(460, 240 + 15 * len(kept))
    return layout(figure, _title(patches, patches.site), x="position", y="head", height=height)


def _cells(values: Tensor, errors: Tensor, patches: Any, where: str) -> go.Heatmap:
    limit = float(patches.effect.abs().max()) or 1.0
    shown = torch.where(errors.isfinite(), errors, torch.nan)
    return go.Heatmap(
        z=numbers(values),
        customdata=numbers(shown),
        zmin=-limit,
        zmax=limit,
        colorscale=[list(stop) for stop in DIVERGING],
        colorbar={"title": {"text": _UNITS.get(patches.readout, patches.readout), "side": "right"}},
        hovertemplate=f"{where}<br>effect %{{z:.3g}} ± %{{customdata:.2g}}<extra></extra>",
        xgap=1,
        ygap=1,
    )


def _places(figure: go.Figure, places: tuple[str, ...]) -> None:
    # Labels begin with the place, so that a word may occur twice.
    labels = [words(place) for place in places]
    figure.update_xaxes(
        tickvals=list(range(len(labels))), ticktext=labels, tickangle=-90, showgrid=False
    )


def _title(patches: SitePatches | HeadPatches, site: str | None) -> str:
    what = f"{_SITE_WORDS[site].capitalize()} patched" if site else "Patching"
    contexts = "context" if patches.n_contexts == 1 else "contexts"
    return (
        f"{what}: {words(patches.emotion)} against {words(patches.other)}, "
        f"{_MODES[patches.mode]} ({patches.n_contexts} {contexts})"
    )


_PATH_UNITS: Final = {"projection": "residual-stream length", "logit difference": "logits"}


def path_map(paths: PathEffects, most: int = 18) -> go.Figure:
    """Attribution of the paths between the ends with the strongest ones, sender by receiver.

    Empty cells are no paths: the sender comes after the input.

    Args:
        paths: All paths.
        most: Senders, and receivers, drawn.
    """
    values = torch.where(paths.exists, paths.mean, torch.nan)
    sizes = paths.mean.abs()
    rows = sizes.amax(1).argsort(descending=True)[:most].sort().values.tolist()
    columns = sizes.amax(0).argsort(descending=True)[:most].sort().values.tolist()
    limit = float(sizes.max()) or 1.0
    details = torch.stack([1.96 * paths.stderr, paths.control], dim=-1)
    figure = go.Figure(
        go.Heatmap(
            z=numbers(values[rows][:, columns]),
            x=[words(paths.receiver[column]) for column in columns],
            y=[words(paths.sender[row]) for row in rows],
            customdata=numbers(details[rows][:, columns]),
            zmin=-limit,
            zmax=limit,
            colorscale=[list(stop) for stop in DIVERGING],
            colorbar={"title": {"text": _unit(paths.readout), "side": "right"}, "thickness": 12},
            hovertemplate="%{y} to %{x}: %{z:.3g} ± %{customdata[0]:.2g} (95%)<br>"
            "control %{customdata[1]:.2g}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
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
    guessed = [paths.at("mean", sender=sender, receiver=reader) for sender, reader in ends]
    across = [1.96 * paths.at("stderr", sender=sender, receiver=reader) for sender, reader in ends]
    patched = numbers(exact.mean)
    ends_of_line = [min([0.0, *guessed, *patched]), max([0.0, *guessed, *patched])]
    figure = go.Figure(
        go.Scatter(
            x=ends_of_line,
            y=ends_of_line,
            name="equal",
            mode="lines",
            line={"color": CONTROL, "dash": "dot"},
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
    unit = _unit(exact.readout)
    return layout(
        figure,
        f"Paths of {words(exact.emotion)}: estimated and measured",
        x=f"attributed ({unit})",
        y=f"patched ({unit})",
        height=460,
    )


def _unit(readout: str) -> str:
    return _PATH_UNITS.get(readout, words(readout))
