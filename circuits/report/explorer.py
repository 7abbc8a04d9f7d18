"""The explorer of a run: its data as one JSON document, and the page that reads it.

The form of the document is the JSON Schema ``explorer.schema.json`` beside this file. The page's
scripts are plain files that share one scope, in the order of :data:`SCRIPTS`; each holds one idea
and names what it offers.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Literal

import torch
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from torch import Tensor

from circuits.circuit.circuit import EDGE_KINDS, LOWER_IS_BETTER, Circuit, CircuitScores, Edge, Node
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
    if not content.circuits:
        raise CircuitError("there is no circuit to explore; run the stage 'circuits' first")
    wanted = tuple(content.circuits)
    for name, record in vars(content).items():
        if hasattr(record, "emotion") and record.emotion != wanted:
            raise CircuitError(
                f"{name} are of {', '.join(record.emotion)}, the circuits of {', '.join(wanted)}; "
                "give records of the same run"
            )
    shown = {emotion: trimmed(circuit) for emotion, circuit in content.circuits.items()}
    names = _in_order(shown)
    rows, ranked = _node_scores(content)
    tokens, token_lists = _token_lists(content.lens, names)
    contexts = _context_rows(content.examples, content.patterns)
    prompts, patterns = _pattern_rows(content, contexts)
    nodes = []
    for name in names:
        part = component(name)
        known = {"layer": part.layer, "index": part.index, "sublayer": part.sublayer}
        node = {"id": name, "kind": part.kind}
        node |= {key: value for key, value in known.items() if value is not None}
        node |= {"scores": rows(name), "tokens": tokens.get(name)}
        nodes.append({**node, "contexts": _top_contexts(content.examples, name)})
    places = {name: place for place, name in enumerate(names)}
    model = content.model.items()
    document = {
        "format": FORMAT,
        "title": content.title,
        "model": {name: value for name, value in model if isinstance(value, str | int | float)},
        "emotions": [{"name": e, "colour": colour(e)} for e in content.circuits],
        "ranked": ranked,
        "nodes": nodes,
        "circuits": [
            _circuit(circuit, shown[emotion], places, content.scores.get(emotion))
            for emotion, circuit in content.circuits.items()
        ],
        "words": [] if content.lens is None else list(content.lens.word),
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


# --- what is known of a node --------------------------------------------------------------------

Row = list[Any] | None
"""Value, low, high, baseline, does the interval lie beyond the random baseline, rank; ``None`` in
places of what was not measured, and altogether if nothing was."""


def _node_scores(
    content: ExplorerContent,
) -> tuple[Callable[[str], dict[str, list[Row]]], dict[str, dict[str, int]]]:
    """From a node's name to measure -> a row per emotion, and kind -> measure -> how many ranked.

    Without records, rows are what the circuits say, without ranks.
    """
    tables = _tables(content)
    ranks, counts = {}, dict[str, dict[str, int]]()
    for (kind, measure), (value, _, _) in tables.items():
        # Place by size, from 1; of equals the earlier comes first.
        order = value.flatten(1).abs().argsort(dim=1, descending=True, stable=True)
        ranks[kind, measure] = (order.argsort(dim=1) + 1).reshape(value.shape)
        counts.setdefault(kind, {})[measure] = value[0].numel()
    in_circuits = [{node.id: node for node in c.nodes} for c in content.circuits.values()]

    def row(part: Component, measure: str, e: int, own: Node | None) -> Row:
        table = tables.get((part.kind, measure))
        if table is None:
            if own is None:
                return None
            effect = measure == "effect"
            value = own.score if effect else getattr(own, measure)
            error, baseline = (own.stderr, own.random_baseline) if effect else (None, None)
            rank = None
        else:
            index = SUBLAYERS.index(part.sublayer or "") if part.index is None else part.index
            place = (e, part.layer, index)
            value, error, baseline = (
                None if x is None else _finite(float(x[place])) for x in table
            )
            rank = int(ranks[part.kind, measure][place])
        return None if value is None else _numbers(value, error, baseline, rank)

    def rows(name: str) -> dict[str, list[Row]]:
        part = component(name)
        found = {
            measure: [row(part, measure, e, own.get(name)) for e, own in enumerate(in_circuits)]
            for measure in MEASURES
        }
        return {measure: own for measure, own in found.items() if any(own)}

    return rows, counts


def _tables(
    content: ExplorerContent,
) -> dict[tuple[str, str], tuple[Tensor, Tensor | None, Tensor | None]]:
    """Kind and measure -> value, standard error and baseline, all ``[emotion layer part]``."""
    found: dict[tuple[str, str], tuple[Tensor, Tensor | None, Tensor | None]] = {}
    for kind, own in (("head", content.heads), ("neuron", content.neurons)):
        if own is not None:
            value = getattr(own, content.effect)
            error = own.stderr if content.effect == "mean" else own.centred_stderr
            found[kind, "effect"] = value, error, own.random_baseline[..., None].expand_as(value)
    if content.importance is not None:
        own = content.importance
        slope, error, baseline = (
            x.transpose(1, 2) for x in (own.slope, own.stderr, own.random_baseline)
        )
        found["sublayer", "effect"] = slope, error, baseline if own.n_random else None
    for measure, own in (("direct", content.direct), ("total", content.totals)):
        if own is not None:
            found["head", measure] = own.head_effect, None, None
            found["neuron", measure] = own.neuron_effect, None, None
    if content.direct is not None:
        whole = content.direct.sublayer_effect.transpose(1, 2)
        found["sublayer", "direct"] = whole, None, None
    return found


def _numbers(
    value: float, stderr: float | None, baseline: float | None, rank: int | None
) -> list[Any]:
    # The rules for intervals and baselines are those of a circuit's node.
    node = Node("", "head", effect=value, stderr=stderr, random_baseline=baseline)
    shown = [_known(x) for x in (value, *(node.interval or (None, None)), baseline)]
    return _shortened([*shown, node.above_baseline, rank])


def _token_lists(
    lens: TokenLens | None, names: Sequence[str]
) -> tuple[dict[str, list[list[int]]], list[list[list[float | int]]]]:
    """Node -> per emotion the places of the lists that it promotes and suppresses, and the lists.

    A list has pairs of a token's place and the size of its logit. Each is kept once however many
    nodes have it: a neuron writes along one line, so its lists are the same for all emotions, or
    change sides.
    """
    places: dict[str, int] = {}
    lists: list[list[list[float | int]]] = []

    def place(words: Tensor, logits: Tensor) -> int:
        sizes = zip(words.tolist(), logits.tolist(), strict=True)
        pairs = [[word, _rounded(abs(size))] for word, size in sizes]
        key = json.dumps(pairs)
        if key not in places:
            places[key] = len(lists)
            lists.append(pairs)
        return places[key]

    found: dict[str, list[list[int]]] = {}
    if lens is None:
        return found, lists
    for name in (name for name in names if name in lens.node):
        at = lens.index("node", name)
        found[name] = [
            [
                place(lens.promoted_token[e, at], lens.promoted[e, at]),
                place(lens.suppressed_token[e, at], lens.suppressed[e, at]),
            ]
            for e in range(len(lens.emotion))
        ]
    return found, lists


def _context_rows(examples: NodeExamples | None, patterns: HeadPatterns | None) -> list[Any]:
    """Every context that a node or a pattern names: id, theme, valence and text."""
    if examples is None:
        return [] if patterns is None else [{"id": name} for name in patterns.context]
    columns = ("context", "theme", "valence", "situation", "event")
    own = zip(*(getattr(examples, column) for column in columns), strict=True)
    return [
        {"id": name, "theme": theme, "valence": valence, "text": f"{situation}\n{event}"}
        for name, theme, valence, situation, event in own
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
    content: ExplorerContent, contexts: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompts with their tokens, and patterns as lower triangles in base 64.

    A head has patterns for the emotions whose circuit it is in; others would fill the page.
    """
    patterns = content.patterns
    if patterns is None:
        return [], []
    members = [{node.id for node in circuit.nodes} for circuit in content.circuits.values()]
    places = {row["id"]: place for place, row in enumerate(contexts)}
    prompts, found = [], []
    for c, context in enumerate(patterns.context):
        for e in range(len(patterns.emotion)):
            tokens = patterns.tokens[c][e]
            prompts.append({"context": places[context], "emotion": e, "tokens": list(tokens)})
            lower = torch.ones(len(tokens), len(tokens)).tril().bool()
            for n, name in enumerate(patterns.node):
                if name in members[e]:
                    own = patterns.weight[c, e, n, -len(tokens) :, -len(tokens) :][lower]
                    text = base64.b64encode(bytes(own.tolist())).decode()
                    found.append({"node": name, "prompt": len(prompts) - 1, "weights": text})
    return prompts, found


# --- circuits -----------------------------------------------------------------------------------


def _in_order(circuits: Mapping[str, Circuit]) -> list[str]:
    """Every node of any circuit, along the residual stream."""
    names = dict.fromkeys(node.id for circuit in circuits.values() for node in circuit.nodes)

    def place(name: str) -> tuple[float, int, bool, int]:
        part = component(name)
        if part.layer is None:
            return (-1.0 if part.kind == "embed" else float("inf"), 0, False, 0)
        own = part.index is None
        return (float(part.layer), SUBLAYERS.index(part.sublayer or ""), own, part.index or 0)

    return sorted(names, key=place)


def _circuit(
    circuit: Circuit, shown: Circuit, places: Mapping[str, int], scores: CircuitScores | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "nodes": sorted(places[node.id] for node in shown.nodes),
        "edges": [_edge(edge, places) for edge in shown.edges],
        "heads": len(circuit.heads),
        "neurons": len(circuit.neurons),
        "scores": [],
    }
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


def _edge(edge: Edge, places: Mapping[str, int]) -> list[Any]:
    numbers = (edge.weight, edge.stderr, edge.random_baseline, edge.exact, edge.exact_stderr)
    ends = [places[edge.source], places[edge.target], edge.kind]
    return _shortened([*ends, *map(_known, numbers), edge.causal, edge.via])


def _shortened(row: list[Any]) -> list[Any]:
    """Without what is ``None`` at the end."""
    while row[-1] is None:
        row.pop()
    return row


def _rounded(value: float) -> float:
    """Four significant digits: enough to be read, and a quarter of the page."""
    return float(f"{value:.4g}")


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


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
