"""The explorer of a run: its data as one JSON document, and the page that reads it.

A run's results as the one JSON document that the explorer's page reads.

Its form is the JSON Schema ``explorer.schema.json`` beside this file.

The explorer's page: one file that asks nobody for anything.

Its scripts are plain files that share one scope, in the order of :data:`SCRIPTS`; each holds one
idea and names what it offers.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from math import isfinite
from typing import Any, Final, Literal

import torch
from jaxtyping import Float, Int
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
    "Tokens",
    "check_document",
    "context_rows",
    "explorer_document",
    "explorer_page",
    "node_scores",
    "pattern_rows",
    "rounded",
    "top_contexts",
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
    "direct": (
        "direct effect",
        "what it adds to the readout through the residual stream alone",
    ),
    "total": (
        "total effect",
        "estimated effect on the readout with everything downstream, against the plain prompt",
    ),
}
"""Measure -> its name and meaning."""

Row = list[Any] | None
"""Value, low, high, control, does the interval lie beyond the control, rank; ``None`` in places of
what was not measured, and altogether if nothing was."""


@dataclass(frozen=True, eq=False)
class _Measured:
    value: Float[Tensor, "emotion layer part"]
    stderr: Float[Tensor, "emotion layer part"] | None = None
    control: Float[Tensor, "emotion layer part"] | None = None

    @property
    def count(self) -> int:
        """Components that are ranked."""
        return self.value[0].numel()

    def ranks(self) -> Int[Tensor, "emotion layer part"]:
        """Place by size, from 1; of equals the earlier comes first."""
        sizes = self.value.flatten(1).abs()
        order = sizes.argsort(dim=1, descending=True, stable=True)
        return (order.argsort(dim=1) + 1).reshape(self.value.shape)


def node_scores(
    content: ExplorerContent,
) -> tuple[Callable[[str], dict[str, list[Row]]], dict[str, dict[str, int]]]:
    """From a node's name to measure -> a row per emotion, and kind -> measure -> how many ranked.

    Without records, rows are what the circuits say, without ranks.
    """
    tables = _tables(content)
    ranks = {place: table.ranks() for place, table in tables.items()}
    counts: dict[str, dict[str, int]] = {}
    for (kind, measure), table in tables.items():
        counts.setdefault(kind, {})[measure] = table.count
    emotions = range(len(content.circuits))
    in_circuits = [{node.id: node for node in c.nodes} for c in content.circuits.values()]

    def rows(name: str) -> dict[str, list[Row]]:
        part, found = component(name), {}
        for measure in MEASURES:
            table = tables.get((part.kind, measure))
            if table is None:
                found[measure] = [_of_circuit(own.get(name), measure) for own in in_circuits]
                continue
            rank = ranks[part.kind, measure]
            found[measure] = [_row(table, rank, part, e) for e in emotions]
        return {measure: own for measure, own in found.items() if any(own)}

    return rows, counts


def rounded(value: float) -> float:
    """Four significant digits: enough to be read, and a quarter of the page."""
    return float(f"{value:.4g}")


def _tables(content: ExplorerContent) -> dict[tuple[str, str], _Measured]:
    found: dict[tuple[str, str], _Measured] = {}
    for kind, own in (("head", content.heads), ("neuron", content.neurons)):
        if own is not None:
            value = getattr(own, content.effect)
            error = "stderr" if content.effect == "mean" else "centred_stderr"
            control = own.control[..., None].expand_as(value)
            found[kind, "effect"] = _Measured(value, getattr(own, error), control)
    if content.importance is not None:
        own = content.importance
        by_layer = (x.transpose(1, 2) for x in (own.slope, own.stderr, own.control))
        slope, stderr, control = by_layer
        found["sublayer", "effect"] = _Measured(slope, stderr, control if own.n_random else None)
    if content.direct is not None:
        own = content.direct
        found["head", "direct"] = _Measured(own.head_effect)
        found["neuron", "direct"] = _Measured(own.neuron_effect)
        found["sublayer", "direct"] = _Measured(own.sublayer_effect.transpose(1, 2))
    if content.totals is not None:
        found["head", "total"] = _Measured(content.totals.head_effect)
        found["neuron", "total"] = _Measured(content.totals.neuron_effect)
    return found


def _row(
    table: _Measured, ranks: Int[Tensor, "emotion layer part"], part: Component, e: int
) -> Row:
    index = SUBLAYERS.index(part.sublayer or "") if part.index is None else part.index
    place = (e, part.layer, index)
    stderr = None if table.stderr is None else _finite(table.stderr[place])
    control = None if table.control is None else _finite(table.control[place])
    value = _finite(table.value[place])
    return None if value is None else _numbers(value, stderr, control, int(ranks[place]))


def _of_circuit(node: Node | None, measure: str) -> Row:
    if node is None:
        return None
    value = node.score if measure == "effect" else getattr(node, measure)
    own = (node.stderr, node.control) if measure == "effect" else (None, None)
    return None if value is None else _numbers(value, *own, None)


def _numbers(
    value: float, stderr: float | None, control: float | None, rank: int | None
) -> list[Any]:
    # The rules for intervals and controls are those of a circuit's node.
    node = Node("", "head", effect=value, stderr=stderr, control=control)
    low, high = node.interval or (None, None)
    shown = [None if x is None else rounded(x) for x in (value, low, high, control)]
    found = [*shown, node.beats_control, rank]
    while found[-1] is None:
        found.pop()
    return found


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None


_HIGHEST, _LOWEST = 3, 1


class Tokens:
    """Lists of tokens with their logits, each kept once however many nodes have it.

    A neuron writes along one line, so its lists are the same for all emotions, or change sides.
    """

    def __init__(self, lens: TokenLens | None) -> None:
        self._lens = lens
        self._places: dict[tuple[float | int, ...], int] = {}
        self.lists: list[list[list[float | int]]] = []
        """Pairs of a token's place and the size of its logit."""

    @property
    def words(self) -> list[str]:
        """The texts of the tokens."""
        return [] if self._lens is None else list(self._lens.word)

    def of(self, name: str) -> list[list[int]] | None:
        """Per emotion the places of the lists that the node promotes and suppresses."""
        lens = self._lens
        if lens is None or name not in lens.node:
            return None
        at = lens.index("node", name)
        return [
            [
                self._place(lens.promoted_token[e, at].tolist(), lens.promoted[e, at].tolist()),
                self._place(lens.suppressed_token[e, at].tolist(), lens.suppressed[e, at].tolist()),
            ]
            for e in range(len(lens.emotion))
        ]

    def _place(self, words: Sequence[int], logits: Sequence[float]) -> int:
        pairs = [[word, rounded(abs(size))] for word, size in zip(words, logits, strict=True)]
        key = tuple(value for pair in pairs for value in pair)
        if key not in self._places:
            self._places[key] = len(self.lists)
            self.lists.append(pairs)
        return self._places[key]


def context_rows(examples: NodeExamples | None, patterns: HeadPatterns | None) -> list[Any]:
    """Every context that a node or a pattern names: id, theme, valence and text."""
    if examples is None:
        return [] if patterns is None else [{"id": name} for name in patterns.context]
    own = zip(
        examples.context,
        examples.theme,
        examples.valence,
        examples.situation,
        examples.event,
        strict=True,
    )
    return [
        {"id": name, "theme": theme, "valence": valence, "text": f"{situation}\n{event}"}
        for name, theme, valence, situation, event in own
    ]


def top_contexts(examples: NodeExamples | None, name: str) -> list[list[list[float | int]]] | None:
    """Per emotion, place and effect of the contexts with the highest effects, then the lowest."""
    if examples is None or name not in examples.node:
        return None
    effects = examples.effect[:, :, examples.index("node", name)].T
    found = []
    for own in effects:
        order = own.argsort(descending=True, stable=True).tolist()
        # Of few contexts none is named twice.
        chosen = dict.fromkeys([*order[:_HIGHEST], *order[-_LOWEST:]])
        found.append([[place, rounded(float(own[place]))] for place in chosen])
    return found


def pattern_rows(
    patterns: HeadPatterns | None, contexts: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompts with their tokens, and patterns as lower triangles in base 64.

    Args:
        patterns: Of some heads.
        contexts: What the places of contexts refer to.
        wanted: Head -> the emotions whose prompts are shown; others would fill the page.
    """
    if patterns is None:
        return [], []
    places = {row["id"]: place for place, row in enumerate(contexts)}
    prompts, found = [], []
    for c, context in enumerate(patterns.context):
        for e in range(len(patterns.emotion)):
            tokens = patterns.tokens[c][e]
            prompts.append({"context": places[context], "emotion": e, "tokens": list(tokens)})
            lower = torch.ones(len(tokens), len(tokens)).tril().bool()
            for n, name in enumerate(patterns.node):
                if e not in wanted.get(name, ()):
                    continue
                own = patterns.weight[c, e, n, -len(tokens) :, -len(tokens) :][lower]
                text = base64.b64encode(bytes(own.tolist())).decode()
                prompt = len(prompts) - 1
                found.append({"node": name, "prompt": prompt, "weights": text})
    return prompts, found


FORMAT = "emotion-explorer/1"


def explorer_document(content: ExplorerContent) -> dict[str, Any]:
    """The document, checked against its schema.

    Raises:
        CircuitError: there is no circuit, a record is of other emotions, or a value is none that
            the page can show.
    """
    if not content.circuits:
        raise CircuitError("there is no circuit to explore; run the stage 'circuits' first")
    _check_emotions(content)
    shown = {emotion: trimmed(circuit) for emotion, circuit in content.circuits.items()}
    names = _in_order(shown)
    rows, ranked = node_scores(content)
    tokens = Tokens(content.lens)
    nodes = [
        {
            **_described(name),
            "scores": rows(name),
            "tokens": tokens.of(name),
            "contexts": top_contexts(content.examples, name),
        }
        for name in names
    ]
    places = {name: place for place, name in enumerate(names)}
    document = {
        "format": FORMAT,
        "title": content.title,
        "model": {name: value for name, value in content.model.items() if _plain(value)},
        "emotions": [{"name": e, "colour": colour(e)} for e in content.circuits],
        "ranked": ranked,
        "nodes": nodes,
        "circuits": [
            _circuit(circuit, shown[emotion], places, content.scores.get(emotion))
            for emotion, circuit in content.circuits.items()
        ],
        "words": tokens.words,
        "token_lists": tokens.lists,
        **_seen(content),
        **_vocabulary(),
        "notes": list(content.notes),
    }
    check_document(document)
    return document


def check_document(document: Any) -> None:
    """Check a document against the schema.

    Raises:
        CircuitError: the first thing that is wrong, with its JSON path.
    """
    error = best_match(_validator().iter_errors(document))
    if error is not None:
        raise CircuitError(f"the explorer cannot show {error.json_path}: {error.message[:200]}")


def _check_emotions(content: ExplorerContent) -> None:
    names = ("heads", "neurons", "importance", "direct", "totals", "lens", "examples", "patterns")
    wanted = tuple(content.circuits)
    for name in names:
        record = getattr(content, name)
        if record is not None and record.emotion != wanted:
            raise CircuitError(
                f"{name} are of {', '.join(record.emotion)}, the circuits of {', '.join(wanted)}; "
                "give records of the same run"
            )


def _seen(content: ExplorerContent) -> dict[str, Any]:
    """Contexts, prompts and patterns."""
    contexts = context_rows(content.examples, content.patterns)
    members = _members(content.circuits)
    prompts, patterns = pattern_rows(content.patterns, contexts, members)
    return {"contexts": contexts, "prompts": prompts, "patterns": patterns}


def _vocabulary() -> dict[str, Any]:
    """What is the same for every run."""
    return {
        "signs": dict(SIGN_COLOURS),
        "measures": [
            {"id": name, "name": words, "meaning": meaning}
            for name, (words, meaning) in MEASURES.items()
        ],
        "edge_kinds": dict(EDGE_KINDS),
    }


@cache
def _validator() -> Draft202012Validator:
    text = resources.files("circuits.report").joinpath("explorer.schema.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float)


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


def _members(circuits: Mapping[str, Circuit]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for e, circuit in enumerate(circuits.values()):
        for node in circuit.nodes:
            found.setdefault(node.id, []).append(e)
    return found


def _described(name: str) -> dict[str, Any]:
    part = component(name)
    known = {"layer": part.layer, "index": part.index, "sublayer": part.sublayer}
    return {"id": name, "kind": part.kind, **{k: v for k, v in known.items() if v is not None}}


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
        found["direct_share"] = rounded(circuit.scores["direct_share"])
    if scores is not None:
        found["scores"] = [
            {
                "name": name,
                **{k: _known(getattr(own, k)) for k in ("value", "low", "high", "p")},
                "control": _known(own.control_p99),
                "beats": scores.beats_controls(name),
                "lower_is_better": name in LOWER_IS_BETTER,
            }
            for name, own in scores.scores.items()
        ]
        found["held_out"] = {"contexts": scores.n_contexts, "controls": scores.n_controls}
    return found


def _edge(edge: Edge, places: Mapping[str, int]) -> Sequence[Any]:
    numbers = (edge.weight, edge.stderr, edge.control, edge.exact, edge.exact_stderr)
    found: list[Any] = [places[edge.source], places[edge.target], edge.kind]
    found += map(_known, numbers)
    found += [edge.causal, edge.via]
    while found[-1] is None:
        found.pop()
    return found


def _known(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else rounded(value)


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
