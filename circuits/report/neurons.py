"""What was measured of class-selective neurons on one set of labelled texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from circuits import plots as plot
from circuits.files import write_text
from circuits.neurons.select import Association, DepthProfile, EntropyNull
from circuits.neurons.steer import CrossSignal, Induction
from circuits.neurons.study import Adaptive, Effects, MaskEffects, Naming, PairedEffects, RangeSweep
from circuits.plots.style import short
from circuits.provenance import Provenance
from circuits.report.page import Row, cost_rows, drawn_page, flat, provenance_rows

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
    several = len(page.models) > 1
    sections = {own.name: own.name.capitalize() for own in page.sets} | {"association": "Overlap"}
    sections |= {"cross": "Rhetoric into emotion"} if page.cross else {}
    sections |= {"models": "Models"} if several else {}
    words = {
        "title": page.title,
        "sections": {**sections, "cost": "Cost", "provenance": "Provenance"},
        "page": page,
        "sets": [(own, _rows_of(own)) for own in page.sets],
        "models": _model_rows(page.models) if several else [],
        "overlap": [
            {
                "emotion: selector": f"{emotion}: {selector}",
                "circuit's neurons": a,
                "selector's neurons": b,
                "both": both,
                "Jaccard": both / max(1, a + b - both),
            }
            for emotion, selector, a, b, both in page.circuit_overlap
        ],
        "cost": cost_rows(page.receipts, "part"),
        "provenance": [*flat({"options": dict(page.options)}), *provenance_rows(page.provenance)],
    }
    write_text(path, drawn_page("neurons.html.j2", figures, words))


def _rows_of(own: SetResults) -> dict[str, Any]:
    effects, loop, naming, halves = own.effects, own.adaptive, own.naming, own.halves
    cells, paired = _cells(effects), own.paired
    tables = {
        "main": {
            "masked class": effects.label,
            "neurons": effects.n_neurons,
            **{name: cells.pop(name) for name in list(cells)[:3]},
            "lowest random change": _points(effects.random_change.amin(0)),
            "p": cells["p"],
            "corrected p": effects.corrected_p,
            "log-probability": effects.on_own(effects.log_change),
            "perplexity ratio": effects.perplexity_ratio,
            "supported": cells["supported"],
        },
        "naming": {
            "class": naming.label,
            "named": _percent(naming.base),
            "named, masked": _percent(naming.masked),
            "no class": _percent(naming.base_silent),
            "no class, masked": _percent(naming.masked_silent),
        },
        "halves": {
            "class": halves.label,
            "overlap": halves.jaccard.diagonal(),
            "expected of random sets": halves.expected.diagonal(),
        },
        "loops": {
            "class": loop.label,
            "fell on dev": loop.success,
            "random pools that fell": _percent(100 * loop.success_rate),
            "strength": loop.alpha,
            "neurons": loop.n_core,
            "change on test": _points(loop.own),
            "beyond random": _points(loop.beyond_random),
            "p": loop.p,
            "corrected p": loop.corrected_p,
        },
    }
    if paired is not None:
        tables["paired"] = {
            "device": paired.label,
            "pairs": paired.n_pairs,
            "accuracy": [f"{accuracy:.1f}%" for accuracy in paired.base.tolist()],
            "change": _points(paired.own),
            "95% interval": _intervals(paired),
            "random sets (mean)": _points(paired.random_change.mean(0)),
        }
    of_mask = [
        _by_column({"class: mask": [f"{e}: {kind}" for e in found.label], **_cells(found)})
        for kind, found in own.masks.items()
    ]
    selectors = []
    for name, found in own.selectors.items():
        texts = zip(_points(found.own), _points(found.largest_other), found.supported, strict=True)
        row = [f"{change} ({other}){' ★' if star else ''}" for change, other, star in texts]
        selectors.append({"selector": name, **dict(zip(found.label, row, strict=True))})
    counts = [
        (f"none: {true}", own)
        for true, own in zip(effects.other_label, effects.base_predicted, strict=True)
    ] + [
        (f"{label}: {label}", effects.predicted[i, effects.index("other_label", label)])
        for i, label in enumerate(effects.label)
        if label in effects.other_label
    ]
    return {name: _by_column(columns) for name, columns in tables.items()} | {
        "verdicts": _verdicts(own),
        "masks": [row for of_label in zip(*of_mask, strict=True) for row in of_label],
        "selectors": selectors,
        "histogram": [
            {"mask: true class": name, **dict(zip(effects.judged, own.tolist(), strict=True))}
            for name, own in counts
        ],
    }


def _verdicts(own: SetResults) -> list[str]:
    """What holds for how many classes, and one sentence for each class it does not hold for."""
    effects, cells, failed = own.effects, _cells(own.effects), []
    for label in own.claimed:
        i = effects.index("label", label)
        if not effects.supported[i]:
            failed.append(
                f"{label}: not supported. Its own change is {cells['own change'][i]}, the lowest "
                f"on another class {cells['largest other change'][i]}, p = "
                f"{short(float(effects.random_p[i]))}."
            )
    first = (
        f"For {len(own.claimed) - len(failed)} of {len(own.claimed)} classes masking lowers "
        "recognition of the class itself more than 95% of random sets of the same layers do, and "
        "more than that of any other class."
    )
    return [first, *failed]


def _model_rows(models: Mapping[str, Sequence[MaskEffects]]) -> list[Row]:
    labels = [label for effects in next(iter(models.values())) for label in effects.label]
    rows = []
    for model, measured in models.items():
        row: Row = {"model": model, **dict.fromkeys(labels)}
        for effects in measured:
            changes = _points(effects.own)
            for i, (label, change) in enumerate(zip(effects.label, changes, strict=True)):
                if label in row:
                    accuracy = effects.base[effects.index("other_label", label)]
                    row[label] = f"{accuracy:.0f}% {change}{' ★' if effects.supported[i] else ''}"
        rows.append(row)
    return rows


def _cells(effects: MaskEffects) -> dict[str, Any]:
    """What every table says of a mask's effect on its class."""
    return {
        "own change": _points(effects.own),
        "95% interval": _intervals(effects),
        "largest other change": _points(effects.largest_other),
        "p": effects.random_p,
        "supported": effects.supported,
    }


def _by_column(columns: Mapping[str, Any]) -> list[Row]:
    plain = [own.tolist() if isinstance(own, Tensor) else own for own in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]


def _intervals(effects: Effects) -> list[tuple[str, str]]:
    ends = (_points(effects.on_own(end)) for end in (effects.low, effects.high))
    return list(zip(*ends, strict=True))


def _points(changes: Tensor) -> list[str]:
    """Changes in percentage points, with their signs."""
    return [f"{change:+.1f}" for change in changes.tolist()]


def _percent(shares: Tensor) -> list[str]:
    return [f"{share:.0f}%" for share in shares.tolist()]
