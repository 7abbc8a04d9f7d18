"""Tables and sentences about class-selective neurons."""

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.plot.style import short
from circuits.report.neuron_results import SetResults
from circuits.report.tables import Table
from circuits.selective.consistency import EntropyNull
from circuits.selective.evaluation import MaskEffects

__all__ = [
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
]


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
        "masked class", "neurons", "own change", "95% interval", "largest other change",
        "lowest random change", "p", "corrected p", "log-probability", "perplexity ratio",
        "supported",
    )  # fmt: skip
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
        "class", "fell on dev", "random pools that fell", "strength", "neurons",
        "change on test", "beyond random", "p", "corrected p",
    )  # fmt: skip
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
