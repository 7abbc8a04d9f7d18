"""A circuit: the components of one emotion as a directed acyclic graph.

Nodes are the embedding, every sublayer, the selected heads and neurons, and the readout. Edges
say how they hang together; see :data:`EDGE_KINDS`. A circuit is a plain value: it is saved as
node-link JSON, which networkx and d3 read as it is, and opening one needs neither torch nor
TransformerLens. It becomes a networkx graph and comes back without loss: every attribute is a
scalar, so that networkx writes the graph in any of its formats; provenance is JSON text, and so is
the order of the edges, which networkx sorts by their sources.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from circuits.errors import AxisError, CircuitError, DataError
from circuits.files import PathLike
from circuits.names import component
from circuits.provenance import Provenance, current

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "EDGE_KINDS",
    "FORMAT",
    "FORMAT_1",
    "LOWER_IS_BETTER",
    "NODE_KINDS",
    "ORDERS",
    "SCORES",
    "SHAPE",
    "VIAS",
    "Circuit",
    "CircuitScores",
    "Edge",
    "EdgeKind",
    "Node",
    "NodeKind",
    "Order",
    "Score",
    "Scores",
    "Via",
    "check_same_model",
    "core",
    "from_format_1",
    "graph_attributes",
    "with_scores",
]

FORMAT = "emotion-circuit/2"
"""Name and version of the saved form."""
FORMAT_1 = "emotion-circuit/1"
"""What earlier versions wrote: fields had other names (:func:`from_format_1`)."""

NodeKind = Literal["embed", "sublayer", "head", "neuron", "readout"]
EdgeKind = Literal["residual", "part", "direct", "path"]
Via = Literal["q", "k", "v", "mlp", "readout"]

NODE_KINDS: tuple[NodeKind, ...] = get_args(NodeKind)
EDGE_KINDS: Mapping[EdgeKind, str] = {
    "residual": "order along the residual stream; no weight",
    "part": "a head or neuron writes through its sublayer; weight: its own effect",
    "direct": "what a part adds to the readout through the residual stream alone",
    "path": "what the source does to the readout through this one input of the target",
}
"""Kind of edge -> what it and its weight mean."""

VIAS: Mapping[str, tuple[Via, ...]] = {
    "head": ("q", "k", "v"),
    "neuron": ("mlp",),
    "sublayer": ("mlp",),
    "readout": ("readout",),
}
"""Kind of node -> the inputs by which a path can enter it."""


@dataclass(frozen=True)
class Node:
    """A component with its scores; a score that was not measured is ``None``.

    Effects are differences to the mean over emotions, along the layer's emotion direction, in
    units of the residual stream; positive pushes towards the emotion.
    """

    id: str
    """``embed``, ``L3.attn``, ``L3H5``, ``L3N512`` or ``readout``."""
    kind: NodeKind
    layer: int | None = None
    effect: float | None = None
    """Direct effect on the layer's direction (heads, neurons)."""
    stderr: float | None = None
    """Standard error of ``effect`` (heads, neurons) or of ``importance`` (sublayers)."""
    random_baseline: float | None = None
    """The same quantity along random directions; what does not exceed it proves nothing."""
    importance: float | None = None
    """Response of the readout per unit injected (sublayers): a total effect."""
    direct: float | None = None
    """Direct effect on the readout, before the final norm."""
    total: float | None = None
    """Estimated total effect on the readout, compared with the neutral prompt (heads, neurons); in
    a circuit of another program, the score that it gives the node."""

    @property
    def score(self) -> float | None:
        """What a node does at its own layer: effect, or importance for a sublayer."""
        return self.importance if self.kind == "sublayer" else self.effect

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of :attr:`score` over contexts (normal approximation)."""
        if self.score is None or self.stderr is None:
            return None
        return self.score - 1.96 * self.stderr, self.score + 1.96 * self.stderr

    @property
    def above_baseline(self) -> bool | None:
        """Does the whole interval lie beyond the random baseline? ``None`` without one."""
        if self.interval is None or self.random_baseline is None:
            return None
        low, high = self.interval
        return min(abs(low), abs(high)) > self.random_baseline and low * high > 0


@dataclass(frozen=True)
class Edge:
    """A directed edge, from earlier to later in the residual stream."""

    source: str
    target: str
    kind: EdgeKind
    weight: float | None = None
    """See :data:`EDGE_KINDS`; of a path its attribution, in units of the readout."""
    via: Via | None = None
    """The input that a path enters. Keys and values are those of the key-value group, which all
    heads of the group read; a neuron's input is part of its MLP's."""
    stderr: float | None = None
    """Standard error of the weight over contexts (paths)."""
    random_baseline: float | None = None
    """Size of the weight for a source that changes in a random direction (paths)."""
    exact: float | None = None
    """The weight measured by patching the path, where that was done."""
    exact_stderr: float | None = None
    causal: bool | None = None
    """Is the effect of the path shown? Its 95% interval (of the exact weight where there is one)
    excludes zero and lies beyond the random baseline. ``None``: not tested."""

    @property
    def key(self) -> str:
        """What tells edges between the same two nodes apart: the input of a path, or the kind."""
        return self.via or self.kind

    def __str__(self) -> str:
        """``L0H1 -> L2H0.k``."""
        entry = f".{self.via}" if self.via in ("q", "k", "v") else ""
        return f"{self.source} -> {self.target}{entry}"


SCORES = ("faithfulness", "completeness", "minimality", "specificity", "cpr", "cmd")
LOWER_IS_BETTER = frozenset({"completeness", "cmd"})


@dataclass(frozen=True)
class Score:
    """A score, its 95% interval over contexts, and what random circuits reach."""

    value: float
    low: float
    high: float
    baseline_p99: float
    """What 99% of the random circuits do not better: their 99th percentile, or the 1st where
    lower is better."""
    p: float
    """(1 + random circuits that are at least as good) / (1 + random circuits)."""


class Scores(Mapping[str, float]):
    """Scores by name, and as attributes with their interval and what random circuits reach.

    >>> scores = Scores({"cpr": 0.8, "cpr_low": 0.7, "cpr_high": 0.9})
    >>> scores["cpr"], scores.cpr.high
    (0.8, 0.9)
    """

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Score:
        values = self.__dict__.get("_values", {})
        if name.startswith("_") or name not in values:
            known = ", ".join(values) or "none; score the circuit first"
            raise AttributeError(f"the circuit has no score {name!r}; it has {known}")
        others = ("low", "high", "baseline_p99", "p")
        return Score(values[name], *(values.get(f"{name}_{own}", math.nan) for own in others))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {self._values[name]:.3g}" for name in SCORES if name in self)
        return f"Scores({shown or dict(self._values)})"


@dataclass(frozen=True, repr=False)
class Circuit:
    """The circuit of one emotion.

    Raises:
        CircuitError: an id occurs twice or names no component, a component lies outside the
            model, an edge names an unknown node, goes against the residual stream or repeats
            another, or a residual edge has a weight.
    """

    emotion: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    scores: Mapping[str, float] = field(default_factory=Scores)
    """Scores of the circuit as a whole: :class:`Scores`."""
    provenance: Provenance = field(default_factory=current)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", Scores(self.scores))
        places: dict[str, tuple[float, int, int]] = {}
        for node in self.nodes:
            if node.id in places:
                raise CircuitError(f"node {node.id!r} occurs twice")
            places[node.id] = self._place(node)
        seen: set[tuple[str, str, str | None]] = set()
        for edge in self.edges:
            _check_edge(edge, places)
            # Beside its paths, two nodes have at most one edge.
            if (edge.source, edge.target, edge.via) in seen:
                raise CircuitError(f"edge {edge} occurs twice")
            seen.add((edge.source, edge.target, edge.via))

    def _place(self, node: Node) -> tuple[float, int, int]:
        """Where a node stands along the residual stream: layer, sublayer, and inside or whole."""
        try:
            part = component(node.id)
        except AxisError as error:
            raise CircuitError(str(error)) from error
        if (part.kind, part.layer) != (node.kind, node.layer):
            raise CircuitError(
                f"node {node.id!r} is a {part.kind} of layer {part.layer}, "
                f"but is described as a {node.kind} of layer {node.layer}"
            )
        width = {"head": "n_heads", "neuron": "d_mlp"}.get(part.kind, "")
        for index, size, things in (
            (part.layer, "n_layers", "layers"),
            (part.index, width, f"{part.kind}s"),
        ):
            known = self.provenance.model.get(size)
            if known is not None and index is not None and index >= known:
                raise CircuitError(
                    f"node {node.id!r} lies outside the model, which has {known} {things}"
                )
        if part.layer is None:
            return (-math.inf if part.kind == "embed" else math.inf), 0, 0
        return float(part.layer), int(part.sublayer == "mlp"), int(part.kind == "sublayer")

    def without(self, ids: Collection[str]) -> "Circuit":
        """The circuit without these nodes and the edges at them; itself if there are none."""
        if not ids:
            return self
        nodes = tuple(node for node in self.nodes if node.id not in ids)
        edges = tuple(edge for edge in self.edges if not {edge.source, edge.target} & {*ids})
        return replace(self, nodes=nodes, edges=edges)

    def node(self, id: str) -> Node:
        """The node with this id.

        Raises:
            CircuitError: the circuit has no such node.
        """
        for node in self.nodes:
            if node.id == id:
                return node
        raise CircuitError(f"the circuit of {self.emotion!r} has no node {id!r}")

    def of_kind(self, kind: NodeKind) -> tuple[Node, ...]:
        """Nodes of one kind, in the order of the circuit."""
        return tuple(node for node in self.nodes if node.kind == kind)

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """(layer, head) of the selected heads."""
        return self._members("head")

    @property
    def neurons(self) -> tuple[tuple[int, int], ...]:
        """(layer, neuron) of the selected neurons."""
        return self._members("neuron")

    def _members(self, kind: NodeKind) -> tuple[tuple[int, int], ...]:
        parts = (component(node.id) for node in self.of_kind(kind))
        return tuple((part.layer or 0, part.index or 0) for part in parts)

    @property
    def paths(self) -> tuple[Edge, ...]:
        """The path edges."""
        return tuple(edge for edge in self.edges if edge.kind == "path")

    @property
    def evidence(self) -> Mapping[str, Any]:
        """What the circuit was made from: template, judge, contexts, accepted and all replies."""
        return self.provenance.options.get("evidence", {})

    def __repr__(self) -> str:
        """One line."""
        model = self.provenance.model.get("name")
        faithful = self.scores.get("faithfulness")
        parts = [f"{self.emotion!r}", f"{len(self.heads)} heads", f"{len(self.neurons)} neurons"]
        parts += [f"{len(self.paths)} paths"] if self.paths else []
        parts += [f"faithfulness {faithful:.2f}"] if faithful is not None else []
        return f"Circuit({', '.join([*parts, f'of {model}'] if model else parts)})"

    def _repr_html_(self) -> str:
        # Looked up by name: plots stand above circuits, and opening a circuit does not need them.
        plots = import_module("circuits.plots.circuits")
        return plots.circuit_graph(self).to_html(full_html=False, include_plotlyjs="cdn")

    def to_frame(self) -> Any:
        """The nodes as a pandas table, one row a node."""
        import pandas as pd

        return pd.DataFrame([asdict(node) for node in self.nodes])

    def save(self, path: PathLike) -> None:
        """Write the circuit as JSON; :func:`circuits.read_circuit` reads it.

        Raises:
            CircuitError: a value cannot be written, such as NaN; names the node.
            DataError: the folder cannot be written to.
        """
        import_module("circuits.export.node_link").write_circuit(self, path)

    def with_scores(self, **scores: float) -> "Circuit":
        """The same circuit with scores added."""
        return replace(self, scores={**self.scores, **scores})

    def to_networkx(self) -> "nx.DiGraph[str]":
        """A networkx graph with every score that was measured as an attribute.

        With paths it is a ``MultiDiGraph``, whose keys are the inputs of the paths and the kinds of
        the other edges; without, two nodes have at most one edge and there are no keys.
        """
        import networkx as nx

        graph: nx.DiGraph[str] = nx.MultiDiGraph() if self.paths else nx.DiGraph()
        graph.graph.update(graph_attributes(self))
        for node in self.nodes:
            graph.add_node(node.id, **_known(node, "id"))
        for edge in self.edges:
            key = {"key": edge.key} if self.paths else {}
            graph.add_edge(edge.source, edge.target, **key, **_known(edge, "source", "target"))
        return graph

    @classmethod
    def from_networkx(cls, graph: "nx.DiGraph[str]") -> "Circuit":
        """The circuit of a graph that :meth:`to_networkx` made, edited or not.

        Nodes and edges may have been taken away or added: provenance and scores stay as they are,
        and edges then stand in networkx's order.

        Raises:
            CircuitError: the graph is undirected or of another kind, an attribute is missing or
                not one of a circuit's, or it is no valid circuit.
        """
        if not graph.is_directed():
            raise CircuitError("the graph is undirected; a circuit's edges have a direction")
        form = graph.graph.get("format")
        if form not in (FORMAT, FORMAT_1):
            raise CircuitError(
                f"the graph's attribute 'format' is {form!r}, not {FORMAT!r}; "
                "give a graph that Circuit.to_networkx made"
            )
        named = from_format_1 if form == FORMAT_1 else dict
        said = named(graph.graph)
        if not isinstance(said.get("emotion"), str):
            raise CircuitError("the graph lacks the attribute 'emotion'; add it")
        nodes = [_made(Node, {"id": id, **named(own)}, id) for id, own in graph.nodes(data=True)]
        edges = [
            _made(Edge, {"source": start, "target": end, **named(own)}, f"{start} -> {end}")
            for start, end, own in graph.edges(data=True)
        ]
        order, own = _loaded(said, "edge_order", []), list(range(len(edges)))
        if not isinstance(order, list) or sorted(map(repr, order)) != sorted(map(repr, own)):
            order = own
        ordered = sorted(zip(order, edges, strict=True), key=lambda pair: pair[0])
        scores = {
            name.removeprefix(_SCORE): value
            for name, value in said.items()
            if isinstance(name, str) and name.startswith(_SCORE)
        }
        values = _loaded(said, "provenance", None)
        try:
            made = Provenance() if values is None else Provenance.from_json(values)
        except DataError as error:
            raise CircuitError(f"the graph's attribute 'provenance' is {error}") from error
        return cls(said["emotion"], tuple(nodes), tuple(e for _, e in ordered), scores, made)


_ONLY_PATHS = ("via", "stderr", "random_baseline", "exact", "exact_stderr", "causal")


def _check_edge(edge: Edge, places: Mapping[str, tuple[float, int, int]]) -> None:
    source, target = edge.source, edge.target
    for end in (source, target):
        if end not in places:
            raise CircuitError(f"edge {source} -> {target}: the circuit has no node {end!r}")
    if edge.kind not in EDGE_KINDS:
        raise CircuitError(
            f"edge {source} -> {target}: unknown kind {edge.kind!r}; "
            f"kinds are {', '.join(EDGE_KINDS)}"
        )
    if places[source] >= places[target]:
        raise CircuitError(f"edge {source} -> {target} goes against the residual stream")
    if edge.kind == "residual" and edge.weight is not None:
        raise CircuitError(
            f"edge {source} -> {target} is residual and has the weight {edge.weight}; "
            "such an edge says an order and has none"
        )
    if edge.kind != "path":
        if any(getattr(edge, name) is not None for name in _ONLY_PATHS):
            raise CircuitError(
                f"edge {edge} is {edge.kind}; only a path has {', '.join(_ONLY_PATHS)}"
            )
        return
    if target.endswith(".attn") or edge.via not in VIAS.get(component(target).kind, ()):
        raise CircuitError(
            f"edge {edge} is a path into {edge.via!r}; paths enter q, k or v of a head, "
            "mlp of an MLP or a neuron, and readout of the readout"
        )
    if source.endswith(".attn"):
        raise CircuitError(f"edge {edge} is a path from a whole attention; name its heads")
    if places[source][:2] >= places[target][:2]:
        raise CircuitError(f"edge {edge} is a path inside one sublayer, where there is none")


_SCORE = "score_"


def graph_attributes(circuit: Circuit) -> dict[str, Any]:
    """What is said of a circuit as a whole, as scalars."""
    edges, place = circuit.edges, {node.id: i for i, node in enumerate(circuit.nodes)}
    # networkx goes through nodes in their order, and through the targets of each as first met.
    met: dict[tuple[str, str], int] = {}
    for i, edge in enumerate(edges):
        met.setdefault((edge.source, edge.target), i)
    order = [(place[edge.source], met[edge.source, edge.target]) for edge in edges]
    numbers = sorted(range(len(edges)), key=lambda i: (order[i], i))
    return {
        "format": FORMAT,
        "emotion": circuit.emotion,
        **{f"{_SCORE}{name}": value for name, value in circuit.scores.items()},
        "provenance": json.dumps(circuit.provenance.to_json(), default=float),
        "edge_order": json.dumps(numbers, separators=(",", ":")),
    }


def from_format_1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a node, an edge or of the scores under the names that they have now."""
    found = dict[str, Any]()
    for name, value in fields.items():
        now = "random_baseline" if name == "control" else name
        for old, new in (("_control_p99", "_baseline_p99"), ("_beats_controls", "_above_baseline")):
            now = now.removesuffix(old) + new if now.endswith(old) else now
        found[now] = value
    return found


def _loaded(said: Mapping[str, Any], name: str, default: object) -> Any:
    text = said.get(name)
    try:
        return default if text is None else json.loads(text)
    except (TypeError, ValueError) as error:
        raise CircuitError(f"the graph's attribute {name!r} is no JSON text; remove it") from error


def _made(kind: Any, values: Mapping[str, Any], name: str) -> Any:
    known = {own.name: own.default for own in fields(kind)}
    # networkx's readers of GraphML add the ids of edges.
    given = {key: value for key, value in values.items() if key != "id" or key in known}
    wrong = [f"{key!r} of {name} is none of a circuit's" for key in given if key not in known]
    lacking = [key for key, least in known.items() if least is MISSING and key not in given]
    for what in (*wrong, *(f"{key!r} of {name} is missing" for key in lacking)):
        raise CircuitError(f"attribute {what}")
    return kind(**given)


def _known(value: Node | Edge, *without: str) -> dict[str, Any]:
    named = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in without}
    return {name: known for name, known in named.items() if known is not None}


Order = Literal["product", "effect", "direct", "total"]
"""What the strongest components have most of: own effect times the importance of their sublayer,
own effect alone, direct effect on the readout, or estimated total effect."""
ORDERS: tuple[Order, ...] = get_args(Order)


def core(circuit: Circuit, n_heads: int, n_neurons: int, order: Order = "product") -> Circuit:
    """The circuit with only some of its heads and neurons, those that come first in an order.

    The own effect tells the emotion from the others, and a judge is to find this emotion and no
    other. A circuit that has no more than that stays as it is; of equals the earlier stays, and
    what was not measured comes last.
    """
    importance = {
        (component(site.id).sublayer, site.layer): max(site.importance or 0.0, 0.0)
        for site in circuit.of_kind("sublayer")
    }

    def strength(node: Node) -> float:
        if order == "product":
            own = importance.get((component(node.id).sublayer, node.layer), 0.0)
            return (node.effect or 0.0) * own
        return {"effect": node.effect, "direct": node.direct, "total": node.total}[order] or 0.0

    heads, neurons = (
        sorted(circuit.of_kind(kind), key=strength, reverse=True) for kind in ("head", "neuron")
    )
    return circuit.without({node.id for node in heads[n_heads:] + neurons[n_neurons:]})


SHAPE: Final = ("n_layers", "n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp")
"""Sizes without which a component's name means nothing."""


def check_same_model(
    what: str,
    origin: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    otherwise: str = "give that model",
    any_revision: bool = False,
) -> None:
    """Refuse what was made from another model.

    Weights are told apart by their revision, or by the model's name where no revision is known; a
    size or revision that one side does not say is not compared.

    Args:
        what: What is to be used, such as its file.
        origin: The model of its provenance.
        model: Description of the model that is there.
        otherwise: What to do where the weights differ.
        any_revision: Take other weights of the same sizes, such as a fine-tuned model's.

    Raises:
        CircuitError: the sizes differ, or, without ``any_revision``, the weights; says which.
    """

    def known(name: str) -> bool:
        return all(values.get(name) not in (None, "unknown") for values in (origin, model))

    def refuse(names: Sequence[str], why: str) -> None:
        own, here = (", ".join(f"{n} {values[n]}" for n in names) for values in (origin, model))
        raise CircuitError(
            f"{what} was made from {origin.get('name', 'a model without a name')} ({own}); "
            f"{model.get('name', 'this model')} has {here}; {why}"
        )

    sizes = [name for name in SHAPE if known(name) and origin[name] != model[name]]
    if sizes:
        refuse(
            sizes,
            "in a model of another size the names of parts mean others, so give the model that it "
            "was made from",
        )
    if known("revision"):
        identity, same = "revision", origin["revision"] == model["revision"]
    else:
        # A hub's name and the folder of a copy of it.
        own, here = (str(values.get("name")).rsplit("/", 1)[-1] for values in (origin, model))
        identity, same = "name", not known("name") or own == here
    if not same and not any_revision:
        refuse([identity], otherwise)


@dataclass(frozen=True)
class CircuitScores:
    """The scores of one emotion's circuit."""

    emotion: str
    scores: Mapping[str, Score]
    heads_fraction: float
    neurons_fraction: float
    size: float
    """Share of all components, heads and neurons together."""
    needed_share: float
    """Share of the nodes without which, one at a time, faithfulness is lower."""
    worst_gap: float
    """Largest completeness gap over random, single-node and greedy subsets."""
    log_area: float
    """Mean faithfulness over the logarithm of the size."""
    size_at_80: float
    """Smallest size from which on faithfulness is at least 0.8."""
    sizes: tuple[float, ...]
    curve: tuple[float, ...]
    """Faithfulness at every size."""
    curve_low: tuple[float, ...]
    """2.5th percentile of random rankings."""
    curve_high: tuple[float, ...]
    """97.5th percentile of random rankings."""
    loses: Mapping[str, float] = field(default_factory=dict)
    """Node -> what faithfulness loses when it leaves."""
    n_contexts: int = 0
    n_baselines: int = 0
    ablation: str = "resample"
    positions: str = "last"

    def above_baseline(self, name: str) -> bool:
        """Is the score better than the 99th percentile of random circuits?"""
        better = self.scores[name].value - self.scores[name].baseline_p99
        return better < 0 if name in LOWER_IS_BETTER else better > 0

    @property
    def failures(self) -> tuple[str, ...]:
        """Scores in which the circuit does not beat random circuits."""
        return tuple(name for name in self.scores if not self.above_baseline(name))

    def summary(self) -> dict[str, Any]:
        """The scores and sizes alone, as ``scores.json`` holds them."""
        return {
            **{name: asdict(score) for name, score in self.scores.items()},
            "heads_fraction": self.heads_fraction,
            "neurons_fraction": self.neurons_fraction,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CircuitScores":
        """Read what :meth:`to_json` gave."""
        scores = {name: Score(**score) for name, score in values["scores"].items()}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "scores": scores})


def with_scores(circuit: Circuit, found: CircuitScores) -> Circuit:
    """The circuit with its scores: ``cpr``, ``cpr_low``, ..., ``cpr_above_baseline`` (1 or 0)."""
    flat: dict[str, float] = {}
    for name, score in found.scores.items():
        values = asdict(score)
        flat[name] = values.pop("value")
        flat |= {f"{name}_{what}": value for what, value in values.items()}
        flat[f"{name}_above_baseline"] = float(found.above_baseline(name))
    return circuit.with_scores(
        **flat,
        needed_share=found.needed_share,
        completeness_worst=found.worst_gap,
        log_area=found.log_area,
        size_at_80=found.size_at_80,
    )
