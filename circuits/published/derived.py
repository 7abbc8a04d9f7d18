"""What a run of ours measured, in the published layout, and what that layout then lacks.

Only what follows from our records is written; everything else is named in the list of losses.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from circuits.circuit.circuit import Circuit
from circuits.effects.activations import Differences
from circuits.effects.directions import Directions
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.neurons import NeuronEffects
from circuits.names import EMOTIONS
from circuits.published.assembling import published_form
from circuits.published.folder import (
    CIRCUIT,
    ELICITATION,
    LABELLED,
    Contents,
    Document,
    Entry,
    place_of,
    read_document,
    short_model,
)
from circuits.published.tables import (
    KINDS,
    Contributions,
    DifferenceVectors,
    HeadImportance,
    MeanImportance,
    ReferenceDirection,
    Sigma,
    SublayerImportance,
    UnitDirections,
    dumped,
)
from circuits.records import Record

__all__ = ["Measured", "derive"]

R = TypeVar("R", bound=Record)
_Entries = Iterator[tuple[str, Entry]]


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
    there = {
        "replies and judgements": measured.elicitation,
        "directions and sigma": measured.directions,
        "neurons' contributions": measured.neurons,
        "head importances": measured.heads,
        "difference vectors": measured.differences,
        "importance tables and reference directions": measured.importance,
        "circuits": measured.circuits,
    }
    lacking = [f"{what}: not written, the stage has not run" for what in there if not there[what]]
    name = short_model(measured.model)
    contents = Contents(dict(_entries(measured)), name, f"outputs/{name}")
    return contents, (*lacking, *_differ(measured))


def _differ(measured: Measured) -> Iterator[str]:
    for emotion in measured.directions.emotion if measured.directions else ():
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


def _six(measured: R | None) -> Iterator[tuple[int, str, R]]:
    """Place, name and part of the record of each emotion that the published layout knows."""
    for i, emotion in enumerate(measured.labels("emotion") if measured else ()):
        if measured and emotion in EMOTIONS:
            yield i, str(emotion), measured.sel(emotion=emotion)


def _entries(measured: Measured) -> _Entries:
    if folder := measured.elicitation:
        places = {"generated.jsonl": f"generated/{measured.dataset}_generated.jsonl"}
        for name in LABELLED:
            places[name] = f"labeled/{measured.dataset}/{name}"
        for name, place in places.items():
            if (folder / name).is_file():
                yield f"{ELICITATION}/{place}", read_document(folder / name)
    if own := measured.directions:
        origin = own.provenance
        for s, sublayer in enumerate(own.sublayer):
            vectors = own.vectors[:, s]
            record = UnitDirections(vectors, own.emotion, own.layer, sublayer, provenance=origin)
            yield place_of(UnitDirections, kind=KINDS[sublayer]), record
        rms = own.rms.double()
        yield place_of(Sigma), Sigma(rms, own.sublayer, own.layer, provenance=origin)
    for _, emotion, own in _six(measured.neurons):
        names = ("mean", "positive", "negative", "weight", "activation")
        table = Contributions.of(vars(own), **{name: getattr(own, name) for name in names})
        yield place_of(Contributions, emotion=emotion), table
    for e, emotion, own in _six(measured.heads):
        # The published spread divides by n and not by n - 1, so it is the standard error times
        # the root of n - 1; one sample has none.
        samples, mean = own.n_contexts[e], own.mean.double()
        spread = own.stderr.double() * (samples - 1) ** 0.5 if samples > 1 else 0 * mean
        numbers = {"samples": torch.tensor(samples), "baseline": own.baseline[..., None]}
        table = HeadImportance.of(vars(own), mean=mean, std=spread, **numbers)
        yield place_of(HeadImportance, emotion=emotion), table
    for _, emotion, own in _six(measured.differences):
        # The two kinds are named in two ways in the published folder.
        found = (("attn", own.z[0].flatten(1), "L"), ("mlp", own.post[0], "layer"))
        for sublayer, value, stem in found:
            record = DifferenceVectors(
                value, emotion, sublayer, own.layer, stem, provenance=own.provenance
            )
            yield place_of(DifferenceVectors, kind=KINDS[sublayer], emotion=emotion), record
    if measured.importance:
        yield from _importance(measured.importance)
    for emotion, circuit in measured.circuits.items():
        if emotion in EMOTIONS:
            yield CIRCUIT.format(emotion=emotion), Document(dumped(_circuit(emotion, circuit)))


def _importance(measured: Importance) -> _Entries:
    """Responses to each dose (stage 6.3), without anchors, and their mean over doses (6.4).

    Negative responses count in the sum, so shares are no true distribution.
    """
    six = measured.sel(emotion=tuple(sorted(emotion for _, emotion, _ in _six(measured))))
    mean = six.response.double().mean(1)
    share = mean / mean.sum((1, 2), keepdim=True)
    yield place_of(MeanImportance), MeanImportance.of(vars(six), response=mean, share=share)
    for e, emotion, alone in _six(measured):
        for dose in measured.dose:
            own = alone.sel(dose=dose)
            sigma, base = own.rms.double(), own.baseline.double().reshape(1, 1, 1, 1)
            change = own.response.double() * (dose * sigma).clamp_min(1e-12)
            anchors = ("base_anchor", "anchor", "change_anchor", "response_anchor")
            table = SublayerImportance.of(
                vars(own),
                sigma=sigma,
                length=dose * sigma,
                base_final=base,
                final=base + change,
                change_final=change,
                response_final=own.response,
                samples=torch.tensor(measured.n_contexts[e]),
                **dict.fromkeys(anchors, torch.tensor(torch.nan)),
            )
            yield place_of(SublayerImportance, emotion=emotion, alpha=f"{dose:g}"), table
        vector = ReferenceDirection(measured.reference[e], emotion, provenance=measured.provenance)
        yield place_of(ReferenceDirection, emotion=emotion), vector


def _circuit(emotion: str, circuit: Circuit) -> dict[str, object]:
    last = max(node.layer for node in circuit.of_kind("sublayer") if node.layer is not None)

    def side(members: tuple[tuple[int, int], ...]) -> list[tuple[int, list[int]]]:
        ids = [[i for layer, i in members if layer == own] for own in range(last + 1)]
        return [(len(own), own) for own in ids]

    split = (len(circuit.neurons), len(circuit.heads))
    return published_form(emotion, side(circuit.neurons), side(circuit.heads), split, split, {})
