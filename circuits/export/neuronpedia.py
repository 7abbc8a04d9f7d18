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

The schema ``neuronpedia.schema.json`` says which fields there are; what the page needs beyond is
checked here.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from itertools import accumulate
from typing import Any

from circuits.circuit.circuit import Circuit, Node
from circuits.errors import CircuitError, DataError
from circuits.export.node_link import check_form, finite_json, plain_values
from circuits.export.tables import counted, lost
from circuits.files import Loss
from circuits.names import component

__all__ = ["check_neuronpedia", "neuronpedia", "neuronpedia_losses", "page_name"]

_PROBABILITY = re.compile(r"\(p=\s*[0-9.eE+-]+\s*\)")


def check_neuronpedia(values: Any) -> None:
    """Check an attribution graph: its schema, and what its page throws an error at.

    Raises:
        DataError: what is wrong, with its JSON path.
    """
    check_form(values, "neuronpedia.schema.json")
    nodes, view = values["nodes"], values["qParams"]
    known = set[str]()
    n_tokens = len(values["metadata"]["prompt_tokens"])
    for number, node in enumerate(nodes):
        id, label, where = node["node_id"], node["clerp"], f"nodes[{number}]"
        if id in known:
            raise DataError(f"{where}.node_id is {id!r}, as is another; every node needs its own")
        known.add(id)
        if node["ctx_idx"] >= n_tokens:
            raise DataError(
                f"{where}.ctx_idx is {node['ctx_idx']}, but metadata.prompt_tokens has "
                f"{n_tokens} tokens"
            )
        if node["feature_type"] == "logit" and label and not _PROBABILITY.search(label):
            raise DataError(
                f"{where}.clerp is {label!r}; the page needs a probability in the label of a "
                "logit, such as 'fear (p=0.5)'"
            )
    named = {f"qParams.pinnedIds[{i}]": id for i, id in enumerate(view.get("pinnedIds", ()))}
    for i, (_, *own) in enumerate(view.get("supernodes", ())):
        named |= {f"qParams.supernodes[{i}][{j}]": id for j, id in enumerate(own, start=1)}
    named |= {"qParams.clickedId": view["clickedId"]} if view.get("clickedId") else {}
    for i, link in enumerate(values["links"]):
        named |= {f"links[{i}].{end}": link[end] for end in ("source", "target")}
    for path, id in named.items():
        if id not in known:
            raise DataError(f"{path} is {id!r}, which no node has as id")
    layers = [str(node["layer"]) for node in nodes if node["feature_type"] != "logit"]
    if not any(re.fullmatch("0*[1-9][0-9]*", layer) for layer in layers):
        raise DataError(
            "nodes: none but logits lies in a layer above 0; the page opens no such graph"
        )


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
    shown = _shown(circuit)
    if not any(node.layer for node in shown):
        raise CircuitError(
            f"the circuit of {circuit.emotion!r} has no head or neuron above layer 0, and "
            "Neuronpedia's page opens no such graph; choose another format"
        )
    special = {"embed": "E_0_0", "readout": "emotion_0"}
    ids = {node.id: special.get(node.kind, f"{node.id}_0") for node in shown}
    # Source and target -> input -> weight.
    links: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for edge in circuit.paths or [edge for edge in circuit.edges if edge.kind == "direct"]:
        if edge.source in ids and edge.target in ids:
            links[edge.source, edge.target][edge.key] = float(edge.weight or 0.0)
    sizes = {ends: sum(parts.values()) for ends, parts in links.items()}
    influence = _influence(shown, sizes)
    measured = {own["id"]: own for own in values["nodes"]}
    model = circuit.provenance.model
    name = str(model.get("name", "unnamed"))
    scan = page_name(name.rsplit("/", 1)[-1], "model")
    last = int(model.get("n_layers", max(own.layer or 0 for own in circuit.nodes) + 1))
    labels = {"embed": "embedding", "readout": f"{circuit.emotion} (p=0.000)"}
    groups = [
        [node.id, *(ids[own.id] for own in circuit.of_kind(kind) if own.layer == node.layer)]
        for node in circuit.of_kind("sublayer")
        for kind in (("head",) if node.id.endswith(".attn") else ("neuron",))
    ]
    found = {
        "metadata": {
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
        },
        "qParams": {
            "pinnedIds": list(ids.values()),
            "supernodes": [group for group in groups if len(group) > 1],
            "linkType": "both",
            "clickedId": ids.get("readout"),
            "sg_pos": "",
        },
        "nodes": [
            {
                "node_id": ids[node.id],
                "feature": component(node.id).index,
                "layer": "E"
                if node.kind == "embed"
                else str(last if node.layer is None else node.layer),
                "ctx_idx": 0,
                "feature_type": _TYPES[node.kind],
                "jsNodeId": ids[node.id],
                "clerp": labels.get(node.kind, node.id),
                "reverse_ctx_idx": 0,
                "run_idx": 0,
                "token_prob": 0.0,
                "is_target_logit": node.kind == "readout",
                **influence.get(node.id, {}),
                "circuit": measured[node.id],
            }
            for node in shown
        ],
        "links": [
            {"source": ids[a], "target": ids[b], "weight": sizes[a, b], "circuit": parts}
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
    hidden = lost(
        circuit,
        "nodes.effect nodes.stderr nodes.random_baseline nodes.importance nodes.direct nodes.total",
    )
    direct = sum(e.kind == "direct" and e.source not in kept for e in circuit.edges)
    return [
        *counted(
            "sublayers",
            len(circuit.nodes) - len(kept),
            "whole sublayers, which are groups without values",
        ),
        *(Loss(x.what, x.size, f"{x.meaning}: in the file, not on the page") for x in hidden),
        *lost(
            circuit,
            "edges.stderr edges.random_baseline edges.exact edges.exact_stderr edges.causal "
            "edges.residual edges.part",
        ),
        *(
            lost(circuit, "edges.direct")
            if circuit.paths
            else counted("edges.sublayers", direct, "direct edges of whole sublayers")
        ),
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


def _influence(
    nodes: list[Node], sizes: dict[tuple[str, str], float]
) -> dict[str, dict[str, float]]:
    """Cumulative influence of every node but the readout; none where nothing acts on it."""
    into: dict[str, dict[str, float]] = defaultdict(dict)
    for (start, end), size in sizes.items():
        into[end][start] = abs(size)
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
    held = zip(ranked, accumulate(own[id] for id in ranked), strict=True)
    return {id: {"influence": min(1.0, passed / total)} for id, passed in held if total}


def _height(node: Node) -> tuple[float, int, int]:
    if node.layer is None:
        return (-1.0 if node.kind == "embed" else float("inf"), 0, 0)
    return (float(node.layer), int(node.kind != "head"), int(node.kind == "sublayer"))
