"""What a page that opens without a network is made of: scripts, data, and a policy that holds it.

Nothing on a page asks a network for anything, and its content security policy forbids it:
only the page's own scripts run, named by their digests, so that no text of a data set or a
model can become code.

A self-contained HTML page: a template filled with tables, figures and the code that draws them.

Nothing on a page asks a network for anything, and its content security policy forbids it:
only the page's own scripts run, named by their digests, so that no text of a data set or a
model can become code.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from circuits import plots as plot
from circuits.circuit.circuit import SCORES, Circuit, CircuitScores, Node
from circuits.effects.directions import Directions, Generality
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.neurons import NeuronEffects
from circuits.files import write_text
from circuits.judges.replies import Judged
from circuits.names import NEUTRAL, VALENCES
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.plots import METHOD_WORDS
from circuits.plots.circuits import strongest
from circuits.plots.style import short
from circuits.prompts.sev import Context
from circuits.provenance import Provenance
from circuits.steering.validation import Heard, Validation

__all__ = [
    "Answer",
    "METHOD_MEANINGS",
    "ReportContent",
    "Sample",
    "Table",
    "ablation_table",
    "allowed",
    "component_tables",
    "cost_table",
    "data_text",
    "elicitation_table",
    "facts",
    "failures",
    "flat",
    "headline",
    "headline_table",
    "packaged",
    "price_table",
    "render",
    "sample_replies",
    "score_table",
    "script_text",
    "template",
    "write_report",
]


def packaged(package: str, name: str) -> str:
    """A text file that comes with a package of ours."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def template(package: str, name: str) -> Template:
    """A template that comes with a package of ours; every text that is filled in is escaped."""
    environment = Environment(
        loader=FunctionLoader(lambda own: packaged(package, own)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def data_text(text: str) -> str:
    """JSON for a script element: it can neither end the element nor open a comment."""
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def script_text(text: str) -> str:
    """A program as a browser reads it: every line end a line feed, and no end of the element."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"</(script)", r"<\\/\1", lines, flags=re.IGNORECASE)


def allowed(texts: Sequence[str]) -> str:
    """The digests by which a policy allows these scripts or styles, and no others."""
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


_HERE = "circuits.report"


def render(page: str, figures: Mapping[str, go.Figure], words: Mapping[str, Any]) -> str:
    """What the template ``page`` makes of figures and words."""
    scripts = [script_text(get_plotlyjs()), script_text(packaged(_HERE, "report.js"))]
    return template(_HERE, page).render(
        policy=_policy(scripts),
        style=Markup(packaged(_HERE, "report.css")),
        plotly=Markup(scripts[0]),
        script=Markup(scripts[1]),
        figures={name: _embedded(figure) for name, figure in figures.items()},
        **words,
    )


def _embedded(figure: go.Figure) -> Markup:
    return Markup(data_text(figure.to_json() or "{}"))


def _policy(scripts: list[str]) -> str:
    # Plotly writes style attributes, and saves pictures by way of data: and blob: addresses.
    return (
        f"default-src 'none'; script-src {allowed(scripts)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Every result of a run that the page shows; the page computes nothing itself."""

    title: str
    directions: Directions
    generality: Generality
    heads: HeadEffects
    neurons: NeuronEffects
    importance: Importance
    circuits: Mapping[str, Circuit]
    """Emotion -> its circuit."""
    scores: Mapping[str, CircuitScores]
    """Emotion -> scores of its circuit on held-out contexts."""
    elicitation: Mapping[str, Any]
    """``overall``, ``by_emotion`` and ``by_valence``, each with its number of replies
    (``total_samples`` or ``total``), ``accepted``, ``rejected`` and ``accuracy`` in percent."""
    control: Mapping[str, Any]
    """``methods`` and ``controls``: name -> ``n``, ``overall``, ``low`` and ``high``,
    ``by_emotion``, ``by_valence`` (percent), ``perplexity_ratio`` and ``repetition``; and
    ``judge``: what is known of the judge, such as its name and measured error. Optional:
    ``settings``, method -> how strongly and when it writes."""
    replies: Mapping[str, Sequence[Judged]]
    """Method -> judged replies on test contexts; a sample is shown."""
    receipts: Mapping[str, Mapping[str, int]]
    """Stage -> ``passes``, ``steps``, ``token_layers``."""
    provenance: Provenance
    patches: Mapping[str, Sequence[SitePatches | HeadPatches]] = field(default_factory=dict)
    """Contrast -> patching maps, if any were made."""
    validation: Sequence[Validation] = ()
    """What the components ranked first do to the readouts, if it was measured."""
    heard: Sequence[Heard] = ()
    """And to judged replies."""
    ablation: Mapping[str, Any] = field(default_factory=dict)
    """What of judged expression the circuits carry where it is asked for, if it was measured."""


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
    "component",
    "effect",
    "95% interval",
    "control",
    "beats control",
    "direct effect",
)


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
        "method",
        "overall",
        *emotions,
        *(f"{valence} event" for valence in VALENCES),
        "perplexity ratio",
        "repetition",
    )
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
        "method",
        "expressed (%)",
        "second judge (%)",
        "kappa",
        "opposing mood (%)",
        "hard contexts (%)",
        "perplexity ratio",
        "repetition",
        "topic kept (%)",
        "distinct-1",
        "distinct-2",
        "words",
    )
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


def score_table(scores: Mapping[str, CircuitScores]) -> Table:
    """Emotion and score by value, interval, control and p."""
    rows = [
        [
            f"{emotion}: {name}",
            short(own.value),
            f"{short(own.low)} to {short(own.high)}",
            short(own.control_p99),
            short(own.p),
            "yes" if found.beats_controls(name) else "no",
        ]
        for emotion, found in scores.items()
        for name, own in found.scores.items()
    ]
    columns = ("score", "value", "95% interval", "control", "p", "beats control")
    first = next(iter(scores.values()), None)
    caption = "Scores on held-out contexts"
    if first is not None:
        caption += (
            f" ({first.n_contexts} contexts, {first.ablation} ablation, positions: "
            f"{first.positions}, {first.n_controls} random circuits)"
        )
    return Table(caption, columns, rows)


def failures(scores: Mapping[str, CircuitScores]) -> list[str]:
    """One sentence for each circuit that does not beat its controls."""
    return [
        f"The circuit of {emotion} does not beat random circuits of its size in "
        f"{' and '.join(found.failures)}: what is said of it there is true of any such circuit."
        for emotion, found in scores.items()
        if found.failures
    ]


def ablation_table(found: Mapping[str, Any]) -> Table:
    """Points of judged expression lost without the circuit, and without random sets."""
    rows = [
        [
            emotion,
            short(own["circuit_drop"]),
            f"{short(own['low'])} to {short(own['high'])}",
            short(own["random_drop"]),
            short(own["random_max"]),
        ]
        for emotion, own in {"all": found, **found["by_emotion"]}.items()
    ]
    columns = ("emotion", "circuit", "95% interval", "random sets", "largest of them")
    caption = (
        f"Points of judged expression lost ({found['n']} replies; {found['heads_share']:.1%} of "
        f"the heads and {found['neurons_share']:.1%} of the neurons; {found['draws']} random sets)"
    )
    return Table(caption, columns, rows)


@dataclass(frozen=True)
class Answer:
    """One reply as it is shown."""

    method: str
    text: str
    match: bool
    verdict: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """A context with the replies of every method."""

    context: Context
    alike: Sequence[Answer]
    """Methods that say the same whatever the emotion, such as no change at all."""
    methods: Sequence[str]
    """What the other methods are called."""
    rows: Sequence[tuple[str, Sequence[Answer | None]]]
    """Emotion -> answer of each of :attr:`methods`; ``None`` if there is none."""


def sample_replies(
    replies: Mapping[str, Sequence[Judged]],
    emotions: Sequence[str],
    *,
    without: Sequence[str] = (),
    most: int = 9,
) -> list[Sample]:
    """Contexts spread evenly over the file and over valences, with every method's replies."""
    by_place = {
        method: {(row.reply.prompt.origin.id, row.reply.emotion): row for row in rows}
        for method, rows in replies.items()
        if method not in without
    }
    contexts = {
        row.reply.prompt.origin.id: row.reply.prompt.origin
        for rows in replies.values()
        for row in rows
    }
    return [_sample(c, by_place, emotions) for c in _spread(list(contexts.values()), most)]


def _spread(contexts: Sequence[Context], most: int) -> list[Context]:
    each = max(1, most // len(VALENCES))
    kept: set[str] = set()
    for valence in VALENCES:
        own = [context for context in contexts if context.valence == valence]
        # Different offsets, so that the same scenario does not come up in every valence.
        shift = VALENCES.index(valence)
        kept |= {own[(i * len(own) // each + shift) % len(own)].id for i in range(each) if own}
    return [context for context in contexts if context.id in kept]


def _sample(
    context: Context,
    by_place: Mapping[str, Mapping[tuple[str, str], Judged]],
    emotions: Sequence[str],
) -> Sample:
    found = {
        method: [own.get((context.id, e), own.get((context.id, NEUTRAL))) for e in emotions]
        for method, own in by_place.items()
    }
    alike = [method for method, rows in found.items() if _says_the_same(rows)]
    apart = [method for method in found if method not in alike]
    return Sample(
        context,
        [_shared(method, found[method]) for method in alike],
        [_word(method) for method in apart],
        [
            (emotion, [_maybe(method, found[method][i]) for method in apart])
            for i, emotion in enumerate(emotions)
        ],
    )


def _says_the_same(rows: Sequence[Judged | None]) -> bool:
    texts = {None if row is None else row.reply.text for row in rows}
    return len(rows) > 1 and len(texts) == 1 and None not in texts


def _shared(method: str, rows: Sequence[Judged | None]) -> Answer:
    known = [row for row in rows if row is not None]
    matched = [row.reply.emotion for row in known if row.verdict.match]
    label = known[0].verdict.label
    verdict = f"heard {label}" if label else f"matches {', '.join(matched) or 'no emotion'}"
    return Answer(_word(method), known[0].reply.text, bool(matched), verdict, "")


def _maybe(method: str, row: Judged | None) -> Answer | None:
    return None if row is None else _answer(method, row)


def _answer(method: str, row: Judged) -> Answer:
    match, label = row.verdict.match, row.verdict.label
    heard = label or ("the asked emotion" if match else "something else")
    return Answer(_word(method), row.reply.text, match, f"heard {heard}", row.verdict.reason)


def _word(method: str) -> str:
    return METHOD_WORDS.get(method, method)


def write_report(content: ReportContent, path: Path) -> None:
    """Write the report as one HTML file, whole or not at all.

    Raises:
        DataError: the file cannot be written, or there is no method to compare.
    """
    write_text(path, render("report.html.j2", _figures(content), _words(content)))


def _words(content: ReportContent) -> dict[str, Any]:
    judge = content.control.get("judge") or {}
    return {
        "content": content,
        "emotions": content.directions.emotion,
        "facts": facts(content),
        "headline": headline(content),
        "headline_table": headline_table(content),
        "price_table": price_table(content),
        "meanings": _meanings(content),
        "judge": list(flat(judge)),
        "settings": _settings(content),
        "samples": sample_replies(
            content.replies,
            content.directions.emotion,
            without=tuple(content.control.get("controls", {})),
        ),
        "elicitation": elicitation_table(content),
        "circuits": {
            emotion: component_tables(circuit) for emotion, circuit in content.circuits.items()
        },
        "circuit_scores": {
            # What was measured on held-out contexts has a section of its own.
            emotion: [
                (name, value)
                for name, value in flat(circuit.scores)
                if not name.startswith(tuple(SCORES))
            ]
            for emotion, circuit in content.circuits.items()
        },
        "scores": score_table(content.scores),
        "failures": failures(content.scores),
        "cost": cost_table(content),
        "ablation": ablation_table(content.ablation) if content.ablation else None,
        "provenance": [
            *flat(content.provenance.to_json()),
            ("fingerprint", content.provenance.fingerprint()),
        ],
    }


def _settings(content: ReportContent) -> list[tuple[str, str]]:
    """One line per method."""
    chosen = content.control.get("settings") or {}
    return [
        (
            plot.METHOD_WORDS.get(method, method),
            "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in flat(how)),
        )
        for method, how in chosen.items()
        if method != "tried"
    ]


def _meanings(content: ReportContent) -> list[tuple[str, str]]:
    methods = [*content.control.get("methods", {}), *content.control.get("controls", {})]
    return [
        (plot.METHOD_WORDS.get(method, method), METHOD_MEANINGS[method])
        for method in methods
        if method in METHOD_MEANINGS
    ]


def _figures(content: ReportContent) -> Mapping[str, go.Figure]:
    figures = {
        "accuracy": plot.accuracy_bars(content.control),
        "valence": plot.valence_bars(content.control),
        "price": plot.price_map(content.control),
        "similarity": plot.similarity_map(content.directions),
        "generality": plot.generality_profile(content.generality),
        "heads": plot.head_map(content.heads),
        "neurons": plot.neuron_tail(content.neurons),
        "scores": plot.faithfulness_curve(content.scores),
        "importance": plot.importance_profile(content.importance),
    }
    if content.control.get("dial"):
        figures["dial"] = plot.dial_curve(content.control)
    for number, maps in enumerate(content.patches.values()):
        figures |= {f"patch-{number}-{i}": plot.patch_map(one) for i, one in enumerate(maps)}
    proofs = enumerate((*content.validation, *content.heard))
    figures |= {f"validation-{i}": plot.draw(record) for i, record in proofs}
    circuits = enumerate(content.circuits.values())
    return figures | {f"circuit-{i}": plot.circuit_graph(circuit) for i, circuit in circuits}
