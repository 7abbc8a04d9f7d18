"""A circuit as attribution graph JSON, which Neuronpedia and circuit-tracer show.

Such a graph is of one prompt; a circuit is a mean over many contexts, so one position stands for
where it was read. Heads are nodes of the type "attention head", neurons "mlp neuron", the embedding
is an embedding and the emotion's direction a logit. Sublayers are groups ("supernodes"); an MLP
that a path enters or leaves as a whole is a node as well. Links are the paths, q, k and v of a head
together, or, in a circuit without paths, the direct effects on the readout. What the page does not
know but was measured stands in fields of its own (``circuit``).

``influence`` is computed as in circuit-tracer (Ameisen et al. 2025): the readout's is passed back
along the links in proportion to their sizes, and a node has the share that it and all stronger
ones hold together.

Will Neuronpedia and circuit-tracer open an attribution graph?

The schema says which fields there are; what the page needs beyond is checked here.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from circuits.circuit.circuit import Circuit, Node
from circuits.errors import CircuitError, DataError
from circuits.export.node_link import check_form_of, finite_json, plain_values
from circuits.export.tables import counted, fields_lost, kinds_lost
from circuits.files import Loss
from circuits.names import component

__all__ = ["check_neuronpedia", "neuronpedia", "neuronpedia_losses", "page_name"]

_NUMBER = re.compile(r"[0-9]+")
_PROBABILITY = re.compile(r"\(p=\s*[0-9.eE+-]+\s*\)")


def check_neuronpedia(values: Any) -> None:
    """Check an attribution graph: its schema, and what its page throws an error at.

    Raises:
        DataError: what is wrong, with its JSON path.
    """
    check_form_of(values, "neuronpedia.schema.json")
    ids = _ids(values["nodes"])
    n_tokens = len(values["metadata"]["prompt_tokens"])
    for number, node in enumerate(values["nodes"]):
        if node["ctx_idx"] >= n_tokens:
            raise DataError(
                f"nodes[{number}].ctx_idx is {node['ctx_idx']}, but metadata.prompt_tokens has "
                f"{n_tokens} tokens"
            )
        label = node["clerp"]
        if node["feature_type"] == "logit" and label and not _PROBABILITY.search(label):
            raise DataError(
                f"nodes[{number}].clerp is {label!r}; the page needs a probability in the label "
                "of a logit, such as 'fear (p=0.5)'"
            )
    for number, link in enumerate(values["links"]):
        for end in ("source", "target"):
            if link[end] not in ids:
                raise DataError(f"links[{number}].{end} is {link[end]!r}, which no node has as id")
    layers = [str(node["layer"]) for node in values["nodes"] if node["feature_type"] != "logit"]
    if not any(_NUMBER.fullmatch(layer) and int(layer) > 0 for layer in layers):
        raise DataError(
            "nodes: none but logits lies in a layer above 0; the page opens no such graph"
        )
    _check_view(values["qParams"], ids)


def _ids(nodes: list[dict[str, Any]]) -> set[str]:
    found: dict[str, int] = {}
    for number, node in enumerate(nodes):
        first = found.setdefault(node["node_id"], number)
        if first != number:
            raise DataError(
                f"nodes[{number}].node_id is {node['node_id']!r}, as is that of nodes[{first}]; "
                "every node needs an id of its own"
            )
    return set(found)


def _check_view(view: dict[str, Any], ids: set[str]) -> None:
    named = [(f"pinnedIds[{i}]", id) for i, id in enumerate(view.get("pinnedIds", ()))]
    for i, (_, *own) in enumerate(view.get("supernodes", ())):
        named += [(f"supernodes[{i}][{j}]", id) for j, id in enumerate(own, start=1)]
    if view.get("clickedId"):
        named.append(("clickedId", view["clickedId"]))
    for path, id in named:
        if id not in ids:
            raise DataError(f"qParams.{path} is {id!r}, which no node has as id")


_TYPES = {
    "embed": "embedding",
    "head": "attention head",
    "neuron": "mlp neuron",
    "sublayer": "mlp sublayer",
    "readout": "logit",
}
_POSITION = "<position of the readout>"


def neuronpedia(circuit: Circuit) -> str:
    """The circuit as attribution graph JSON.

    Raises:
        CircuitError: a value cannot be written, such as NaN, or the page would not open the graph,
            since no node lies above layer 0.
    """
    values = plain_values(circuit)
    nodes, links = _shown(circuit), _links(circuit)
    if not any(node.layer for node in nodes):
        raise CircuitError(
            f"the circuit of {circuit.emotion!r} has no head or neuron above layer 0, and "
            "Neuronpedia's page opens no such graph; choose another format"
        )
    influence = _influence(nodes, links)
    ids = {node.id: _node_id(node) for node in nodes}
    measured = {own["id"]: own for own in values["nodes"]}
    found = {
        "metadata": _metadata(circuit, values),
        "qParams": _first_view(circuit, ids),
        "nodes": [
            {**_node(node, circuit), **influence.get(node.id, {}), "circuit": measured[node.id]}
            for node in nodes
        ],
        "links": [
            {"source": ids[a], "target": ids[b], "weight": sum(parts.values()), "circuit": parts}
            for (a, b), parts in links.items()
        ],
    }
    text = finite_json(found, circuit)
    # What could not be shown is not written.
    check_neuronpedia(found)
    return text


def neuronpedia_losses(circuit: Circuit) -> list[Loss]:
    """What the graph does not keep, or keeps in fields that the page does not show."""
    kept = {node.id for node in _shown(circuit)}
    sublayers = [node for node in circuit.nodes if node.id not in kept]
    fields = ("effect", "stderr", "random_baseline", "importance", "direct", "total")
    hidden = [
        Loss(loss.what, loss.size, f"{loss.meaning}: in the file, not on the page")
        for loss in fields_lost(circuit, nodes=fields)
    ]
    between = (
        kinds_lost(circuit, "direct")
        if circuit.paths
        else counted(
            "edges.sublayers",
            sum(e.kind == "direct" and e.source not in kept for e in circuit.edges),
            "direct edges of whole sublayers",
        )
    )
    return [
        *counted("sublayers", len(sublayers), "whole sublayers, which are groups without values"),
        *hidden,
        *fields_lost(
            circuit, edges=("stderr", "random_baseline", "exact", "exact_stderr", "causal")
        ),
        *kinds_lost(circuit, "residual", "part"),
        *between,
        Loss("positions", 1.0, "positions: one stands for all"),
    ]


def page_name(text: str, fallback: str) -> str:
    """A name that Neuronpedia takes for a graph or a model: letters, digits, ``_``, ``.``, ``-``.

    A digest keeps different texts apart where letters had to be changed.

    >>> page_name("org/Model 7B", "model")
    'org-Model-7B-e9b696d7'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-")[:60]
    if name and name == text:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name or fallback}-{digest}"


def _shown(circuit: Circuit) -> list[Node]:
    ends = {end for edge in circuit.paths for end in (edge.source, edge.target)}
    return [node for node in circuit.nodes if node.kind != "sublayer" or node.id in ends]


def _links(circuit: Circuit) -> dict[tuple[str, str], dict[str, float]]:
    """Source and target -> input -> weight."""
    kind, kept = "path" if circuit.paths else "direct", {node.id for node in _shown(circuit)}
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for edge in circuit.edges:
        if edge.kind == kind and edge.source in kept and edge.target in kept:
            found[edge.source, edge.target][edge.key] = float(edge.weight or 0.0)
    return dict(found)


def _influence(
    nodes: list[Node], links: dict[tuple[str, str], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Cumulative influence of every node but the readout; none where nothing acts on it."""
    into: dict[str, dict[str, float]] = defaultdict(dict)
    for (start, end), parts in links.items():
        into[end][start] = abs(sum(parts.values()))
    own: dict[str, float] = defaultdict(float, readout=1.0)
    # A circuit may list its nodes in any order; links go up.
    for node in sorted(nodes, key=_height, reverse=True):
        largest = max(into[node.id].values(), default=0.0)
        if largest:
            # Divided first, so that a sum of large numbers stays finite.
            shares = {name: size / largest for name, size in into[node.id].items()}
            unit = own[node.id] / sum(shares.values())
            for name, share in shares.items():
                own[name] += unit * share
    ranked = sorted((n.id for n in nodes if n.kind != "readout"), key=lambda id: -own[id])
    total = sum(own[id] for id in ranked)
    if not total:
        return {}
    held = zip(ranked, accumulate(own[id] for id in ranked), strict=True)
    return {id: {"influence": min(1.0, passed / total)} for id, passed in held}


def _height(node: Node) -> tuple[float, int, int]:
    if node.layer is None:
        return (-1.0 if node.kind == "embed" else float("inf"), 0, 0)
    return (float(node.layer), int(node.kind != "head"), int(node.kind == "sublayer"))


def _node_id(node: Node) -> str:
    return {"embed": "E_0_0", "readout": "emotion_0"}.get(node.kind, f"{node.id}_0")


def _node(node: Node, circuit: Circuit) -> dict[str, Any]:
    label = {"embed": "embedding", "readout": f"{circuit.emotion} (p=0.000)"}
    return {
        "node_id": _node_id(node),
        "feature": component(node.id).index,
        "layer": _layer(node, circuit),
        "ctx_idx": 0,
        "feature_type": _TYPES[node.kind],
        "jsNodeId": _node_id(node),
        "clerp": label.get(node.kind, node.id),
        "reverse_ctx_idx": 0,
        "run_idx": 0,
        "token_prob": 0.0,
        "is_target_logit": node.kind == "readout",
    }


def _layer(node: Node, circuit: Circuit) -> str:
    if node.kind == "embed":
        return "E"
    if node.layer is not None:
        return str(node.layer)
    highest = max(own.layer or 0 for own in circuit.nodes)
    return str(int(circuit.provenance.model.get("n_layers", highest + 1)))


def _metadata(circuit: Circuit, values: Mapping[str, Any]) -> dict[str, Any]:
    model = circuit.provenance.model
    name = str(model.get("name", "unnamed"))
    scan = page_name(name.rsplit("/", 1)[-1], "model")
    return {
        "slug": page_name(f"{scan}-{circuit.emotion}", "circuit"),
        "scan": scan,
        "prompt_tokens": [_POSITION],
        "prompt": _POSITION,
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {
            "description": f"Circuit of {circuit.emotion} in {name}, a mean over contexts",
            "generator": {
                "name": "emotion-circuits",
                "version": circuit.provenance.versions.get("emotion-circuits", "unknown"),
            },
        },
        "circuit": {
            "emotion": circuit.emotion,
            "scores": values["scores"],
            "provenance": values["provenance"],
        },
    }


def _first_view(circuit: Circuit, ids: dict[str, str]) -> dict[str, Any]:
    groups = [
        [node.id, *(ids[own] for own in _members(node, circuit))]
        for node in circuit.of_kind("sublayer")
    ]
    return {
        "pinnedIds": list(ids.values()),
        "supernodes": [group for group in groups if len(group) > 1],
        "linkType": "both",
        "clickedId": ids.get("readout"),
        "sg_pos": "",
    }


def _members(sublayer: Node, circuit: Circuit) -> list[str]:
    kind = "head" if sublayer.id.endswith(".attn") else "neuron"
    return [node.id for node in circuit.of_kind(kind) if node.layer == sublayer.layer]
