"""Circuits from published tables alone, without a model.

Wang et al. 2025 (arXiv 2510.11328, stage 6.5): importance deals places out to layers, and a
layer takes the first of its ranking, whatever their sign. Where no contributions are there, the
number of neurons is known but not which; then the ids are ``None``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import DataError
from circuits.provenance import Provenance, versions
from circuits.published.allocation import Layers, Settings, deal_out
from circuits.published.columns import TABLES
from circuits.published.contents import Contents
from circuits.published.records import AllocationLog

__all__ = ["Assembled", "assemble_published", "published_form"]

_SUBLAYERS = ("attn", "mlp")


@dataclass(frozen=True)
class Assembled:
    """The published circuit of one emotion, with how its places were dealt out."""

    emotion: str
    settings: Settings
    split: tuple[int, int]
    """Neurons and heads that were asked for."""
    neurons: Layers
    heads: Layers
    neuron_ids: tuple[tuple[int, ...], ...] | None
    """Per layer in rank order; ``None`` if there are no contributions to rank by."""
    head_ids: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """The circuit in its published form."""
        layers = []
        for layer, heads in enumerate(self.head_ids):
            neurons = None if self.neuron_ids is None else list(self.neuron_ids[layer])
            layers.append(
                {
                    "layer": layer,
                    "mlp": {"k": self.neurons.used[layer], "neurons": neurons},
                    "attention": {"k": self.heads.used[layer], "heads": list(heads)},
                }
            )
        return published_form(
            self.emotion,
            layers,
            total=sum(self.split),
            ratio=(
                self.settings.ratio_mode,
                ",".join(f"{share:g}" for share in self.settings.ratio),
            ),
            split=self.split,
            minima=(self.neurons.base[0], self.heads.base[0]),
            cap_ratio=self.settings.cap_ratio,
            planned=(sum(self.neurons.planned), sum(self.heads.planned)),
        )

    def log(self) -> AllocationLog:
        """How places were dealt out, attention first."""
        both = (self.heads, self.neurons)
        size = (1, 2, len(self.head_ids))
        available = [own.available for own in both]
        return AllocationLog(
            provenance=Provenance(options={"assembled": "published"}, versions=versions()),
            weight=_grid([own.weights for own in both]),
            share=_grid([own.shares for own in both]),
            base=_grid([own.base for own in both]),
            added=_grid([own.added for own in both]),
            assigned=_grid([own.planned for own in both]),
            available=_grid(available),
            # The published logs say here how many there are, not what a layer may get at most.
            cap=_grid(available),
            used=_grid([own.used for own in both]),
            row=torch.arange(2 * size[2]).reshape(size),
            emotion=(self.emotion,),
            sublayer=_SUBLAYERS,
            layer=tuple(range(size[2])),
            columns=TABLES[AllocationLog].columns,
        )


def assemble_published(
    contents: Contents, emotion: str, settings: Settings | None = None
) -> Assembled:
    """The circuit of one emotion by the published rule.

    Raises:
        DataError: head importances or importance tables lack, or their layers differ.
        CircuitError: an importance is not finite.
    """
    given = settings or Settings()
    heads, neurons = contents.heads(emotion), contents.contributions(emotion)
    if heads is None:
        raise DataError(f"there are no head importances of {emotion!r}; import them")
    weights = contents.weights(emotion)
    n_layers = weights.shape[1]
    for found in (heads, neurons):
        if found is not None and len(found.layer) != n_layers:
            raise DataError(
                f"{emotion}: the importance table has {n_layers} layers, "
                f"{type(found).__name__} has {len(found.layer)}"
            )
    attention, mlp = weights.tolist()
    split = given.split(2 * n_layers, _positive(mlp), _positive(attention))
    cap = given.cap_ratio
    dealt_mlp = deal_out(
        mlp, [contents.n_neurons(emotion)] * n_layers, split[0],
        minimum=given.min_mlp, cap_ratio=cap,
    )  # fmt: skip
    dealt_heads = deal_out(
        attention, [len(heads.head)] * n_layers, split[1],
        minimum=given.min_attention, cap_ratio=cap,
    )  # fmt: skip
    return Assembled(
        emotion, given, split, dealt_mlp, dealt_heads,
        neuron_ids=None if neurons is None else _first(neurons.mean[0], dealt_mlp.used),
        head_ids=_first(heads.mean[0], dealt_heads.used),
    )  # fmt: skip


def published_form(
    emotion: str,
    layers: Sequence[dict[str, Any]],
    *,
    total: int,
    ratio: tuple[str | None, str | None],
    split: tuple[int, int],
    minima: tuple[int | None, int | None],
    cap_ratio: float | None,
    planned: tuple[int, int],
) -> dict[str, Any]:
    """A circuit with the published keys in their order; pairs are neurons, then heads."""
    used = [sum(entry[kind]["k"] for entry in layers) for kind in ("mlp", "attention")]
    summary = [
        {"planned": asked, "used": taken, "final_deficit": asked - taken}
        for asked, taken in zip(planned, used, strict=True)
    ]
    return {
        "emotion": emotion,
        "K_total": total,
        "ratio_mode": ratio[0],
        "ratio_fixed": ratio[1],
        "K_alloc": _both(split),
        "min_per_layer": _both(minima),
        "cap_ratio": cap_ratio,
        "summary": _both(summary),
        "layers": list(layers),
    }


def _both(pair: Sequence[Any]) -> dict[str, Any]:
    return {"mlp": pair[0], "attention": pair[1]}


def _positive(scores: Sequence[float]) -> list[float]:
    return [max(score, 0.0) for score in scores]


def _first(
    scores: Float[Tensor, "layer component"], counts: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    order = scores.argsort(dim=1, descending=True, stable=True)
    return tuple(tuple(order[i, :k].tolist()) for i, k in enumerate(counts))


def _grid(rows: Sequence[Sequence[float | int | None]]) -> Float[Tensor, "emotion sublayer layer"]:
    values = [[float("nan") if value is None else float(value) for value in row] for row in rows]
    return torch.tensor([values], dtype=torch.float64)
