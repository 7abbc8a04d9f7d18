"""The explorer of a run: its data as one JSON document, and the page that reads it.

The form of the document is the JSON Schema ``explorer.schema.json`` beside this file. The page's
scripts are plain files that share one scope, in the order of :data:`SCRIPTS`; each holds one idea
and names what it offers.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Literal

import torch
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from torch import Tensor

from circuits.circuit.circuit import EDGE_KINDS, LOWER_IS_BETTER, Circuit, CircuitScores, Node
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.inspection import HeadPatterns, NodeExamples, TokenLens
from circuits.effects.neurons import DirectEffects, NeuronEffects
from circuits.errors import CircuitError
from circuits.names import SUBLAYERS, Component, component
from circuits.patching.totals import TotalEstimates
from circuits.plots.style import SIGN_COLOURS, colour
from circuits.report.page import data_text, html_page, packaged

__all__ = [
    "ExplorerContent",
    "FORMAT",
    "MEASURES",
    "MOST",
    "SCRIPTS",
    "check_document",
    "explorer_document",
    "explorer_page",
    "trimmed",
]


@dataclass(frozen=True, eq=False)
class ExplorerContent:
    """Every result of a run that the page shows; the page only lays out.

    Without the records of a measurement (imported results have none) a node shows what its
    circuits say of it.
    """

    title: str
    model: Mapping[str, Any]
    """Name, revision and sizes."""
    circuits: Mapping[str, Circuit]
    """Emotion -> its circuit."""
    effect: Literal["centred", "mean"] = "centred"
    """Which effect of heads and neurons the circuits were made from."""
    heads: HeadEffects | None = None
    neurons: NeuronEffects | None = None
    importance: Importance | None = None
    direct: DirectEffects | None = None
    totals: TotalEstimates | None = None
    scores: Mapping[str, CircuitScores] = field(default_factory=dict)
    """Emotion -> scores of its circuit on held-out contexts."""
    lens: TokenLens | None = None
    examples: NodeExamples | None = None
    patterns: HeadPatterns | None = None
    notes: tuple[str, ...] = ()
    """What the page lacks, and how to come by it."""


MOST: Final = 1000
"""Heads and neurons of a circuit that are shown."""


def trimmed(circuit: Circuit, most: int = MOST) -> Circuit:
    """The circuit with ``most`` heads and neurons: all heads, then ends of paths, then by |effect|.

    A circuit that has no more stays as it is.
    """
    ends = {end for edge in circuit.paths for end in (edge.source, edge.target)}
    parts = sorted(
        (node for node in circuit.nodes if node.kind in ("head", "neuron")),
        key=lambda node: (node.kind != "head", node.id not in ends, -abs(node.effect or 0.0)),
    )
    left_out = {node.id for node in parts[most:]}
    return circuit.without(left_out)


MEASURES: Final[Mapping[str, tuple[str, str]]] = {
    "effect": (
        "own effect",
        "what a head or neuron adds along its own layer's emotion direction; of a sublayer its "
        "importance, the response of the readout per unit injected",
    ),
    "direct": ("direct effect", "what it adds to the readout through the residual stream alone"),
    "total": (
        "total effect",
        "estimated effect on the readout with everything downstream, against the neutral prompt",
    ),
}
"""Measure -> its name and meaning."""

FORMAT = "emotion-explorer/1"


def explorer_document(content: ExplorerContent) -> dict[str, Any]:
    """The document, checked against its schema.

    Raises:
        CircuitError: there is no circuit, a record is of other emotions, or a value is none that
            the page can show.
    """
    circuits, lens = content.circuits, content.lens
    if not circuits:
        raise CircuitError("there is no circuit to explore; run the stage 'circuits' first")
    wanted = tuple(circuits)
    for name, record in vars(content).items():
        if hasattr(record, "emotion") and record.emotion != wanted:
            raise CircuitError(
                f"{name} are of {', '.join(record.emotion)}, the circuits of {', '.join(wanted)}; "
                "give records of the same run"
            )
    shown = {emotion: trimmed(circuit) for emotion, circuit in circuits.items()}
    names = sorted({node.id for circuit in shown.values() for node in circuit.nodes}, key=_along)
    places = {name: place for place, name in enumerate(names)}
    tables = _tables(content)
    ranked: dict[str, dict[str, int]] = {}
    for (kind, measure), table in tables.items():
        ranked.setdefault(kind, {})[measure] = table[0, 0].numel()
    tokens, token_lists = _token_lists(lens, names) if lens else ({}, [])
    contexts = _context_rows(content)
    prompts, patterns = _pattern_rows(content, contexts)
    in_circuits = [{node.id: node for node in circuit.nodes} for circuit in circuits.values()]
    nodes = []
    for name in names:
        part = component(name)
        known = {"layer": part.layer, "index": part.index, "sublayer": part.sublayer}
        node = {"id": name, "kind": part.kind}
        node |= {key: value for key, value in known.items() if value is not None}
        node |= {"scores": _scores(part, tables, [own.get(name) for own in in_circuits])}
        node |= {"tokens": tokens.get(name), "contexts": _top_contexts(content.examples, name)}
        nodes.append(node)
    model = content.model.items()
    document = {
        "format": FORMAT,
        "title": content.title,
        "model": {name: value for name, value in model if isinstance(value, str | int | float)},
        "emotions": [{"name": emotion, "colour": colour(emotion)} for emotion in circuits],
        "ranked": ranked,
        "nodes": nodes,
        "circuits": [
            _circuit(circuit, shown[emotion], places, content.scores.get(emotion))
            for emotion, circuit in circuits.items()
        ],
        "words": list(lens.word) if lens else [],
        "token_lists": token_lists,
        "contexts": contexts,
        "prompts": prompts,
        "patterns": patterns,
        "signs": dict(SIGN_COLOURS),
        "measures": [
            {"id": name, "name": words, "meaning": meaning}
            for name, (words, meaning) in MEASURES.items()
        ],
        "edge_kinds": dict(EDGE_KINDS),
        "notes": list(content.notes),
    }
    check_document(document)
    return document


def check_document(document: Any) -> None:
    """Check a document against the schema.

    Raises:
        CircuitError: the first thing that is wrong, with its JSON path.
    """
    schema = json.loads(packaged("explorer.schema.json"))
    error = best_match(Draft202012Validator(schema).iter_errors(document))
    if error is not None:
        raise CircuitError(f"the explorer cannot show {error.json_path}: {error.message[:200]}")


def _along(name: str) -> tuple[float, int, bool, int]:
    """Place along the residual stream; a sublayer follows its heads or neurons."""
    part = component(name)
    if part.layer is None:
        return (-1.0 if part.kind == "embed" else float("inf"), 0, False, 0)
    side = SUBLAYERS.index(part.sublayer or "")
    return (float(part.layer), side, part.index is None, part.index or 0)


# --- what is known of a node --------------------------------------------------------------------


def _tables(content: ExplorerContent) -> dict[tuple[str, str], Tensor]:
    """Kind and measure -> value, standard error, baseline and rank, ``[4 emotion layer part]``.

    What is not known is not a number; ranks go by size, from 1.
    """
    found: dict[tuple[str, str], Tensor] = {}

    def add(kind: str, measure: str, value: Tensor, *known: Tensor) -> None:
        # Of equals the earlier comes first.
        order = value.flatten(1).abs().argsort(dim=1, descending=True, stable=True)
        rank = (order.argsort(dim=1) + 1).reshape(value.shape)
        unknown = [torch.full_like(value, torch.nan)] * (2 - len(known))
        found[kind, measure] = torch.stack([value, *known, *unknown, rank.to(value)])

    for kind, own in (("head", content.heads), ("neuron", content.neurons)):
        if own is not None:
            value = getattr(own, content.effect)
            error = own.stderr if content.effect == "mean" else own.centred_stderr
            add(kind, "effect", value, error, own.random_baseline[..., None].expand_as(value))
    own = content.importance
    if own is not None:
        known = (own.slope, own.stderr, *((own.random_baseline,) if own.n_random else ()))
        add("sublayer", "effect", *(tensor.transpose(1, 2) for tensor in known))
    for measure, own in (("direct", content.direct), ("total", content.totals)):
        if own is not None:
            add("head", measure, own.head_effect)
            add("neuron", measure, own.neuron_effect)
    if content.direct is not None:
        add("sublayer", "direct", content.direct.sublayer_effect.transpose(1, 2))
    return found


def _scores(
    part: Component, tables: Mapping[tuple[str, str], Tensor], in_circuits: Sequence[Node | None]
) -> dict[str, list[list[Any] | None]]:
    """Measure -> per emotion value, low, high, baseline, is the interval beyond it, and rank.

    What is unknown is ``None``, at the end left out. Without records, rows are what the circuits
    say, without ranks.
    """
    found = {}
    index = SUBLAYERS.index(part.sublayer or "attn") if part.index is None else part.index
    for measure in MEASURES:
        table, rows = tables.get((part.kind, measure)), []
        for e, own in enumerate(in_circuits):
            value = error = baseline = rank = None
            if table is not None:
                numbers = table[:, e, part.layer, index].tolist()
                value, error, baseline, rank = (x if isfinite(x) else None for x in numbers)
            elif own is not None and measure == "effect":
                value, error, baseline = own.score, own.stderr, own.random_baseline
            elif own is not None:
                value = getattr(own, measure)
            if value is None:
                rows.append(None)
                continue
            # The rules for intervals and baselines are those of a circuit's node.
            node = Node("", "head", effect=value, stderr=error, random_baseline=baseline)
            shown = [_known(x) for x in (value, *(node.interval or (None, None)), baseline)]
            rows.append(_shortened([*shown, node.above_baseline, rank and int(rank)]))
        if any(rows):
            found[measure] = rows
    return found


def _token_lists(
    lens: TokenLens, names: Sequence[str]
) -> tuple[dict[str, list[list[int]]], list[Any]]:
    """Node -> per emotion the places of the lists that it promotes and suppresses, and the lists.

    A list has pairs of a token's place and the size of its logit. Each is kept once however many
    nodes have it: a neuron writes along one line, so its lists are the same for all emotions, or
    change sides.
    """
    lists: dict[tuple[tuple[int, float], ...], int] = {}

    def place(words: Tensor, logits: Tensor) -> int:
        sizes = [_rounded(abs(size)) for size in logits.tolist()]
        return lists.setdefault(tuple(zip(words.tolist(), sizes, strict=True)), len(lists))

    found = {}
    for name in (name for name in names if name in lens.node):
        at = lens.index("node", name)
        found[name] = [
            [
                place(lens.promoted_token[e, at], lens.promoted[e, at]),
                place(lens.suppressed_token[e, at], lens.suppressed[e, at]),
            ]
            for e in range(len(lens.emotion))
        ]
    return found, [[list(pair) for pair in own] for own in lists]


def _context_rows(content: ExplorerContent) -> list[dict[str, str]]:
    """Every context that a node or a pattern names: id, theme, valence and text."""
    examples, patterns = content.examples, content.patterns
    if examples is None:
        return [{"id": name} for name in (patterns.context if patterns else ())]
    columns = ("context", "theme", "valence", "situation", "event")
    rows = zip(*(getattr(examples, column) for column in columns), strict=True)
    return [
        {"id": name, "theme": theme, "valence": valence, "text": f"{situation}\n{event}"}
        for name, theme, valence, situation, event in rows
    ]


def _top_contexts(examples: NodeExamples | None, name: str) -> list[list[list[float | int]]] | None:
    """Per emotion, place and effect of the three highest contexts, then of the lowest."""
    if examples is None or name not in examples.node:
        return None
    found = []
    for own in examples.effect[:, :, examples.index("node", name)].T:
        order = own.argsort(descending=True, stable=True).tolist()
        # Of few contexts none is named twice.
        chosen = dict.fromkeys([*order[:3], order[-1]])
        found.append([[place, _rounded(float(own[place]))] for place in chosen])
    return found


def _pattern_rows(
    content: ExplorerContent, contexts: Sequence[Mapping[str, str]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompts with their tokens, and patterns as lower triangles in base 64.

    A head has patterns for the emotions whose circuit it is in; others would fill the page.
    """
    patterns, prompts, found = content.patterns, [], []
    if patterns is None:
        return [], []
    places = {row["id"]: place for place, row in enumerate(contexts)}
    for c, context in enumerate(patterns.context):
        for e, circuit in enumerate(content.circuits.values()):
            tokens, members = patterns.tokens[c][e], {node.id for node in circuit.nodes}
            prompts.append({"context": places[context], "emotion": e, "tokens": list(tokens)})
            lower = torch.ones(len(tokens), len(tokens)).tril().bool()
            for n, name in enumerate(patterns.node):
                if name in members:
                    own = patterns.weight[c, e, n, -len(tokens) :, -len(tokens) :][lower]
                    text = base64.b64encode(bytes(own.tolist())).decode()
                    found.append({"node": name, "prompt": len(prompts) - 1, "weights": text})
    return prompts, found


# --- circuits -----------------------------------------------------------------------------------


def _circuit(
    circuit: Circuit, shown: Circuit, places: Mapping[str, int], scores: CircuitScores | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "nodes": sorted(places[node.id] for node in shown.nodes),
        "edges": [],
        "heads": len(circuit.heads),
        "neurons": len(circuit.neurons),
        "scores": [],
    }
    for edge in shown.edges:
        numbers = (edge.weight, edge.stderr, edge.random_baseline, edge.exact, edge.exact_stderr)
        ends = (places[edge.source], places[edge.target], edge.kind)
        found["edges"].append(_shortened([*ends, *map(_known, numbers), edge.causal, edge.via]))
    if "direct_share" in circuit.scores:
        found["direct_share"] = _rounded(circuit.scores["direct_share"])
    if scores is not None:
        found["scores"] = [
            {
                "name": name,
                **{k: _known(getattr(own, k)) for k in ("value", "low", "high", "p")},
                "baseline": _known(own.baseline_p99),
                "beats": scores.above_baseline(name),
                "lower_is_better": name in LOWER_IS_BETTER,
            }
            for name, own in scores.scores.items()
        ]
        found["held_out"] = {"contexts": scores.n_contexts, "baselines": scores.n_baselines}
    return found


def _shortened(row: list[Any]) -> list[Any]:
    """Without what is ``None`` at the end."""
    while row[-1] is None:
        row.pop()
    return row


def _rounded(value: float) -> float:
    """Four significant digits: enough to be read, and a quarter of the page."""
    return float(f"{value:.4g}")


def _known(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else _rounded(value)


# --- the page -----------------------------------------------------------------------------------

SCRIPTS: Final = (
    "dom",
    "data",
    "state",
    "theme",
    "layout",
    "marks",
    "draw",
    "camera",
    "charts",
    "attention",
    "edges",
    "panel",
    "summary",
    "search",
    "save",
    "controls",
    "keyboard",
    "legend",
    "main",
)
"""Names of the files in ``js/``."""


def explorer_page(document: Mapping[str, Any]) -> str:
    """The page that shows a document."""
    script = "\n".join(packaged(f"js/{name}.js") for name in SCRIPTS)
    data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    words = {"title": document["title"], "data": data_text(data)}
    return html_page("explorer.html.j2", packaged("explorer.css"), [script], words)
