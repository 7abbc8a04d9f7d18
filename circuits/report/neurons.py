"""What was measured of class-selective neurons on one set of labelled texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from circuits import plots as plot
from circuits.files import write_text
from circuits.neurons.adaptive import Adaptive
from circuits.neurons.mask import Naming
from circuits.neurons.recognition import DepthProfile, MaskEffects, PairedEffects, RangeSweep
from circuits.neurons.select import Association, EntropyNull, SplitHalf
from circuits.neurons.steer import CrossSignal, Induction
from circuits.plots.style import short
from circuits.provenance import Provenance
from circuits.report.page import Table, flat, render

__all__ = [
    "NeuronPage",
    "SetResults",
    "cost_table",
    "halves_table",
    "histogram",
    "loop_table",
    "main_table",
    "mask_table",
    "model_table",
    "naming_table",
    "null_sentence",
    "overlap_table",
    "paired_table",
    "selector_table",
    "verdicts",
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


def main_table(own: SetResults) -> Table:
    """Every class with its change, interval, random sets and p."""
    effects = own.effects
    rows = [
        [
            label,
            str(int(effects.n_neurons[i])),
            _points(effects.own[i]),
            _interval(effects, label),
            _points(effects.largest_other[i]),
            _points(effects.random_change[:, i].min()) if len(effects.random_change) else "–",
            short(float(effects.random_p[i])),
            short(float(effects.corrected_p[i])),
            short(float(effects.log_change[i, effects.index("other_label", label)])),
            short(float(effects.perplexity_ratio[i])),
            "yes" if effects.supported[i] else "no",
        ]
        for i, label in enumerate(effects.label)
    ]
    columns = (
        "masked class",
        "neurons",
        "own change",
        "95% interval",
        "largest other change",
        "lowest random change",
        "p",
        "corrected p",
        "log-probability",
        "perplexity ratio",
        "supported",
    )
    n = int(effects.n_texts.min())
    caption = (
        f"Change of accuracy on test texts ({n} per class), percentage points; "
        f"{len(effects.random_change)} random sets of the same layers"
    )
    return Table(caption, columns, rows)


def verdicts(own: SetResults) -> list[str]:
    """What holds for how many classes, and one sentence for each class it does not hold for."""
    effects = own.effects
    held = [label for label in own.claimed if effects.supported[effects.index("label", label)]]
    sentences = [
        f"For {len(held)} of {len(own.claimed)} classes masking lowers recognition of the class "
        "itself more than 95% of random sets of the same layers do, and more than that of any "
        "other class."
    ]
    for label in own.claimed:
        if label in held:
            continue
        i = effects.index("label", label)
        sentences.append(
            f"{label}: not supported. Its own change is {_points(effects.own[i])}, the lowest on "
            f"another class {_points(effects.largest_other[i])}, p = "
            f"{short(float(effects.random_p[i]))}."
        )
    return sentences


def mask_table(own: SetResults) -> Table:
    """The same neurons under every kind of mask."""
    rows = [
        [
            f"{label}: {kind}",
            _points(effects.own[i]),
            _interval(effects, label),
            _points(effects.largest_other[i]),
            short(float(effects.random_p[i])),
            "yes" if effects.supported[i] else "no",
        ]
        for i, label in enumerate(own.effects.label)
        for kind, effects in own.masks.items()
    ]
    columns = (
        "class: mask",
        "own change",
        "95% interval",
        "largest other change",
        "p",
        "supported",
    )
    return Table("Kinds of masks on the same neurons, percentage points", columns, rows)


def selector_table(own: SetResults) -> Table:
    """Every selector's neurons under the same mask."""
    rows = [
        [
            selector,
            *(
                f"{_points(effects.own[i])} ({_points(effects.largest_other[i])})"
                f"{' ★' if effects.supported[i] else ''}"
                for i in range(len(effects.label))
            ),
        ]
        for selector, effects in own.selectors.items()
    ]
    caption = (
        "Selectors beside each other: own change, in brackets the lowest on another class; "
        "★ supported"
    )
    return Table(caption, ("selector", *own.effects.label), rows)


def histogram(own: SetResults) -> Table:
    """How often each class is named, without and with a mask."""
    effects = own.effects
    rows = [
        ["none: " + true, *(str(n) for n in effects.base_predicted[t].tolist())]
        for t, true in enumerate(effects.other_label)
    ]
    rows += [
        [f"{label}: {true}", *(str(n) for n in effects.predicted[i, t].tolist())]
        for i, label in enumerate(effects.label)
        for t, true in enumerate(effects.other_label)
        if true == label
    ]
    caption = "What is named: without a mask for every class, and for a class under its own mask"
    return Table(caption, ("mask: true class", *effects.judged), rows)


def halves_table(own: SetResults) -> Table:
    """Overlap of the neurons from either half of the train texts."""
    found = own.halves
    rows = [
        [label, short(float(found.jaccard[i])), short(float(found.expected[i]))]
        for i, label in enumerate(found.label)
    ]
    caption = "Neurons selected on two halves of the train texts: Jaccard overlap"
    return Table(caption, ("class", "overlap", "expected of random sets"), rows)


def null_sentence(null: EntropyNull) -> str:
    """Entropies against permuted labels."""
    return (
        f"Entropies: that of neuron {null.rank} from below is {short(null.observed)} nats; where "
        f"labels are permuted over texts it is {short(float(null.null.median()))} (median of "
        f"{len(null.draw)}), p = {short(null.p)}."
    )


def loop_table(own: SetResults) -> Table:
    """The end of every adaptive loop, beside random pools."""
    found = own.adaptive
    rows = [
        [
            label,
            "yes" if found.success[i] else "no",
            f"{100 * float(found.success_rate[i]):.0f}%",
            short(float(found.alpha[i])),
            f"{int(found.n_core[i])}",
            _points(found.own[i]),
            _points(found.beyond_random[i]),
            short(float(found.p[i])),
            short(float(found.corrected_p[i])),
        ]
        for i, label in enumerate(found.label)
    ]
    columns = (
        "class",
        "fell on dev",
        "random pools that fell",
        "strength",
        "neurons",
        "change on test",
        "beyond random",
        "p",
        "corrected p",
    )
    return Table("Adaptive masking, and the same loop on random pools", columns, rows)


def naming_table(own: SetResults) -> Table:
    """Classes as the model writes them, and how often it writes none."""
    found = own.naming
    rows = [
        [
            label,
            f"{float(found.base[i]):.0f}%",
            f"{float(found.masked[i]):.0f}%",
            f"{float(found.base_silent[i]):.0f}%",
            f"{float(found.masked_silent[i]):.0f}%",
        ]
        for i, label in enumerate(found.label)
    ]
    columns = ("class", "named", "named, masked", "no class", "no class, masked")
    return Table("Greedy replies: the first class that they name", columns, rows)


def paired_table(own: SetResults) -> Table | None:
    """Devices against their own paraphrases; nothing for a set without them."""
    found = own.paired
    if found is None:
        return None
    rows = []
    for label in found.other_label:
        i, j = found.index("label", label), found.index("other_label", label)
        control = found.random_change[:, j].mean()
        rows.append(
            [
                label,
                str(int(found.n_pairs[j])),
                f"{float(found.base[j]):.1f}%",
                _points(found.change[i, j]),
                f"{_points(found.low[i, j])} to {_points(found.high[i, j])}",
                _points(control),
            ]
        )
    columns = ("device", "pairs", "accuracy", "change", "95% interval", "random sets (mean)")
    return Table("A device against its own literal paraphrases, own neurons masked", columns, rows)


def model_table(models: Mapping[str, Sequence[MaskEffects]]) -> Table:
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
        rows.append([model, *(cells.get(label, "–") for label in labels)])
    caption = "Several models: accuracy, and its change when the class's neurons are masked"
    return Table(caption, ("model", *labels), rows)


def overlap_table(rows: Sequence[tuple[str, str, int, int, int]]) -> Table:
    """A circuit's neurons beside those of every selector."""
    columns = ("emotion: selector", "circuit's neurons", "selector's neurons", "both", "Jaccard")
    cells = [
        [f"{emotion}: {selector}", str(a), str(b), str(both), short(both / max(1, a + b - both))]
        for emotion, selector, a, b, both in rows
    ]
    return Table("Neurons of the circuits beside those that recognition selects", columns, cells)


def cost_table(receipts: Mapping[str, Mapping[str, int]]) -> Table:
    """Passes and token-layers of every part."""
    rows = [
        [part, *(f"{cost[name]:,}" for name in ("passes", "steps", "token_layers"))]
        for part, cost in receipts.items()
    ]
    return Table("Cost", ("part", "passes", "steps", "token-layers"), rows)


def _interval(effects: MaskEffects, label: str) -> str:
    i, j = effects.index("label", label), effects.index("other_label", label)
    return f"{_points(effects.low[i, j])} to {_points(effects.high[i, j])}"


def _points(value: Any) -> str:
    """A change in percentage points, with its sign.

    >>> _points(-3.14159)
    '-3.1'
    """
    return f"{float(value):+.1f}"


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
    figures: dict[str, go.Figure] = {
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
    write_text(path, render("neurons.html.j2", figures, _words(page)))


_OF_SET: Mapping[str, Callable[[SetResults], Any]] = {
    "main": main_table,
    "verdicts": verdicts,
    "masks": mask_table,
    "selectors": selector_table,
    "histograms": histogram,
    "halves": halves_table,
    "null": lambda own: null_sentence(own.null),
    "loops": loop_table,
    "paired": paired_table,
    "naming": naming_table,
}


def _words(page: NeuronPage) -> dict[str, Any]:
    overlap = page.circuit_overlap
    return {
        "page": page,
        **{name: {own.name: make(own) for own in page.sets} for name, make in _OF_SET.items()},
        "models": model_table(page.models) if len(page.models) > 1 else None,
        "overlap": overlap_table(overlap) if overlap else None,
        "cost": cost_table(page.receipts),
        "provenance": [
            *flat({"options": dict(page.options)}),
            *flat(page.provenance.to_json()),
            ("fingerprint", page.provenance.fingerprint()),
        ],
    }
