"""What was measured of class-selective neurons on one set of labelled texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuits import plots as plot
from circuits.files import write_text
from circuits.neurons.adaptive import Adaptive
from circuits.neurons.mask import Naming
from circuits.neurons.recognition import DepthProfile, MaskEffects, PairedEffects, RangeSweep
from circuits.neurons.select import Association, EntropyNull, SplitHalf
from circuits.neurons.steer import CrossSignal, Induction
from circuits.plots.style import short
from circuits.provenance import Provenance
from circuits.report.page import Table, cost_table, drawn_page, flat, provenance_rows

__all__ = [
    "NeuronPage",
    "SetResults",
    "write_neuron_page",
]


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
    halves: SplitHalf
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
        "provenance": [
            *flat({"options": dict(page.options)}),
            *provenance_rows(page.provenance),
        ],
    }
    write_text(path, drawn_page("neurons.html.j2", figures, words))


def _words_of_set(own: SetResults) -> dict[str, Any]:
    null = own.null
    return {
        "verdicts": _verdicts(own),
        "main": _main_table(own),
        "histogram": _histogram(own),
        "naming": _naming_table(own),
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
    effects = own.effects
    held = [label for label in own.claimed if effects.supported[effects.index("label", label)]]
    sentences = [
        f"For {len(held)} of {len(own.claimed)} classes masking lowers recognition of the class "
        "itself more than 95% of random sets of the same layers do, and more than that of any "
        "other class."
    ]
    for label in own.claimed:
        if label not in held:
            i = effects.index("label", label)
            sentences.append(
                f"{label}: not supported. Its own change is {_points(effects.own[i])}, the lowest "
                f"on another class {_points(effects.largest_other[i])}, p = "
                f"{_short(effects.random_p[i])}."
            )
    return sentences


def _main_table(own: SetResults) -> Table:
    """Every class with its change, interval, random sets and p."""
    effects, random = own.effects, own.effects.random_change
    rows = [
        {
            "masked class": label,
            "neurons": str(int(effects.n_neurons[i])),
            "own change": _points(effects.own[i]),
            "95% interval": _interval(effects, label),
            "largest other change": _points(effects.largest_other[i]),
            "lowest random change": _points(random[:, i].min()) if len(random) else "–",
            "p": _short(effects.random_p[i]),
            "corrected p": _short(effects.corrected_p[i]),
            "log-probability": _short(effects.log_change[i, effects.index("other_label", label)]),
            "perplexity ratio": _short(effects.perplexity_ratio[i]),
            "supported": "yes" if effects.supported[i] else "no",
        }
        for i, label in enumerate(effects.label)
    ]
    caption = (
        f"Change of accuracy on test texts ({int(effects.n_texts.min())} per class), percentage "
        f"points; {len(random)} random sets of the same layers"
    )
    return Table(caption, rows)


def _mask_table(own: SetResults) -> Table:
    """The same neurons under every kind of mask."""
    rows = [
        {
            "class: mask": f"{label}: {kind}",
            "own change": _points(effects.own[i]),
            "95% interval": _interval(effects, label),
            "largest other change": _points(effects.largest_other[i]),
            "p": _short(effects.random_p[i]),
            "supported": "yes" if effects.supported[i] else "no",
        }
        for i, label in enumerate(own.effects.label)
        for kind, effects in own.masks.items()
    ]
    return Table("Kinds of masks on the same neurons, percentage points", rows)


def _selector_table(own: SetResults) -> Table:
    """Every selector's neurons under the same mask."""
    rows = [
        {
            "selector": selector,
            **{
                label: f"{_points(effects.own[i])} ({_points(effects.largest_other[i])})"
                f"{' ★' if effects.supported[i] else ''}"
                for i, label in enumerate(effects.label)
            },
        }
        for selector, effects in own.selectors.items()
    ]
    caption = (
        "Selectors beside each other: own change, in brackets the lowest on another class; "
        "★ supported"
    )
    return Table(caption, rows)


def _histogram(own: SetResults) -> Table:
    """How often each class is named, without and with a mask."""
    effects, what = own.effects, "mask: true class"

    def row(name: str, counts: Any) -> dict[str, str]:
        return {what: name, **dict(zip(effects.judged, map(str, counts.tolist()), strict=True))}

    rows = [
        row(f"none: {true}", effects.base_predicted[t])
        for t, true in enumerate(effects.other_label)
    ]
    rows += [
        row(f"{label}: {label}", effects.predicted[i, effects.index("other_label", label)])
        for i, label in enumerate(effects.label)
        if label in effects.other_label
    ]
    caption = "What is named: without a mask for every class, and for a class under its own mask"
    return Table(caption, rows)


def _halves_table(own: SetResults) -> Table:
    """Overlap of the neurons from either half of the train texts."""
    found = own.halves
    rows = [
        {
            "class": label,
            "overlap": _short(found.jaccard[i]),
            "expected of random sets": _short(found.expected[i]),
        }
        for i, label in enumerate(found.label)
    ]
    return Table("Neurons selected on two halves of the train texts: Jaccard overlap", rows)


def _loop_table(found: Adaptive) -> Table:
    """The end of every adaptive loop, beside random pools."""
    rows = [
        {
            "class": label,
            "fell on dev": "yes" if found.success[i] else "no",
            "random pools that fell": f"{100 * float(found.success_rate[i]):.0f}%",
            "strength": _short(found.alpha[i]),
            "neurons": f"{int(found.n_core[i])}",
            "change on test": _points(found.own[i]),
            "beyond random": _points(found.beyond_random[i]),
            "p": _short(found.p[i]),
            "corrected p": _short(found.corrected_p[i]),
        }
        for i, label in enumerate(found.label)
    ]
    return Table("Adaptive masking, and the same loop on random pools", rows)


def _naming_table(own: SetResults) -> Table:
    """Classes as the model writes them, and how often it writes none."""
    found = own.naming
    columns = {
        "named": found.base,
        "named, masked": found.masked,
        "no class": found.base_silent,
        "no class, masked": found.masked_silent,
    }
    rows = [
        {"class": label, **{name: f"{float(share[i]):.0f}%" for name, share in columns.items()}}
        for i, label in enumerate(found.label)
    ]
    return Table("Greedy replies: the first class that they name", rows)


def _paired_table(found: PairedEffects) -> Table:
    """Devices against their own paraphrases."""
    rows = []
    for label in found.other_label:
        i, j = found.index("label", label), found.index("other_label", label)
        rows.append(
            {
                "device": label,
                "pairs": str(int(found.n_pairs[j])),
                "accuracy": f"{float(found.base[j]):.1f}%",
                "change": _points(found.change[i, j]),
                "95% interval": f"{_points(found.low[i, j])} to {_points(found.high[i, j])}",
                "random sets (mean)": _points(found.random_change[:, j].mean()),
            }
        )
    return Table("A device against its own literal paraphrases, own neurons masked", rows)


def _model_table(models: Mapping[str, Sequence[MaskEffects]]) -> Table:
    """Main results of several models."""
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
    """A circuit's neurons beside those of every selector."""
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
    return Table("Neurons of the circuits beside those that recognition selects", found)


def _interval(effects: MaskEffects, label: str) -> str:
    i, j = effects.index("label", label), effects.index("other_label", label)
    return f"{_points(effects.low[i, j])} to {_points(effects.high[i, j])}"


def _points(value: Any) -> str:
    """A change in percentage points, with its sign."""
    return f"{float(value):+.1f}"


def _short(value: Any) -> str:
    return short(float(value))
