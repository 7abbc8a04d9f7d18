"""What a run of ours measured, in the published layout, and what that layout then lacks.

Only what follows from our records is written; everything else is named in the list of losses.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from circuits.graph.circuit import Circuit
from circuits.measure.directions import Directions
from circuits.measure.heads import HeadEffects
from circuits.measure.importance import Importance
from circuits.measure.means import Differences
from circuits.measure.neurons import NeuronEffects
from circuits.names import EMOTIONS
from circuits.published import derived_tables as tables
from circuits.published.assembling import published_form
from circuits.published.contents import Contents, Entry
from circuits.published.documents import Document, dumped, read_document
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
    short_model,
)
from circuits.published.records import (
    DifferenceVectors,
    ReferenceDirection,
    Sigma,
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
        record = UnitDirections(own.provenance, own.vectors[:, s], own.emotion, own.layer, sublayer)
        yield DIRECTIONS.format(kind=KINDS[sublayer]), record
    yield SIGMA, Sigma(own.provenance, own.rms.double(), own.sublayer, own.layer)


def _contributions(measured: Measured) -> Entries:
    assert measured.neurons is not None
    for _, emotion in _six(measured.neurons.emotion):
        table = tables.contributions(measured.neurons.sel(emotion=emotion))
        yield CONTRIBUTIONS.format(emotion=emotion), table


def _heads(measured: Measured) -> Entries:
    assert measured.heads is not None
    for e, emotion in _six(measured.heads.emotion):
        samples = measured.heads.n_contexts[e]
        table = tables.head_importance(measured.heads.sel(emotion=emotion), samples)
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
            record = DifferenceVectors(own.provenance, value, emotion, sublayer, own.layer, stem)
            yield DIFFERENCES.format(kind=KINDS[sublayer], emotion=emotion), record


def _importance(measured: Measured) -> Entries:
    own = measured.importance
    assert own is not None
    means = own.sel(emotion=tuple(sorted(emotion for _, emotion in _six(own.emotion))))
    yield MEAN_IMPORTANCE, tables.mean_importance(means)
    for e, emotion in _six(own.emotion):
        for dose in own.dose:
            table = tables.sublayer_importance(
                own.sel(emotion=emotion, dose=dose), own.n_contexts[e]
            )
            yield IMPORTANCE.format(emotion=emotion, alpha=f"{dose:g}"), table
        vector = ReferenceDirection(own.provenance, own.reference[e], emotion)
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
        emotion, layers, total=sum(split), ratio=(None, None), split=split,
        minima=(None, None), cap_ratio=None, planned=split,
    )  # fmt: skip


def _side(
    parts: str, members: tuple[tuple[int, int], ...], layer: int
) -> dict[str, int | list[int]]:
    own = [index for place, index in members if place == layer]
    return {"k": len(own), parts: own}
