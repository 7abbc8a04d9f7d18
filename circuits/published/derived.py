"""What a run of ours measured, in the published layout, and what that layout then lacks.

Only what follows from our records is written; everything else is named in the list of losses.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.circuit.circuit import Circuit
from circuits.effects.activations import Differences
from circuits.effects.directions import Directions
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.neurons import NeuronEffects
from circuits.names import EMOTIONS
from circuits.published.folder import Contents, Entry
from circuits.published.importing import published_form
from circuits.published.layout import (
    CIRCUITS,
    CONTRIBUTIONS,
    DIFFERENCES,
    DIRECTIONS,
    ELICITATION,
    HEADS,
    IMPORTANCE,
    KINDS,
    MEAN_IMPORTANCE,
    REFERENCES,
    SIGMA,
    Document,
    dumped,
    read_document,
    short_model,
)
from circuits.published.tables import (
    TABLES,
    Contributions,
    DifferenceVectors,
    HeadImportance,
    MeanImportance,
    ReferenceDirection,
    Sigma,
    SublayerImportance,
    UnitDirections,
)

__all__ = ["Measured", "derive"]

Entries = Iterator[tuple[str, Entry]]


@dataclass(frozen=True, eq=False)
class Measured:
    """Results of a run of ours; ``None`` where a stage has not run."""

    model: str
    directions: Directions | None = None
    heads: HeadEffects | None = None
    neurons: NeuronEffects | None = None
    importance: Importance | None = None
    differences: Differences | None = None
    """Relative to the mean over emotions."""
    circuits: Mapping[str, Circuit] = field(default_factory=dict)
    elicitation: Path | None = None
    """Folder of the judged replies."""
    dataset: str = "sev"


def derive(measured: Measured) -> tuple[Contents, tuple[str, ...]]:
    """The published layout of a run of ours, and what is lost or differs in it."""
    entries: dict[str, Entry] = {}
    losses: list[str] = []
    replies = partial(_elicitation, dataset=measured.dataset)
    parts: list[tuple[str, Any, Callable[..., Entries]]] = [
        ("replies and judgements", measured.elicitation, replies),
        ("directions and sigma", measured.directions, _directions),
        ("neurons' contributions", measured.neurons, _contributions),
        ("head importances", measured.heads, _heads),
        ("difference vectors", measured.differences, _differences),
        ("importance tables and reference directions", measured.importance, _importance),
        ("circuits", measured.circuits, _circuits),
    ]
    for what, source, make in parts:
        if source:
            entries |= dict(make(source))
        else:
            losses.append(f"{what}: not written, the stage has not run")
    name = short_model(measured.model)
    return Contents(entries, name, f"outputs/{name}"), (*losses, *_differ(measured))


def _differ(measured: Measured) -> Iterator[str]:
    known = measured.directions.emotion if measured.directions else ()
    for emotion in known:
        if emotion not in EMOTIONS:
            yield f"{emotion}: only in the directions; the published layout knows six emotions"
    if measured.elicitation:
        yield "replies: 'meta' lacks model_id, dtype, device, input_len and time"
    if measured.directions:
        yield "directions: those after the last MLP are of resid_post, not of the final norm"
    if measured.heads and measured.heads.readout != "post_norm":
        yield f"head importances: read at {measured.heads.readout}, not after the next norm"
    if measured.importance and measured.importance.read_at != "final":
        yield f"importance: read at {measured.importance.read_at}, not after the final norm"
    if measured.importance:
        yield "importance: anchor columns are blank, as published"
    if measured.circuits:
        yield (
            "circuits: ratio_mode, ratio_fixed, min_per_layer and cap_ratio are null and there is "
            "no alloc_log, since they were not made by the published rule"
        )


def _six(emotions: tuple[str, ...]) -> list[tuple[int, str]]:
    return [(i, emotion) for i, emotion in enumerate(emotions) if emotion in EMOTIONS]


def _elicitation(folder: Path, dataset: str) -> Entries:
    places = {
        "generated.jsonl": f"generated/{dataset}_generated.jsonl",
        **{
            name: f"labeled/{dataset}/{name}"
            for name in ("accepted.jsonl", "rejected.jsonl", "accuracy_stats.json")
        },
    }
    for name, place in places.items():
        if (folder / name).is_file():
            yield f"{ELICITATION}/{place}", read_document(folder / name)


def _directions(own: Directions) -> Entries:
    for s, sublayer in enumerate(own.sublayer):
        record = UnitDirections(
            own.vectors[:, s], own.emotion, own.layer, sublayer, provenance=own.provenance
        )
        yield DIRECTIONS.format(kind=KINDS[sublayer]), record
    yield SIGMA, Sigma(own.rms.double(), own.sublayer, own.layer, provenance=own.provenance)


def _contributions(measured: NeuronEffects) -> Entries:
    """Stage 4.1."""
    for _, emotion in _six(measured.emotion):
        own = measured.sel(emotion=emotion)
        fields = ("mean", "positive", "negative", "weight", "activation")
        yield (
            CONTRIBUTIONS.format(emotion=emotion),
            Contributions(
                provenance=own.provenance,
                **{name: getattr(own, name).double() for name in fields},
                row=_rows(own.mean),
                emotion=own.emotion,
                layer=own.layer,
                neuron=own.neuron,
                columns=TABLES[Contributions].columns,
            ),
        )


def _heads(measured: HeadEffects) -> Entries:
    """Stage 4.2.

    The published spread divides by n and not by n - 1, so it is the standard error times the
    root of n - 1; one sample has none.
    """
    for e, emotion in _six(measured.emotion):
        own, samples = measured.sel(emotion=emotion), measured.n_contexts[e]
        mean, spread = own.mean.double(), own.stderr.double() * max(samples - 1, 0) ** 0.5
        yield (
            HEADS.format(emotion=emotion),
            HeadImportance(
                provenance=own.provenance,
                mean=mean,
                std=spread if samples > 1 else torch.zeros_like(mean),
                samples=torch.full_like(mean, samples),
                baseline=own.baseline.double()[..., None].expand_as(mean),
                row=_rows(mean),
                emotion=own.emotion,
                layer=own.layer,
                head=own.head,
                columns=TABLES[HeadImportance].columns,
            ),
        )


def _differences(own: Differences) -> Entries:
    for e, emotion in _six(own.emotion):
        # The two kinds are named in two ways in the published folder.
        for sublayer, value, stem in (
            ("attn", own.z[e].flatten(1), "L"),
            ("mlp", own.post[e], "layer"),
        ):
            record = DifferenceVectors(
                value, emotion, sublayer, own.layer, stem, provenance=own.provenance
            )
            yield DIFFERENCES.format(kind=KINDS[sublayer], emotion=emotion), record


def _importance(measured: Importance) -> Entries:
    """Responses to each dose (stage 6.3), without anchors, and their mean over doses (6.4).

    Negative responses count in the sum, so shares are no true distribution.
    """
    six = measured.sel(emotion=tuple(sorted(emotion for _, emotion in _six(measured.emotion))))
    mean = six.response.double().mean(1)
    axes: dict[str, Any] = {"sublayer": six.sublayer, "layer": six.layer}
    yield (
        MEAN_IMPORTANCE,
        MeanImportance(
            provenance=six.provenance,
            response=mean,
            share=mean / mean.sum((1, 2), keepdim=True),
            row=_rows(mean),
            emotion=six.emotion,
            columns=TABLES[MeanImportance].columns,
            **axes,
        ),
    )
    for e, emotion in _six(measured.emotion):
        for dose in measured.dose:
            own = measured.sel(emotion=emotion, dose=dose)
            response = own.response.double()
            sigma = own.rms.double().expand_as(response)
            base = own.baseline.double().reshape(1, 1, 1, 1).expand_as(response)
            change = response * (dose * sigma).clamp_min(1e-12)
            blank = torch.full_like(response, torch.nan)
            table = SublayerImportance(
                provenance=own.provenance,
                sigma=sigma,
                length=dose * sigma,
                base_final=base,
                final=base + change,
                change_final=change,
                response_final=response,
                base_anchor=blank,
                anchor=blank,
                change_anchor=blank,
                response_anchor=blank,
                samples=torch.full_like(response, measured.n_contexts[e]),
                row=_rows(response),
                emotion=own.emotion,
                dose=own.dose,
                columns=TABLES[SublayerImportance].columns,
                **axes,
            )
            yield IMPORTANCE.format(emotion=emotion, alpha=f"{dose:g}"), table
        vector = ReferenceDirection(measured.reference[e], emotion, provenance=measured.provenance)
        yield REFERENCES.format(emotion=emotion), vector


def _rows(like: Tensor) -> Int[Tensor, "..."]:
    return torch.arange(like.numel()).reshape(like.shape)


def _circuits(circuits: Mapping[str, Circuit]) -> Entries:
    for emotion, circuit in circuits.items():
        if emotion in EMOTIONS:
            yield f"{CIRCUITS}/{emotion}.json", Document(dumped(_circuit(emotion, circuit)))


def _circuit(emotion: str, circuit: Circuit) -> dict[str, object]:
    last = max(node.layer for node in circuit.of_kind("sublayer") if node.layer is not None)
    layers = [
        {
            "layer": layer,
            "mlp": _side("neurons", circuit.neurons, layer),
            "attention": _side("heads", circuit.heads, layer),
        }
        for layer in range(last + 1)
    ]
    split = (len(circuit.neurons), len(circuit.heads))
    return published_form(
        emotion,
        layers,
        total=sum(split),
        ratio=(None, None),
        split=split,
        minima=(None, None),
        cap_ratio=None,
        planned=split,
    )


def _side(
    parts: str, members: tuple[tuple[int, int], ...], layer: int
) -> dict[str, int | list[int]]:
    own = [index for place, index in members if place == layer]
    return {"k": len(own), parts: own}
