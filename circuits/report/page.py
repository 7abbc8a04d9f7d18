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
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from circuits import plots as plot
from circuits.circuit.circuit import SCORES, Circuit, CircuitScores
from circuits.effects.directions import Directions, Generality
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.neurons import NeuronEffects
from circuits.files import write_text
from circuits.judges.replies import Judged
from circuits.names import NEUTRAL, VALENCES
from circuits.patching.patch import HeadPatches, SitePatches
from circuits.plots.circuits import strongest
from circuits.plots.style import short
from circuits.prompts.sev import Context
from circuits.provenance import Provenance
from circuits.steering.validation import ReplyValidation, Validation

__all__ = [
    "ReportContent",
    "Row",
    "Sample",
    "cell",
    "component_rows",
    "cost_rows",
    "data_text",
    "drawn_page",
    "flat",
    "html_page",
    "packaged",
    "percent",
    "provenance_rows",
    "sample_replies",
    "write_report",
]


# --- pages --------------------------------------------------------------------------------------


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
    environment.filters |= {"cell": cell, "percent": percent}
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


Row = dict[str, Any]
"""Column -> value as :func:`cell` shows it; the first cell of a row names it."""


def cell(value: Any) -> str:
    """A value as a table shows it; of a pair of numbers, the interval.

    >>> [cell(value) for value in (1440, 0.12345, (0.1, None), True, None)]
    ['1,440', '0.123', '0.1 to –', 'yes', '–']
    """
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return short(value)
        case (low, high):
            return f"{cell(low)} to {cell(high)}"
    return str(value)


def cost_rows(receipts: Mapping[str, Mapping[str, int]], what: str) -> list[Row]:
    """Passes, steps and token-layers of every stage or part."""
    columns = ("passes", "steps", "token_layers")
    return [
        {what: name} | {column.replace("_", "-"): own.get(column) for column in columns}
        for name, own in receipts.items()
    ]


def provenance_rows(provenance: Provenance) -> list[tuple[str, str]]:
    """What it takes to make the page again."""
    return [*flat(provenance.to_json()), ("fingerprint", provenance.fingerprint())]


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as lines: dotted name, text.

    >>> list(flat({"model": {"name": "tiny"}, "seeds": [1, 2]}))
    [('model.name', 'tiny'), ('seeds', '1, 2')]
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{before}{name}", ", ".join(map(str, value)) or "–"
        else:
            text = short(value, 5) if isinstance(value, float) else str(value)
            yield f"{before}{name}", "–" if value is None else text


# --- the report of a run ------------------------------------------------------------------------


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


_WHEN: Final = {"prompt": "once, in the prompt", "every": "at every step of the reply"}
_ALONG: Final = {
    "others": "emotion minus the other emotions",
    "neutral": "emotion minus neutral prompts",
    "probe": "weights of the probe",
}


def write_report(content: ReportContent, path: Path) -> None:
    """Write the report as one HTML file, whole or not at all.

    Raises:
        DataError: the file cannot be written, or there is no method to compare.
    """
    steering, emotions = content.steering, content.directions.emotion
    methods = {**steering.get("methods", {}), **steering.get("baselines", {})}
    counts = [(len(own.heads), len(own.neurons)) for own in content.circuits.values()]
    words = {
        "title": content.title,
        "content": content,
        "emotions": emotions,
        "methods": {method: (_word(method), own) for method, own in methods.items()},
        "counts": [(min(own), max(own)) for own in zip(*counts, strict=True)],
        "headline": list(_headline_rows(methods, emotions)),
        "side_effects": list(_side_effects_rows(methods, steering.get("hard") or {})),
        "settings": _settings_rows(steering.get("settings") or {}),
        "judge": list(flat(steering.get("judge") or {})),
        "samples": sample_replies(content.replies, emotions, without=steering.get("baselines", ())),
        "elicitation": list(_elicitation_rows(content.elicitation)),
        "circuits": {emotion: component_rows(own) for emotion, own in content.circuits.items()},
        "circuit_scores": {
            # What was measured on held-out contexts has a section of its own.
            emotion: [own for own in flat(circuit.scores) if not own[0].startswith(tuple(SCORES))]
            for emotion, circuit in content.circuits.items()
        },
        "scores": [
            {
                "score": f"{emotion}: {name}",
                "value": own.value,
                "95% interval": (own.low, own.high),
                "random baseline": own.baseline_p99,
                "p": own.p,
                "above baseline": found.above_baseline(name),
            }
            for emotion, found in content.scores.items()
            for name, own in found.scores.items()
        ],
        # Points of judged expression lost without the circuit, and without random sets.
        "ablation": [
            {
                "emotion": emotion,
                "circuit": own["circuit_drop"],
                "95% interval": (own["low"], own["high"]),
                "random sets": own["random_drop"],
                "largest of them": own["random_max"],
            }
            for found in ([content.ablation] if content.ablation else [])
            for emotion, own in {"all": found, **found["by_emotion"]}.items()
        ],
        "cost": cost_rows(content.receipts, "stage"),
        "provenance": provenance_rows(content.provenance),
    }
    figures = {
        "accuracy": plot.accuracy_bars(steering),
        "valence": plot.accuracy_bars(steering, by="valence"),
        "side_effects": plot.side_effects_map(steering),
        "similarity": plot.draw(content.directions),
        "generality": plot.draw(content.generality),
        "heads": plot.draw(content.heads),
        "neurons": plot.draw(content.neurons),
        "scores": plot.faithfulness_curve(content.scores),
        "importance": plot.draw(content.importance),
    }
    if steering.get("strengths"):
        figures["strengths"] = plot.strength_curve(steering)
    numbered: dict[str, Sequence[object]]
    numbered = {f"patch-{n}": maps for n, maps in enumerate(content.patches.values())}
    numbered["validation"] = [*content.validation, *content.reply_validation]
    numbered["circuit"] = [*content.circuits.values()]
    for name, records in numbered.items():
        figures |= {f"{name}-{i}": plot.draw(record) for i, record in enumerate(records)}
    write_text(path, drawn_page("report.html.j2", figures, words))


def _headline_rows(
    methods: Mapping[str, Mapping[str, Any]], emotions: Sequence[str]
) -> Iterator[Row]:
    for method, own in methods.items():
        reach = f" ({own['low']:.0f}–{own['high']:.0f})" if {"low", "high"} <= own.keys() else ""
        yield {
            "method": _word(method),
            "overall": percent(own.get("overall")) + reach,
            **{emotion: percent(own["by_emotion"].get(emotion)) for emotion in emotions},
            **{f"{v} event": percent(own["by_valence"].get(v)) for v in VALENCES},
            "perplexity ratio": own.get("perplexity_ratio"),
            "repetition": own.get("repetition"),
        }


def _side_effects_rows(
    methods: Mapping[str, Mapping[str, Any]], hard: Mapping[str, Any]
) -> Iterator[Row]:
    """What both judges find, where the mood opposes too, and the side effects."""
    for method, own in methods.items():
        known = own.get("intervals", {}).items()
        # Word joiners: a narrow column breaks before the interval, never within it.
        reach = {name: f" ({short(low)}\u2060–\u2060{short(high)})" for name, (low, high) in known}
        yield {
            "method": _word(method),
            "expressed (%)": percent(own.get("overall")) + reach.get("overall", ""),
            "second judge (%)": percent(own.get("second_judge")),
            "kappa": own.get("kappa"),
            "opposing mood (%)": percent(own.get("opposing", {}).get("overall")),
            "hard contexts (%)": percent(hard.get(method, {}).get("overall")),
            **{
                name.replace("_", " "): cell(own.get(name)) + reach.get(name, "")
                for name in ("perplexity_ratio", "repetition")
            },
            "topic kept (%)": percent(own.get("topic_kept")) + reach.get("topic_kept", ""),
            "distinct\u20111": own.get("distinct_1"),
            "distinct\u20112": own.get("distinct_2"),
            "words": own.get("mean_words"),
        }


def _settings_rows(settings: Mapping[str, Any]) -> list[Row]:
    rows = []
    for method, own in settings.items():
        if method == "tried":
            continue
        single = ", ".join(f"{e} {cell(value)}" for e, value in own.get("by_emotion", {}).items())
        places = {own[name]: 0 for name in ("at", "heads_at", "neurons_at") if name in own}
        row = {
            "method": _word(method),
            "layers": ", ".join(map(str, own.get("layers", ()))) or "those of its components",
            "strength": cell(own.get("strength")) + (f" ({single})" if single else ""),
            "position": ", ".join(places) or None,
            "when": _WHEN.get(own.get("when", "")),
            "direction": _ALONG.get(own.get("along", ""), "what its components do differently"),
        }
        rows.append(row)
    return rows


def _elicitation_rows(elicitation: Mapping[str, Any]) -> Iterator[Row]:
    """How often prompting brought the emotion out, and how many replies were kept."""
    groups = {"all replies": elicitation["overall"], **elicitation.get("by_emotion", {})}
    groups |= {f"{name} event": own for name, own in elicitation.get("by_valence", {}).items()}
    for name, counts in groups.items():
        yield {
            "replies": name,
            "made": counts.get("total_samples", counts.get("total")),
            "accepted": counts.get("accepted"),
            "rejected": counts.get("rejected"),
            "accuracy (%)": percent(counts.get("accuracy")),
        }


def component_rows(circuit: Circuit, neurons: int = 20) -> list[list[Row]]:
    """All heads of a circuit and its strongest neurons, with interval and baseline."""
    return [
        [
            {
                "component": node.id,
                "effect": node.effect,
                "95% interval": node.interval,
                "random baseline": node.random_baseline,
                "above baseline": node.above_baseline,
                "direct effect": node.direct,
            }
            for node in strongest(nodes, most)
        ]
        for nodes, most in (
            (circuit.of_kind("head"), len(circuit.heads)),
            (circuit.of_kind("neuron"), neurons),
        )
    ]


def percent(value: float | None) -> str:
    """A share in percent, or a dash."""
    return "–" if value is None else f"{value:.1f}"


def _word(method: str) -> str:
    return plot.METHOD_WORDS.get(method, method)


# --- sample replies -----------------------------------------------------------------------------


class Answer(NamedTuple):
    """One reply as it is shown."""

    method: str
    text: str
    match: bool
    verdict: str
    reason: str = ""


class Sample(NamedTuple):
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
    origins = [row.reply.prompt.origin for rows in replies.values() for row in rows]
    contexts = {origin.id: origin for origin in origins}
    each, kept = max(1, most // len(VALENCES)), set[str]()
    for shift, valence in enumerate(VALENCES):
        own = [context.id for context in contexts.values() if context.valence == valence]
        # Different offsets, so that the same scenario does not come up in every valence.
        kept |= {own[(i * len(own) // each + shift) % len(own)] for i in range(each) if own}
    shown = {method: rows for method, rows in replies.items() if method not in without}
    return [_sample(own, shown, emotions) for name, own in contexts.items() if name in kept]


def _sample(
    context: Context, replies: Mapping[str, Sequence[Judged]], emotions: Sequence[str]
) -> Sample:
    alike: list[Answer] = []
    apart: dict[str, list[Answer | None]] = {}
    for method, judged in replies.items():
        own = {row.reply.emotion: row for row in judged if row.reply.prompt.origin.id == context.id}
        rows, name = [own.get(e, own.get(NEUTRAL)) for e in emotions], _word(method)
        texts = {row.reply.text for row in rows if row is not None}
        if len(rows) > 1 and len(texts) == 1 and None not in rows:
            known = [row for row in rows if row is not None]
            matched = [row.reply.emotion for row in known if row.verdict.match]
            label, named = known[0].verdict.label, ", ".join(matched) or "no emotion"
            verdict = f"judged {label}" if label else f"matches {named}"
            alike.append(Answer(name, texts.pop(), bool(matched), verdict))
        else:
            apart[name] = [None if row is None else _answer(name, row) for row in rows]
    by_emotion = [(e, [own[i] for own in apart.values()]) for i, e in enumerate(emotions)]
    return Sample(context, alike, list(apart), by_emotion)


def _answer(method: str, row: Judged) -> Answer:
    verdict = row.verdict
    found = verdict.label or ("the target emotion" if verdict.match else "something else")
    return Answer(method, row.reply.text, verdict.match, f"judged {found}", verdict.reason)
