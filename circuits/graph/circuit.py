"""A circuit: the components of one emotion as a directed acyclic graph.

Nodes are the embedding, every sublayer, the selected heads and neurons, and the readout. Edges
say how they hang together; see :data:`EDGE_KINDS`. A circuit is a plain value: it is saved as
node-link JSON, which networkx and d3 read as it is, and opening one needs neither torch nor
TransformerLens.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from circuits.errors import AxisError, CircuitError
from circuits.names import component
from circuits.provenance import Provenance

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "EDGE_KINDS", "FORMAT", "NODE_KINDS", "VIAS", "Circuit", "Edge", "EdgeKind", "Node", "NodeKind",
    "Via",
]  # fmt: skip

FORMAT = "emotion-circuit/1"
"""Name and version of the saved form."""

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

_STEP = {"attn": 0, "mlp": 1}


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
    control: float | None = None
    """The same quantity along random directions; what does not exceed it proves nothing."""
    importance: float | None = None
    """Response of the readout per unit injected (sublayers): a total effect."""
    direct: float | None = None
    """Direct effect on the readout, before the final norm."""
    total: float | None = None
    """Estimated total effect on the readout, compared with the plain prompt (heads, neurons); in
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
    def beats_control(self) -> bool | None:
        """Does the whole interval lie beyond the control? ``None`` if there is no control."""
        if self.interval is None or self.control is None:
            return None
        return (
            min(map(abs, self.interval)) > self.control and self.interval[0] * self.interval[1] > 0
        )


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
    control: float | None = None
    """Size of the weight for a source that changes in a random direction (paths)."""
    exact: float | None = None
    """The weight measured by patching the path, where that was done."""
    exact_stderr: float | None = None
    causal: bool | None = None
    """Is the effect of the path shown? Its 95% interval (of the exact weight where there is one)
    excludes zero and lies beyond the control. ``None``: not tested."""

    @property
    def key(self) -> str:
        """What tells edges between the same two nodes apart: the input of a path, or the kind."""
        return self.via or self.kind

    def __str__(self) -> str:
        """``L0H1 -> L2H0.k``."""
        entry = f".{self.via}" if self.via in ("q", "k", "v") else ""
        return f"{self.source} -> {self.target}{entry}"


@dataclass(frozen=True)
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
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores of the circuit as a whole."""
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        places: dict[str, tuple[float, int, int]] = {}
        for node in self.nodes:
            if node.id in places:
                raise CircuitError(f"node {node.id!r} occurs twice")
            places[node.id] = self._place(node)
        seen: set[tuple[str, str, str | None]] = set()
        for edge in self.edges:
            self._check_edge(edge, places)
            # Beside its paths, two nodes have at most one edge.
            if (edge.source, edge.target, edge.via) in seen:
                raise CircuitError(f"edge {edge} occurs twice")
            seen.add((edge.source, edge.target, edge.via))

    def _place(self, node: Node) -> tuple[float, int, int]:
        try:
            part = component(node.id)
        except AxisError as error:
            raise CircuitError(str(error)) from error
        if part.kind != node.kind or part.layer != node.layer:
            raise CircuitError(
                f"node {node.id!r} is a {part.kind} of layer {part.layer}, "
                f"but is described as a {node.kind} of layer {node.layer}"
            )
        self._check_size(node.id, part.layer, "n_layers", "layers")
        if part.kind == "head":
            self._check_size(node.id, part.index, "n_heads", "heads")
        if part.kind == "neuron":
            self._check_size(node.id, part.index, "d_mlp", "neurons")
        if part.kind == "embed":
            return (-1.0, 0, 0)
        if part.kind == "readout":
            return (float("inf"), 0, 0)
        assert part.layer is not None
        assert part.sublayer is not None
        return (float(part.layer), _STEP[part.sublayer], int(part.kind == "sublayer"))

    def _check_size(self, name: str, index: int | None, size: str, things: str) -> None:
        known = self.provenance.model.get(size)
        if known is not None and index is not None and index >= known:
            raise CircuitError(f"node {name!r} lies outside the model, which has {known} {things}")

    @staticmethod
    def _check_edge(edge: Edge, places: Mapping[str, tuple[float, int, int]]) -> None:
        for end in (edge.source, edge.target):
            if end not in places:
                raise CircuitError(
                    f"edge {edge.source} -> {edge.target}: the circuit has no node {end!r}"
                )
        if edge.kind not in EDGE_KINDS:
            raise CircuitError(
                f"edge {edge.source} -> {edge.target}: unknown kind {edge.kind!r}; "
                f"kinds are {', '.join(EDGE_KINDS)}"
            )
        if places[edge.source] >= places[edge.target]:
            raise CircuitError(
                f"edge {edge.source} -> {edge.target} goes against the residual stream"
            )
        _check_path(edge, places)
        if edge.kind == "residual" and edge.weight is not None:
            raise CircuitError(
                f"edge {edge.source} -> {edge.target} is residual and has the weight "
                f"{edge.weight}; such an edge says an order and has none"
            )

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
        return tuple(
            (p.layer, p.index) for p in parts if p.layer is not None and p.index is not None
        )

    @property
    def paths(self) -> tuple[Edge, ...]:
        """The path edges."""
        return tuple(edge for edge in self.edges if edge.kind == "path")

    def with_scores(self, **scores: float) -> "Circuit":
        """The same circuit with scores added."""
        return replace(self, scores={**self.scores, **scores})

    def to_networkx(self) -> "nx.DiGraph[str]":
        """A networkx graph; see :func:`~circuits.graph.networks.network_of`."""
        from circuits.graph.networks import network_of

        return network_of(self)

    @classmethod
    def from_networkx(cls, graph: "nx.DiGraph[str]") -> "Circuit":
        """The circuit of such a graph; see :func:`~circuits.graph.networks.circuit_of`.

        Raises:
            CircuitError: the graph is no circuit's.
        """
        from circuits.graph.networks import circuit_of

        return circuit_of(graph)


def _check_path(edge: Edge, places: Mapping[str, tuple[float, int, int]]) -> None:
    if edge.kind != "path":
        measured = ("via", "stderr", "control", "exact", "exact_stderr", "causal")
        if any(getattr(edge, name) is not None for name in measured):
            raise CircuitError(f"edge {edge} is {edge.kind}; only a path has {', '.join(measured)}")
        return
    allowed = VIAS.get(component(edge.target).kind, ())
    if edge.target.endswith(".attn") or edge.via not in allowed:
        raise CircuitError(
            f"edge {edge} is a path into {edge.via!r}; paths enter q, k or v of a head, "
            "mlp of an MLP or a neuron, and readout of the readout"
        )
    if edge.source.endswith(".attn"):
        raise CircuitError(f"edge {edge} is a path from a whole attention; name its heads")
    if places[edge.source][:2] >= places[edge.target][:2]:
        raise CircuitError(f"edge {edge} is a path inside one sublayer, where there is none")
