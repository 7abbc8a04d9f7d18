"""The tables of a report, as rows of text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from circuits.graph.circuit import Circuit, Node
from circuits.names import VALENCES
from circuits.plot import METHOD_WORDS
from circuits.plot.graph import strongest
from circuits.plot.style import short
from circuits.report.content import ReportContent

__all__ = [
    "METHOD_MEANINGS",
    "Table",
    "component_tables",
    "cost_table",
    "elicitation_table",
    "facts",
    "flat",
    "headline",
    "headline_table",
    "price_table",
]

METHOD_MEANINGS: Final[Mapping[str, str]] = {
    "none": "the model as it is, with no emotion asked for",
    "prompt": "the system prompt asks for the emotion",
    "steer": "the emotion's direction is added to the residual stream; no emotion is asked for",
    "steer_layers": "the same at several layers at once, which share the strength",
    "steer_plain": "the difference between asked and plain prompts is added instead",
    "probe": "the weights of a linear probe (logistic regression) are added instead",
    "neurons": "the neurons with the largest effects, as many as the circuit's, get a multiple of "
    "their own mean activation",
    "circuit": "what the circuit's heads and neurons do differently when the emotion is asked "
    "for is added to them; no emotion is asked for",
    "random_circuit": "control: the same with as many random heads and neurons of the same layers",
    "random_anywhere": "control: the same with as many random heads and neurons of any layer",
}
_READ: Final = {"prompt": "at the last prompt position", "reply": "averaged over the reply"}
_COMPONENT_COLUMNS: Final = (
    "component", "effect", "95% interval", "control", "beats control", "direct effect",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A caption, a header and rows of text; the first cell of a row names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def headline(content: ReportContent) -> str:
    """The main result in a sentence."""
    shares = [
        f"{METHOD_WORDS.get(method, method)} {_percent(stats.get('overall'))}\u00a0%"
        for method, stats in _stats(content).items()
    ]
    return f"Test replies in which the judge hears the asked emotion: {', '.join(shares)}."


def headline_table(content: ReportContent) -> Table:
    """Method by accuracy overall, per emotion and per valence, and the price in quality."""
    emotions = content.directions.emotion
    rows = []
    for method, stats in _stats(content).items():
        overall = _percent(stats.get("overall"))
        if "low" in stats and "high" in stats:
            overall += f" ({stats['low']:.0f}–{stats['high']:.0f})"
        rows.append(
            [
                METHOD_WORDS.get(method, method),
                overall,
                *(_percent(stats["by_emotion"].get(emotion)) for emotion in emotions),
                *(_percent(stats["by_valence"].get(valence)) for valence in VALENCES),
                short(stats.get("perplexity_ratio")),
                short(stats.get("repetition")),
            ]
        )
    columns = (
        "method", "overall", *emotions, *(f"{valence} event" for valence in VALENCES),
        "perplexity ratio", "repetition",
    )  # fmt: skip
    sizes = " or ".join(sorted({_count(stats.get("n")) for stats in _stats(content).values()}))
    caption = f"Test replies that express the asked emotion, in percent of {sizes} per method"
    return Table(caption, columns, rows)


def price_table(content: ReportContent) -> Table:
    """Method by what both judges hear, where the mood opposes too, and by price, with intervals."""
    rows = []
    for method, stats in _stats(content).items():
        between = stats.get("intervals", {})
        opposing = stats.get("opposing", {})
        hard = (content.control.get("hard") or {}).get(method, {})
        rows.append(
            [
                METHOD_WORDS.get(method, method),
                _with(_percent(stats.get("overall")), between.get("overall")),
                _percent(stats.get("second_judge")),
                short(stats.get("kappa")),
                _percent(opposing.get("overall")),
                _percent(hard.get("overall")),
                _with(short(stats.get("perplexity_ratio")), between.get("perplexity_ratio")),
                _with(short(stats.get("repetition")), between.get("repetition")),
                _with(_percent(stats.get("topic_kept")), between.get("topic_kept")),
                short(stats.get("distinct_1")),
                short(stats.get("distinct_2")),
                short(stats.get("mean_words")),
            ]
        )
    columns = (
        "method", "expressed (%)", "second judge (%)", "kappa", "opposing mood (%)",
        "hard contexts (%)", "perplexity ratio", "repetition", "topic kept (%)", "distinct-1",
        "distinct-2", "words",
    )  # fmt: skip
    return Table("Expression and price, with 95% intervals over contexts", columns, rows)


def elicitation_table(content: ReportContent) -> Table:
    """How often prompting brought the emotion out, and how many replies were kept."""
    groups = {"all replies": content.elicitation["overall"]}
    groups |= dict(content.elicitation.get("by_emotion", {}))
    by_valence = content.elicitation.get("by_valence", {})
    groups |= {f"{valence} event": counts for valence, counts in by_valence.items()}
    rows = [
        [
            name,
            _count(counts.get("total_samples", counts.get("total"))),
            _count(counts.get("accepted")),
            _count(counts.get("rejected")),
            _percent(counts.get("accuracy")),
        ]
        for name, counts in groups.items()
    ]
    columns = ("replies", "made", "accepted", "rejected", "accuracy (%)")
    return Table("Replies to prompts that ask for an emotion", columns, rows)


def component_tables(circuit: Circuit, neurons: int = 20) -> tuple[Table, Table]:
    """All heads of a circuit and its strongest neurons, with interval and control."""
    heads, own = circuit.of_kind("head"), circuit.of_kind("neuron")
    shown = strongest(own, neurons)
    return (
        Table(
            f"All {len(heads):,} heads, largest |effect| first",
            _COMPONENT_COLUMNS,
            [_component(node) for node in strongest(heads, len(heads))],
        ),
        Table(
            f"The {len(shown):,} neurons with the largest |effect|, of {len(own):,}",
            _COMPONENT_COLUMNS,
            [_component(node) for node in shown],
        ),
    )


def cost_table(content: ReportContent) -> Table:
    """Passes, steps and token-layers per stage."""
    rows = [
        [stage, *(_count(receipt.get(name)) for name in ("passes", "steps", "token_layers"))]
        for stage, receipt in content.receipts.items()
    ]
    return Table("What each stage cost", ("stage", "passes", "steps", "token-layers"), rows)


def facts(content: ReportContent) -> list[tuple[str, str]]:
    """Name and value of what was run, on which model."""
    model, directions = content.provenance.model, content.directions
    sizes = [len(circuit.heads) for circuit in content.circuits.values()]
    neurons = [len(circuit.neurons) for circuit in content.circuits.values()]
    found = [
        ("Model", str(model.get("name", "not recorded"))),
        ("Revision", str(model.get("revision", "not recorded"))),
        (
            "Size",
            f"{len(content.heads.layer)} layers with {len(content.heads.head)} heads and "
            f"{len(content.neurons.neuron):,} neurons each",
        ),
        (
            "Directions",
            f"from {directions.n_contexts:,} contexts with an accepted reply in every emotion; "
            f"{directions.n_left_out:,} others left out; read "
            + _READ.get(directions.read, directions.read),
        ),
        ("Themes", ", ".join(content.generality.theme)),
    ]
    if sizes:
        found.append(("Circuits", f"{_span(sizes)} heads and {_span(neurons)} neurons per emotion"))
    return found


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as lines: dotted name, text.

    >>> list(flat({"model": {"name": "tiny"}, "seeds": [1, 2]}))
    [('model.name', 'tiny'), ('seeds', '1, 2')]
    """
    for name, value in values.items():
        full = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{full}.")
        elif isinstance(value, list | tuple):
            yield full, ", ".join(map(str, value)) or "–"
        elif isinstance(value, float):
            yield full, short(value, 5)
        else:
            yield full, "–" if value is None else str(value)


def _stats(content: ReportContent) -> dict[str, Mapping[str, Any]]:
    return {**content.control.get("methods", {}), **content.control.get("controls", {})}


def _component(node: Node) -> list[str]:
    interval = node.interval
    return [
        node.id,
        short(node.effect),
        "–" if interval is None else f"{short(interval[0])} to {short(interval[1])}",
        short(node.control),
        {True: "yes", False: "no", None: "–"}[node.beats_control],
        short(node.direct),
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _with(value: str, interval: Sequence[float] | None) -> str:
    return value if interval is None else f"{value} ({short(interval[0])}–{short(interval[1])})"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
