"""A run's results as the one JSON document that the explorer's page reads.

Its form is the JSON Schema ``explorer.schema.json`` beside this file.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from math import isfinite
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from circuits.errors import CircuitError
from circuits.explorer.content import ExplorerContent
from circuits.explorer.details import Tokens, context_rows, pattern_rows, top_contexts
from circuits.explorer.scores import MEASURES, node_scores, rounded
from circuits.explorer.trimming import trimmed
from circuits.graph.circuit import EDGE_KINDS, Circuit, Edge
from circuits.graph.scores import LOWER_IS_BETTER, CircuitScores
from circuits.names import SUBLAYERS, component
from circuits.plot.style import SIGN_COLOURS, colour

__all__ = ["FORMAT", "check_document", "explorer_document"]

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
    text = resources.files("circuits.explorer").joinpath("explorer.schema.json").read_text("utf-8")
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
