"""What a run of ours measured, in the published layout, and what that layout then lacks.

Only what follows from our records is written; everything else is named in the list of losses.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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

__all__ = [
    "Measured",
    "contributions",
    "derive",
    "head_importance",
    "mean_importance",
    "sublayer_importance",
]


def contributions(own: NeuronEffects) -> Contributions:
    """The contributions of one emotion's neurons (stage 4.1)."""
    return Contributions(
        provenance=own.provenance,
        mean=own.mean.double(),
        positive=own.positive.double(),
        negative=own.negative.double(),
        weight=own.weight.double(),
        activation=own.activation.double(),
        row=_rows(own.mean),
        emotion=own.emotion,
        layer=own.layer,
        neuron=own.neuron,
        columns=TABLES[Contributions].columns,
    )


def head_importance(own: HeadEffects, samples: int) -> HeadImportance:
    """The importances of heads for one emotion (stage 4.2).

    The published spread divides by n and not by n - 1, so it is the standard error times the
    root of n - 1; one sample has none.
    """
    mean = own.mean.double()
    spread = own.stderr.double() * max(samples - 1, 0) ** 0.5
    return HeadImportance(
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
    )


def sublayer_importance(own: Importance, samples: int) -> SublayerImportance:
    """The responses of one emotion to one dose (stage 6.3); no anchors were read."""
    response = own.response.double()
    sigma = own.rms.double().expand_as(response)
    length = own.dose[0] * sigma
    base = own.baseline.double().reshape(1, 1, 1, 1).expand_as(response)
    change = response * length.clamp_min(1e-12)
    blank = torch.full_like(response, torch.nan)
    return SublayerImportance(
        provenance=own.provenance,
        sigma=sigma,
        length=length,
        base_final=base,
        final=base + change,
        change_final=change,
        response_final=response,
        base_anchor=blank,
        anchor=blank,
        change_anchor=blank,
        response_anchor=blank,
        samples=torch.full_like(response, samples),
        row=_rows(response),
        emotion=own.emotion,
        dose=own.dose,
        sublayer=own.sublayer,
        layer=own.layer,
        columns=TABLES[SublayerImportance].columns,
    )


def mean_importance(own: Importance) -> MeanImportance:
    """The responses averaged over doses, and their share (stage 6.4).

    Negative responses count in the sum, so shares are no true distribution.
    """
    response = own.response.double().mean(1)
    return MeanImportance(
        provenance=own.provenance,
        response=response,
        share=response / response.sum((1, 2), keepdim=True),
        row=_rows(response),
        emotion=own.emotion,
        sublayer=own.sublayer,
        layer=own.layer,
        columns=TABLES[MeanImportance].columns,
    )


def _rows(like: Tensor) -> Int[Tensor, "..."]:
    return torch.arange(like.numel()).reshape(like.shape)


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
    parts: tuple[tuple[str, object, Callable[[Measured], Entries]], ...] = (
        ("replies and judgements", measured.elicitation, _elicitation),
        ("directions and sigma", measured.directions, _directions),
        ("neurons' contributions", measured.neurons, _contributions),
        ("head importances", measured.heads, _heads),
        ("difference vectors", measured.differences, _differences),
        ("importance tables and reference directions", measured.importance, _importance),
        ("circuits", measured.circuits, _circuits),
    )
    for what, source, make in parts:
        if source:
            entries |= dict(make(measured))
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


def _elicitation(measured: Measured) -> Entries:
    assert measured.elicitation
    places = {
        "generated.jsonl": f"generated/{measured.dataset}_generated.jsonl",
        **{
            name: f"labeled/{measured.dataset}/{name}"
            for name in ("accepted.jsonl", "rejected.jsonl", "accuracy_stats.json")
        },
    }
    for name, place in places.items():
        if (measured.elicitation / name).is_file():
            yield f"{ELICITATION}/{place}", read_document(measured.elicitation / name)


def _directions(measured: Measured) -> Entries:
    own = measured.directions
    assert own is not None
    for s, sublayer in enumerate(own.sublayer):
        record = UnitDirections(
            own.vectors[:, s], own.emotion, own.layer, sublayer, provenance=own.provenance
        )
        yield DIRECTIONS.format(kind=KINDS[sublayer]), record
    yield SIGMA, Sigma(own.rms.double(), own.sublayer, own.layer, provenance=own.provenance)


def _contributions(measured: Measured) -> Entries:
    assert measured.neurons is not None
    for _, emotion in _six(measured.neurons.emotion):
        table = contributions(measured.neurons.sel(emotion=emotion))
        yield CONTRIBUTIONS.format(emotion=emotion), table


def _heads(measured: Measured) -> Entries:
    assert measured.heads is not None
    for e, emotion in _six(measured.heads.emotion):
        samples = measured.heads.n_contexts[e]
        table = head_importance(measured.heads.sel(emotion=emotion), samples)
        yield HEADS.format(emotion=emotion), table


def _differences(measured: Measured) -> Entries:
    own = measured.differences
    assert own is not None
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


def _importance(measured: Measured) -> Entries:
    own = measured.importance
    assert own is not None
    means = own.sel(emotion=tuple(sorted(emotion for _, emotion in _six(own.emotion))))
    yield MEAN_IMPORTANCE, mean_importance(means)
    for e, emotion in _six(own.emotion):
        for dose in own.dose:
            table = sublayer_importance(own.sel(emotion=emotion, dose=dose), own.n_contexts[e])
            yield IMPORTANCE.format(emotion=emotion, alpha=f"{dose:g}"), table
        vector = ReferenceDirection(own.reference[e], emotion, provenance=own.provenance)
        yield REFERENCES.format(emotion=emotion), vector


def _circuits(measured: Measured) -> Entries:
    for emotion, circuit in measured.circuits.items():
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
