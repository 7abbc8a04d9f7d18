"""A run's report: one HTML file of tables, figures and the code that draws them.

Nothing on a page asks a network for anything, and its content security policy forbids it:
only the page's own scripts run, named by their digests, so that no text of a data set or a
model can become code.
"""

import base64
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined
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
from circuits.plots.circuits import strongest
from circuits.plots.steering import METHODS
from circuits.plots.style import short
from circuits.prompts.sev import Context
from circuits.provenance import Provenance
from circuits.steering.validation import ReplyValidation, Validation

__all__ = [
    "ReportContent",
    "Sample",
    "Table",
    "component_tables",
    "cost_table",
    "data_text",
    "drawn_page",
    "flat",
    "html_page",
    "packaged",
    "provenance_rows",
    "sample_replies",
    "write_report",
]


def packaged(name: str) -> str:
    """A text file that lies beside this one."""
    return resources.files("circuits.report").joinpath(name).read_text(encoding="utf-8")


def data_text(text: str) -> Markup:
    """JSON for a script element: it can neither end the element nor open a comment."""
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def html_page(
    name: str, style: str, scripts: Sequence[str], words: Mapping[str, Any], *, inline: bool = False
) -> str:
    """What the template ``name`` makes of words; every text that is filled in is escaped.

    Args:
        name: The template's file.
        style: Of the page.
        scripts: Programs at the end of the page, the only ones that its policy allows.
        words: Names in the template.
        inline: Elements may have style attributes, and are not held to ``style``.
    """
    environment = Environment(
        loader=FunctionLoader(packaged),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # As a browser reads them: every line end a line feed, and no end of the element.
    lines = [text.replace("\r\n", "\n").replace("\r", "\n") for text in scripts]
    programs = [re.sub(r"</(script)", r"<\\/\1", text, flags=re.IGNORECASE) for text in lines]
    styles = "'unsafe-inline'" if inline else _digests([style])
    policy = (
        f"default-src 'none'; script-src {_digests(programs)}; style-src {styles}; "
        "img-src data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(name).render(
        policy=policy, style=Markup(style), scripts=[Markup(text) for text in programs], **words
    )


def _digests(texts: Sequence[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def drawn_page(name: str, figures: Mapping[str, go.Figure], words: Mapping[str, Any]) -> str:
    """A page with figures; Plotly writes style attributes."""
    drawn = {own: data_text(figure.to_json() or "{}") for own, figure in figures.items()}
    scripts = [get_plotlyjs(), packaged("report.js")]
    words = {"figures": drawn, **words}
    return html_page(name, packaged("report.css"), scripts, words, inline=True)


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
    steering: Mapping[str, Any]
    """``methods`` and ``baselines``: name -> ``n``, ``overall``, ``low`` and ``high``,
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
    reply_validation: Sequence[ReplyValidation] = ()
    """And to judged replies."""
    ablation: Mapping[str, Any] = field(default_factory=dict)
    """What of judged expression the circuits carry where it is asked for, if it was measured."""


_READ: Final = {"prompt": "at the last prompt position", "reply": "averaged over the reply"}


@dataclass(frozen=True)
class Table:
    """A caption and rows, column -> text; the first cell of a row names it."""

    caption: str
    rows: Sequence[Mapping[str, str]]


def write_report(content: ReportContent, path: Path) -> None:
    """Write the report as one HTML file, whole or not at all.

    Raises:
        DataError: the file cannot be written, or there is no method to compare.
    """
    steering, emotions = content.steering, content.directions.emotion
    methods = {**steering.get("methods", {}), **steering.get("baselines", {})}
    settings = steering.get("settings") or {}
    words = {
        "title": content.title,
        "content": content,
        "emotions": emotions,
        "facts": _facts(content),
        "headline": "Target-emotion rate on test contexts: "
        + ", ".join(f"{_word(m)} {_percent(s.get('overall'))}\u00a0%" for m, s in methods.items())
        + ".",
        "headline_table": _headline_table(methods, emotions),
        "side_effects_table": _side_effects_table(methods, steering.get("hard") or {}),
        "meanings": [(METHODS[m].word, METHODS[m].meaning) for m in methods if m in METHODS],
        "judge": list(flat(steering.get("judge") or {})),
        "settings": [
            (_word(method), "; ".join(f"{name.replace('_', ' ')} {v}" for name, v in flat(how)))
            for method, how in settings.items()
            if method != "tried"
        ],
        "samples": sample_replies(content.replies, emotions, without=steering.get("baselines", ())),
        "elicitation": _elicitation_table(content.elicitation),
        "circuits": {emotion: component_tables(own) for emotion, own in content.circuits.items()},
        "circuit_scores": {
            # What was measured on held-out contexts has a section of its own.
            emotion: [own for own in flat(circuit.scores) if not own[0].startswith(tuple(SCORES))]
            for emotion, circuit in content.circuits.items()
        },
        "scores": _score_table(content.scores),
        "failures": [
            f"The circuit of {emotion} does not beat random circuits of its size in "
            f"{' and '.join(found.failures)}: what is said of it there is true of any such circuit."
            for emotion, found in content.scores.items()
            if found.failures
        ],
        "cost": cost_table(content.receipts, "stage"),
        "ablation": _ablation_table(content.ablation) if content.ablation else None,
        "provenance": provenance_rows(content.provenance),
    }
    write_text(path, drawn_page("report.html.j2", _figures(content), words))


def _figures(content: ReportContent) -> Mapping[str, go.Figure]:
    figures = {
        "accuracy": plot.accuracy_bars(content.steering),
        "valence": plot.valence_bars(content.steering),
        "side_effects": plot.side_effects_map(content.steering),
        "similarity": plot.similarity_map(content.directions),
        "generality": plot.generality_profile(content.generality),
        "heads": plot.head_map(content.heads),
        "neurons": plot.neuron_tail(content.neurons),
        "scores": plot.faithfulness_curve(content.scores),
        "importance": plot.importance_profile(content.importance),
    }
    if content.steering.get("strengths"):
        figures["strengths"] = plot.strength_curve(content.steering)
    for number, maps in enumerate(content.patches.values()):
        figures |= {f"patch-{number}-{i}": plot.patch_map(one) for i, one in enumerate(maps)}
    proofs = enumerate((*content.validation, *content.reply_validation))
    figures |= {f"validation-{i}": plot.draw(record) for i, record in proofs}
    circuits = enumerate(content.circuits.values())
    return figures | {f"circuit-{i}": plot.circuit_graph(circuit) for i, circuit in circuits}


# --- tables -------------------------------------------------------------------------------------


def _headline_table(methods: Mapping[str, Mapping[str, Any]], emotions: Sequence[str]) -> Table:
    rows = []
    for method, stats in methods.items():
        overall = _percent(stats.get("overall"))
        if "low" in stats and "high" in stats:
            overall += f" ({stats['low']:.0f}–{stats['high']:.0f})"
        rows.append(
            {
                "method": _word(method),
                "overall": overall,
                **{e: _percent(stats["by_emotion"].get(e)) for e in emotions},
                **{f"{v} event": _percent(stats["by_valence"].get(v)) for v in VALENCES},
                "perplexity ratio": short(stats.get("perplexity_ratio")),
                "repetition": short(stats.get("repetition")),
            }
        )
    sizes = " or ".join(sorted({_count(stats.get("n")) for stats in methods.values()}))
    caption = f"Test replies that express the target emotion, in percent of {sizes} per method"
    return Table(caption, rows)


def _side_effects_table(methods: Mapping[str, Mapping[str, Any]], hard: Mapping[str, Any]) -> Table:
    """What both judges find, where the mood opposes too, and the side effects."""
    rows = []
    for method, stats in methods.items():

        def between(name: str, form: Any, own: Mapping[str, Any] = stats) -> str:
            interval = own.get("intervals", {}).get(name)
            reach = "" if interval is None else f" ({short(interval[0])}–{short(interval[1])})"
            return form(own.get(name)) + reach

        rows.append(
            {
                "method": _word(method),
                "expressed (%)": between("overall", _percent),
                "second judge (%)": _percent(stats.get("second_judge")),
                "kappa": short(stats.get("kappa")),
                "opposing mood (%)": _percent(stats.get("opposing", {}).get("overall")),
                "hard contexts (%)": _percent(hard.get(method, {}).get("overall")),
                "perplexity ratio": between("perplexity_ratio", short),
                "repetition": between("repetition", short),
                "topic kept (%)": between("topic_kept", _percent),
                "distinct-1": short(stats.get("distinct_1")),
                "distinct-2": short(stats.get("distinct_2")),
                "words": short(stats.get("mean_words")),
            }
        )
    return Table("Expression and side effects, with 95% intervals over contexts", rows)


def _elicitation_table(elicitation: Mapping[str, Any]) -> Table:
    """How often prompting brought the emotion out, and how many replies were kept."""
    groups = {"all replies": elicitation["overall"], **elicitation.get("by_emotion", {})}
    groups |= {f"{name} event": own for name, own in elicitation.get("by_valence", {}).items()}
    rows = [
        {
            "replies": name,
            "made": _count(counts.get("total_samples", counts.get("total"))),
            "accepted": _count(counts.get("accepted")),
            "rejected": _count(counts.get("rejected")),
            "accuracy (%)": _percent(counts.get("accuracy")),
        }
        for name, counts in groups.items()
    ]
    return Table("Replies to prompts that ask for an emotion", rows)


def component_tables(circuit: Circuit, neurons: int = 20) -> tuple[Table, Table]:
    """All heads of a circuit and its strongest neurons, with interval and baseline."""
    heads, own = circuit.of_kind("head"), circuit.of_kind("neuron")
    shown = strongest(own, neurons)

    def row(node: Node) -> dict[str, str]:
        return {
            "component": node.id,
            "effect": short(node.effect),
            "95% interval": "–" if node.interval is None else _reach(*node.interval),
            "random_baseline": short(node.random_baseline),
            "above baseline": {True: "yes", False: "no", None: "–"}[node.above_baseline],
            "direct effect": short(node.direct),
        }

    ranked = [row(node) for node in strongest(heads, len(heads))]
    caption = f"The {len(shown):,} neurons with the largest |effect|, of {len(own):,}"
    return (
        Table(f"All {len(heads):,} heads, largest |effect| first", ranked),
        Table(caption, [row(node) for node in shown]),
    )


def _score_table(scores: Mapping[str, CircuitScores]) -> Table:
    rows = [
        {
            "score": f"{emotion}: {name}",
            "value": short(own.value),
            "95% interval": _reach(own.low, own.high),
            "random_baseline": short(own.baseline_p99),
            "p": short(own.p),
            "above baseline": "yes" if found.above_baseline(name) else "no",
        }
        for emotion, found in scores.items()
        for name, own in found.scores.items()
    ]
    first, caption = next(iter(scores.values()), None), "Scores on held-out contexts"
    if first is not None:
        caption += (
            f" ({first.n_contexts} contexts, {first.ablation} ablation, positions: "
            f"{first.positions}, {first.n_baselines} random circuits)"
        )
    return Table(caption, rows)


def _ablation_table(found: Mapping[str, Any]) -> Table:
    """Points of judged expression lost without the circuit, and without random sets."""
    rows = [
        {
            "emotion": emotion,
            "circuit": short(own["circuit_drop"]),
            "95% interval": _reach(own["low"], own["high"]),
            "random sets": short(own["random_drop"]),
            "largest of them": short(own["random_max"]),
        }
        for emotion, own in {"all": found, **found["by_emotion"]}.items()
    ]
    caption = (
        f"Points of judged expression lost ({found['n']} replies; {found['heads_share']:.1%} of "
        f"the heads and {found['neurons_share']:.1%} of the neurons; {found['draws']} random sets)"
    )
    return Table(caption, rows)


def cost_table(receipts: Mapping[str, Mapping[str, int]], what: str) -> Table:
    """Passes, steps and token-layers of every stage or part."""
    rows = [
        {
            what: name,
            "passes": _count(receipt.get("passes")),
            "steps": _count(receipt.get("steps")),
            "token-layers": _count(receipt.get("token_layers")),
        }
        for name, receipt in receipts.items()
    ]
    return Table(f"What each {what} cost", rows)


def _facts(content: ReportContent) -> list[tuple[str, str]]:
    """Name and value of what was run, on which model."""
    model, directions = content.provenance.model, content.directions
    size = (
        f"{len(content.heads.layer)} layers with {len(content.heads.head)} heads and "
        f"{len(content.neurons.neuron):,} neurons each"
    )
    made = (
        f"from {directions.n_contexts:,} contexts with an accepted reply in every emotion; "
        f"{directions.n_left_out:,} others left out; read "
        + _READ.get(directions.read, directions.read)
    )
    found = [
        ("Model", str(model.get("name", "not recorded"))),
        ("Revision", str(model.get("revision", "not recorded"))),
        ("Size", size),
        ("Directions", made),
        ("Themes", ", ".join(content.generality.theme)),
    ]
    if content.circuits:
        heads, neurons = (
            _span([len(own.of_kind(kind)) for own in content.circuits.values()])
            for kind in ("head", "neuron")
        )
        found.append(("Circuits", f"{heads} heads and {neurons} neurons per emotion"))
    return found


def provenance_rows(provenance: Provenance) -> list[tuple[str, str]]:
    """What it takes to make the page again."""
    return [*flat(provenance.to_json()), ("fingerprint", provenance.fingerprint())]


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


def _word(method: str) -> str:
    return plot.METHOD_WORDS.get(method, method)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _reach(low: float, high: float) -> str:
    return f"{short(low)} to {short(high)}"


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


# --- sample replies -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One reply as it is shown."""

    method: str
    text: str
    match: bool
    verdict: str
    reason: str = ""


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
    without: Collection[str] = (),
    most: int = 9,
) -> list[Sample]:
    """Contexts spread evenly over the file and over valences, with every method's replies."""
    by_place = {
        method: {(row.reply.prompt.origin.id, row.reply.emotion): row for row in rows}
        for method, rows in replies.items()
        if method not in without
    }
    origins = [row.reply.prompt.origin for rows in replies.values() for row in rows]
    contexts = {origin.id: origin for origin in origins}
    each, kept = max(1, most // len(VALENCES)), set[str]()
    for shift, valence in enumerate(VALENCES):
        own = [context for context in contexts.values() if context.valence == valence]
        # Different offsets, so that the same scenario does not come up in every valence.
        kept |= {own[(i * len(own) // each + shift) % len(own)].id for i in range(each) if own}
    return [
        _sample(context, by_place, emotions) for name, context in contexts.items() if name in kept
    ]


def _sample(
    context: Context,
    by_place: Mapping[str, Mapping[tuple[str, str], Judged]],
    emotions: Sequence[str],
) -> Sample:
    alike: list[Answer] = []
    apart: dict[str, list[Answer | None]] = {}
    for method, own in by_place.items():
        rows = [own.get((context.id, e), own.get((context.id, NEUTRAL))) for e in emotions]
        known = [row for row in rows if row is not None]
        texts = {row.reply.text for row in known}
        if len(rows) == len(known) > 1 and len(texts) == 1:
            matched = [row.reply.emotion for row in known if row.verdict.match]
            label, named = known[0].verdict.label, ", ".join(matched) or "no emotion"
            verdict = f"judged {label}" if label else f"matches {named}"
            alike.append(Answer(_word(method), texts.pop(), bool(matched), verdict))
        else:
            apart[_word(method)] = [None if row is None else _answer(method, row) for row in rows]
    by_emotion = [(e, [own[i] for own in apart.values()]) for i, e in enumerate(emotions)]
    return Sample(context, alike, list(apart), by_emotion)


def _answer(method: str, row: Judged) -> Answer:
    verdict = row.verdict
    heard = verdict.label or ("the target emotion" if verdict.match else "something else")
    text = row.reply.text
    return Answer(_word(method), text, verdict.match, f"judged {heard}", verdict.reason)
