"""What was measured of class-selective neurons on one set of labelled texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

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
    figures = {f"association-{i}": plot.draw(own) for i, own in enumerate(page.association)}
    if page.cross is not None:
        figures["cross"] = plot.draw(page.cross)
    for own in page.sets:
        drawn = {
            "matrix": own.effects,
            "range": own.sweep,
            "depth": own.depth,
            "loop": own.adaptive,
            "induction": own.induction,
        }
        figures |= {f"{own.name}-{name}": plot.draw(record) for name, record in drawn.items()}
    models = _model_table(page.models) if len(page.models) > 1 else None
    sections = {own.name: own.name.capitalize() for own in page.sets} | {"association": "Overlap"}
    sections |= {"cross": "Rhetoric into emotion"} if page.cross else {}
    sections |= {"models": "Models"} if models else {}
    words = {
        "title": page.title,
        "sections": {**sections, "cost": "Cost", "provenance": "Provenance"},
        "page": page,
        "sets": {own.name: _tables(own) for own in page.sets},
        "models": models,
        "overlap": _overlap_table(page.circuit_overlap) if page.circuit_overlap else None,
        "cost": cost_table(page.receipts, "part"),
        "provenance": [*flat({"options": dict(page.options)}), *provenance_rows(page.provenance)],
    }
    write_text(path, drawn_page("neurons.html.j2", figures, words))


def _tables(own: SetResults) -> dict[str, Any]:
    effects, loop, naming, null = own.effects, own.adaptive, own.naming, own.null
    random, cells, paired = effects.random_change, _cells(effects), own.paired
    tables = {
        "main": _by_column(
            f"Change of accuracy on test texts ({int(effects.n_texts.min())} per class), "
            f"percentage points; {len(random)} random sets of the same layers",
            {
                "masked class": effects.label,
                "neurons": effects.n_neurons.tolist(),
                **{name: cells[name] for name in list(cells)[:3]},
                "lowest random change": _points(random.amin(0)),
                "p": cells["p"],
                "corrected p": effects.corrected_p.tolist(),
                "log-probability": effects.on_own(effects.log_change).tolist(),
                "perplexity ratio": effects.perplexity_ratio.tolist(),
                "supported": cells["supported"],
            },
        ),
        "naming": _by_column(
            "Greedy replies: the first class that they name",
            {
                "class": naming.label,
                "named": _percent(naming.base),
                "named, masked": _percent(naming.masked),
                "no class": _percent(naming.base_silent),
                "no class, masked": _percent(naming.masked_silent),
            },
        ),
        "halves": _by_column(
            "Neurons selected on two halves of the train texts: Jaccard overlap",
            {
                "class": own.halves.label,
                "overlap": own.halves.jaccard.diagonal().tolist(),
                "expected of random sets": own.halves.expected.diagonal().tolist(),
            },
        ),
        "loops": _by_column(
            "Adaptive masking, and the same loop on random pools",
            {
                "class": loop.label,
                "fell on dev": loop.success.bool().tolist(),
                "random pools that fell": _percent(100 * loop.success_rate),
                "strength": loop.alpha.tolist(),
                "neurons": loop.n_core.tolist(),
                "change on test": _points(loop.own),
                "beyond random": _points(loop.beyond_random),
                "p": loop.p.tolist(),
                "corrected p": loop.corrected_p.tolist(),
            },
        ),
        "paired": paired
        and _by_column(
            "A device against its own literal paraphrases, own neurons masked",
            {
                "device": paired.label,
                "pairs": paired.n_pairs.tolist(),
                "accuracy": [f"{accuracy:.1f}%" for accuracy in paired.base.tolist()],
                "change": _points(paired.own),
                "95% interval": _intervals(paired),
                "random sets (mean)": _points(paired.random_change.mean(0)),
            },
        ),
    }
    null_words = (
        f"Entropies: that of neuron {null.rank} from below is {short(null.observed)} nats; "
        f"where labels are permuted over texts it is {short(float(null.null.median()))} "
        f"(median of {len(null.draw)}), p = {short(null.p)}."
    )
    of_mask = [
        _by_column("", {"class: mask": [f"{e}: {kind}" for e in found.label], **_cells(found)}).rows
        for kind, found in own.masks.items()
    ]
    masks = [row for of_label in zip(*of_mask, strict=True) for row in of_label]
    return tables | {
        "verdicts": _verdicts(own),
        "null": null_words,
        "masks": Table("Kinds of masks on the same neurons, percentage points", masks),
        "selectors": _selector_table(own),
        "histogram": _histogram(effects),
    }


def _verdicts(own: SetResults) -> list[str]:
    """What holds for how many classes, and one sentence for each class it does not hold for."""
    effects, others, changes = own.effects, _points(own.effects.largest_other), []
    for label in own.claimed:
        i = effects.index("label", label)
        if not effects.supported[i]:
            changes.append(
                f"{label}: not supported. Its own change is {_points(effects.own)[i]}, the lowest "
                f"on another class {others[i]}, p = {short(float(effects.random_p[i]))}."
            )
    first = (
        f"For {len(own.claimed) - len(changes)} of {len(own.claimed)} classes masking lowers "
        "recognition of the class itself more than 95% of random sets of the same layers do, and "
        "more than that of any other class."
    )
    return [first, *changes]


def _selector_table(own: SetResults) -> Table:
    rows = []
    for selector, found in own.selectors.items():
        cells = zip(_points(found.own), _points(found.largest_other), found.supported, strict=True)
        texts = [f"{change} ({other}){' ★' if star else ''}" for change, other, star in cells]
        rows.append({"selector": selector, **dict(zip(found.label, texts, strict=True))})
    caption = "Selectors compared: own change, in brackets the lowest on another class; ★ supported"
    return Table(caption, rows)


def _histogram(effects: MaskEffects) -> Table:
    named = list(zip(effects.other_label, effects.base_predicted, strict=True))
    rows = [(f"none: {true}", counts) for true, counts in named] + [
        (f"{label}: {label}", effects.predicted[i, effects.index("other_label", label)])
        for i, label in enumerate(effects.label)
        if label in effects.other_label
    ]
    return Table(
        "What is named: without a mask for every class, and for a class under its own mask",
        [
            {"mask: true class": name, **dict(zip(effects.judged, counts.tolist(), strict=True))}
            for name, counts in rows
        ],
    )


def _model_table(models: Mapping[str, Sequence[MaskEffects]]) -> Table:
    labels = [label for effects in next(iter(models.values())) for label in effects.label]
    rows = []
    for model, measured in models.items():
        row: dict[str, Any] = {"model": model, **dict.fromkeys(labels)}
        for effects in measured:
            changes = _points(effects.own)
            for i, (label, change) in enumerate(zip(effects.label, changes, strict=True)):
                if label in row:
                    accuracy = effects.base[effects.index("other_label", label)]
                    row[label] = f"{accuracy:.0f}% {change}{' ★' if effects.supported[i] else ''}"
        rows.append(row)
    caption = "Several models: accuracy, and its change when the class's neurons are masked"
    return Table(caption, rows)


def _overlap_table(rows: Sequence[tuple[str, str, int, int, int]]) -> Table:
    found = [
        {
            "emotion: selector": f"{emotion}: {selector}",
            "circuit's neurons": a,
            "selector's neurons": b,
            "both": both,
            "Jaccard": both / max(1, a + b - both),
        }
        for emotion, selector, a, b, both in rows
    ]
    return Table("Neurons of the circuits compared with those that recognition selects", found)


def _cells(effects: MaskEffects) -> dict[str, list[Any]]:
    """What every table says of a mask's effect on its class."""
    return {
        "own change": _points(effects.own),
        "95% interval": _intervals(effects),
        "largest other change": _points(effects.largest_other),
        "p": effects.random_p.tolist(),
        "supported": effects.supported.bool().tolist(),
    }


def _by_column(caption: str, columns: Mapping[str, Iterable[Any]]) -> Table:
    rows = zip(*columns.values(), strict=True)
    return Table(caption, [dict(zip(columns, row, strict=True)) for row in rows])


def _intervals(effects: Effects) -> list[tuple[str, str]]:
    ends = (_points(effects.on_own(end)) for end in (effects.low, effects.high))
    return list(zip(*ends, strict=True))


def _points(changes: Tensor) -> list[str]:
    """Changes in percentage points, with their signs."""
    return [f"{change:+.1f}" for change in changes.tolist()]


def _percent(shares: Tensor) -> list[str]:
    return [f"{share:.0f}%" for share in shares.tolist()]
