"""What was measured of class-selective neurons on one set of labelled texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuits import plots as plot
from circuits.files import write_text
from circuits.neurons.adaptive import Adaptive
from circuits.neurons.select import Association, DepthProfile, EntropyNull
from circuits.neurons.steer import CrossSignal, Induction
from circuits.neurons.study import Effects, MaskEffects, Naming, PairedEffects, RangeSweep
from circuits.plots.style import short
from circuits.provenance import Provenance
from circuits.report.page import Table, cost_table, drawn_page, flat, provenance_rows

__all__ = ["NeuronPage", "SetResults", "write_neuron_page"]


@dataclass(frozen=True, eq=False)
class SetResults:
    """What was measured on one set of labelled texts."""

    name: str
    claimed: tuple[str, ...]
    """Classes of which something is said; a literal paraphrase is only there to compare with."""
    masks: Mapping[str, MaskEffects]
    """Kind of mask -> its effects; the first one is the main result."""
    selectors: Mapping[str, MaskEffects]
    """Selector -> effects of the same mask on as many neurons of its own."""
    halves: Association
    """Neurons of every class from one half of the train texts with those from the other."""
    null: EntropyNull
    sweep: RangeSweep
    adaptive: Adaptive
    induction: Induction
    depth: DepthProfile
    naming: Naming
    paired: PairedEffects | None = None

    @property
    def effects(self) -> MaskEffects:
        """The main result."""
        return next(iter(self.masks.values()))


@dataclass(frozen=True, eq=False)
class NeuronPage:
    """Everything on the page."""

    title: str
    sets: Sequence[SetResults]
    association: Sequence[Association]
    """Classes of every set with each other, and of the first set with those of the others."""
    cross: CrossSignal | None
    circuit_overlap: Sequence[tuple[str, str, int, int, int]]
    """Emotion, selector, neurons of the circuit, of the selector, of both."""
    models: Mapping[str, Sequence[MaskEffects]]
    """Model -> its main results, where several were measured."""
    receipts: Mapping[str, Mapping[str, int]]
    provenance: Provenance
    options: Mapping[str, Any] = field(default_factory=dict)


def write_neuron_page(page: NeuronPage, path: Path) -> None:
    """Write the page as one HTML file, whole or not at all."""
    figures = {
        f"association-{i}": plot.association_map(own) for i, own in enumerate(page.association)
    }
    if page.cross is not None:
        figures["cross"] = plot.cross_map(page.cross)
    for own in page.sets:
        figures |= {
            f"{own.name}-matrix": plot.change_matrix(own.effects),
            f"{own.name}-range": plot.range_map(own.sweep),
            f"{own.name}-depth": plot.depth_lines(own.depth),
            f"{own.name}-loop": plot.loop_lines(own.adaptive),
            f"{own.name}-induction": plot.induction_curves(own.induction),
        }
    overlap = page.circuit_overlap
    words = {
        "title": page.title,
        "page": page,
        "sets": {own.name: _words_of_set(own) for own in page.sets},
        "models": _model_table(page.models) if len(page.models) > 1 else None,
        "overlap": _overlap_table(overlap) if overlap else None,
        "cost": cost_table(page.receipts, "part"),
        "provenance": [*flat({"options": dict(page.options)}), *provenance_rows(page.provenance)],
    }
    write_text(path, drawn_page("neurons.html.j2", figures, words))


def _words_of_set(own: SetResults) -> dict[str, Any]:
    null = own.null
    return {
        "verdicts": _verdicts(own),
        "main": _main_table(own),
        "histogram": _histogram(own),
        "naming": _naming_table(own.naming),
        "selectors": _selector_table(own),
        "halves": _halves_table(own),
        "null": (
            f"Entropies: that of neuron {null.rank} from below is {short(null.observed)} nats; "
            f"where labels are permuted over texts it is {short(float(null.null.median()))} "
            f"(median of {len(null.draw)}), p = {short(null.p)}."
        ),
        "masks": _mask_table(own),
        "paired": None if own.paired is None else _paired_table(own.paired),
        "loops": _loop_table(own.adaptive),
    }


def _verdicts(own: SetResults) -> list[str]:
    """What holds for how many classes, and one sentence for each class it does not hold for."""
    effects, sentences = own.effects, []
    for label in own.claimed:
        i = effects.index("label", label)
        if not effects.supported[i]:
            sentences.append(
                f"{label}: not supported. Its own change is {_points(effects.own[i])}, the lowest "
                f"on another class {_points(effects.largest_other[i])}, p = "
                f"{_short(effects.random_p[i])}."
            )
    first = (
        f"For {len(own.claimed) - len(sentences)} of {len(own.claimed)} classes masking lowers "
        "recognition of the class itself more than 95% of random sets of the same layers do, and "
        "more than that of any other class."
    )
    return [first, *sentences]


def _main_table(own: SetResults) -> Table:
    effects, random, cells = own.effects, own.effects.random_change, _cells(own.effects)
    caption = (
        f"Change of accuracy on test texts ({int(effects.n_texts.min())} per class), percentage "
        f"points; {len(random)} random sets of the same layers"
    )
    columns = {
        "masked class": effects.label,
        "neurons": map(str, effects.n_neurons.tolist()),
        **{name: cells[name] for name in ("own change", "95% interval", "largest other change")},
        "lowest random change": map(_points, random.amin(0)),
        "p": cells["p"],
        "corrected p": map(_short, effects.corrected_p),
        "log-probability": map(_short, effects.on_own(effects.log_change)),
        "perplexity ratio": map(_short, effects.perplexity_ratio),
        "supported": cells["supported"],
    }
    return Table(caption, _rows(columns))


def _mask_table(own: SetResults) -> Table:
    of_mask = [
        _rows({"class: mask": [f"{label}: {kind}" for label in found.label], **_cells(found)})
        for kind, found in own.masks.items()
    ]
    rows = [row for of_label in zip(*of_mask, strict=True) for row in of_label]
    return Table("Kinds of masks on the same neurons, percentage points", rows)


def _selector_table(own: SetResults) -> Table:
    rows = []
    for selector, effects in own.selectors.items():
        cells = zip(effects.own, effects.largest_other, effects.supported, strict=True)
        found = [
            f"{_points(change)} ({_points(other)}){' ★' if star else ''}"
            for change, other, star in cells
        ]
        rows.append({"selector": selector, **dict(zip(effects.label, found, strict=True))})
    caption = "Selectors compared: own change, in brackets the lowest on another class; ★ supported"
    return Table(caption, rows)


def _histogram(own: SetResults) -> Table:
    effects, what = own.effects, "mask: true class"

    def row(name: str, counts: Any) -> dict[str, str]:
        return {what: name, **dict(zip(effects.judged, map(str, counts.tolist()), strict=True))}

    bare = zip(effects.other_label, effects.base_predicted, strict=True)
    rows = [row(f"none: {true}", counts) for true, counts in bare]
    rows += [
        row(f"{label}: {label}", effects.predicted[i, effects.index("other_label", label)])
        for i, label in enumerate(effects.label)
        if label in effects.other_label
    ]
    caption = "What is named: without a mask for every class, and for a class under its own mask"
    return Table(caption, rows)


def _halves_table(own: SetResults) -> Table:
    columns = {
        "class": own.halves.label,
        "overlap": map(_short, own.halves.jaccard.diagonal()),
        "expected of random sets": map(_short, own.halves.expected.diagonal()),
    }
    caption = "Neurons selected on two halves of the train texts: Jaccard overlap"
    return Table(caption, _rows(columns))


def _loop_table(found: Adaptive) -> Table:
    columns = {
        "class": found.label,
        "fell on dev": map(_yes, found.success),
        "random pools that fell": map(_percent, 100 * found.success_rate),
        "strength": map(_short, found.alpha),
        "neurons": map(str, found.n_core.tolist()),
        "change on test": map(_points, found.own),
        "beyond random": map(_points, found.beyond_random),
        "p": map(_short, found.p),
        "corrected p": map(_short, found.corrected_p),
    }
    return Table("Adaptive masking, and the same loop on random pools", _rows(columns))


def _naming_table(naming: Naming) -> Table:
    columns = {
        "class": naming.label,
        "named": map(_percent, naming.base),
        "named, masked": map(_percent, naming.masked),
        "no class": map(_percent, naming.base_silent),
        "no class, masked": map(_percent, naming.masked_silent),
    }
    return Table("Greedy replies: the first class that they name", _rows(columns))


def _paired_table(found: PairedEffects) -> Table:
    columns = {
        "device": found.label,
        "pairs": map(str, found.n_pairs.tolist()),
        "accuracy": [f"{accuracy:.1f}%" for accuracy in found.base.tolist()],
        "change": map(_points, found.own),
        "95% interval": _intervals(found),
        "random sets (mean)": map(_points, found.random_change.mean(0)),
    }
    caption = "A device against its own literal paraphrases, own neurons masked"
    return Table(caption, _rows(columns))


def _model_table(models: Mapping[str, Sequence[MaskEffects]]) -> Table:
    labels = [label for effects in next(iter(models.values())) for label in effects.label]
    rows = []
    for model, measured in models.items():
        cells = {
            label: f"{effects.base[effects.index('other_label', label)]:.0f}% "
            f"{_points(effects.own[i])}{' ★' if effects.supported[i] else ''}"
            for effects in measured
            for i, label in enumerate(effects.label)
        }
        rows.append({"model": model, **{label: cells.get(label, "–") for label in labels}})
    caption = "Several models: accuracy, and its change when the class's neurons are masked"
    return Table(caption, rows)


def _overlap_table(rows: Sequence[tuple[str, str, int, int, int]]) -> Table:
    found = [
        {
            "emotion: selector": f"{emotion}: {selector}",
            "circuit's neurons": str(a),
            "selector's neurons": str(b),
            "both": str(both),
            "Jaccard": short(both / max(1, a + b - both)),
        }
        for emotion, selector, a, b, both in rows
    ]
    return Table("Neurons of the circuits compared with those that recognition selects", found)


def _cells(effects: MaskEffects) -> dict[str, list[str]]:
    """What every table says of a mask's effect on its class."""
    return {
        "own change": [*map(_points, effects.own)],
        "95% interval": _intervals(effects),
        "largest other change": [*map(_points, effects.largest_other)],
        "p": [*map(_short, effects.random_p)],
        "supported": [*map(_yes, effects.supported)],
    }


def _rows(columns: Mapping[str, Iterable[str]]) -> list[dict[str, str]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _intervals(effects: Effects) -> list[str]:
    ends = zip(effects.on_own(effects.low), effects.on_own(effects.high), strict=True)
    return [f"{_points(low)} to {_points(high)}" for low, high in ends]


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _percent(value: Any) -> str:
    return f"{float(value):.0f}%"


def _points(value: Any) -> str:
    """A change in percentage points, with its sign."""
    return f"{float(value):+.1f}"


def _short(value: Any) -> str:
    return short(float(value))
