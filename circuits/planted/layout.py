"""Which parts of a planted model do what, drawn from a seed, and the edges that follow."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from circuits.names import component, head_name, neuron_name

__all__ = ["EdgeEntry", "PlantedEdge", "PlantedNode", "Role", "When", "draw_nodes", "planted_edges"]

Role = Literal["writer", "relay", "inhibitor", "backup", "distractor"]
Reads = Literal["code", "signal", "topic", "constant"]
EdgeEntry = Literal["q", "k", "v", "mlp", "readout"]
"""Where an edge enters its target."""

When = Literal["asked", "plain", "ablated"]
"""What must change for a part or an edge to show.

``asked``: the asked emotion; it shows against a plain prompt too. ``plain``: whether an emotion is
asked for at all; two asked prompts do not show it. ``ablated``: the asked emotion, once the writer
is ablated.
"""

RELAYS_PER_EMOTION = (1, 2)


@dataclass(frozen=True)
class PlantedNode:
    """A head or neuron with hand-set weights."""

    name: str
    role: Role
    reads: Reads
    """The emotion word's code, the writer's signal, other words, or nothing that ever changes."""
    emotion: str | None
    """The emotion it serves; ``None`` for all of them."""
    strength: float
    """What it adds to an emotion's readout when it is on; a distractor: to each direction."""
    when: When | None
    """What must change for its effect to show; ``None`` for a distractor: nothing does it."""

    @property
    def kind(self) -> Literal["head", "neuron"]:
        """``head`` or ``neuron``."""
        return "head" if component(self.name).kind == "head" else "neuron"

    @property
    def layer(self) -> int:
        """The layer it is in."""
        return _place(self.name)[0]

    @property
    def index(self) -> int:
        """The head or neuron of its layer."""
        return _place(self.name)[1]


@dataclass(frozen=True)
class PlantedEdge:
    """A hand-set connection."""

    source: str
    target: str
    """A head, a neuron or ``readout``."""
    kind: EdgeEntry
    sign: int
    """Of its effect on the readout of the emotion: +1 pushes towards it, -1 away."""
    emotion: str | None
    """The emotion it serves; ``None`` for all of them."""
    when: When


def draw_nodes(
    rng: random.Random, emotions: Sequence[str], n_layers: int, n_heads: int, d_mlp: int
) -> tuple[PlantedNode, ...]:
    """All parts of a plant, at drawn places.

    Every emotion has a relay that lies after the backup, so that a backup is never idle.
    """
    free = _Free(rng, n_heads, d_mlp)
    last = n_layers - 1
    writer = rng.randint(0, last - 1)
    backup = rng.randint(writer + 1, last)
    nodes = [
        PlantedNode(free.head(writer), "writer", "code", None, rng.uniform(0.8, 1.2), "asked"),
        PlantedNode(free.head(backup), "backup", "code", None, 0.0, "ablated"),
    ]
    for emotion in emotions:
        for number in range(rng.choice(RELAYS_PER_EMOTION)):
            layer = rng.randint(writer if number else backup, last)
            name, strength = free.neuron(layer), rng.uniform(0.6, 1.2)
            nodes.append(PlantedNode(name, "relay", "signal", emotion, strength, "asked"))
    nodes += _inhibitors(rng, free, emotions, writer, last)
    return (*nodes, *_distractors(rng, free, emotions, writer, last))


def _inhibitors(
    rng: random.Random, free: "_Free", emotions: Sequence[str], writer: int, last: int
) -> Iterator[PlantedNode]:
    if rng.random() < 0.5:
        layer, strength = rng.randint(writer + 1, last), -rng.uniform(0.3, 0.5)
        yield PlantedNode(free.head(layer), "inhibitor", "signal", None, strength, "asked")
        return
    for emotion in emotions:
        layer, strength = rng.randint(writer, last), -rng.uniform(0.3, 0.5)
        yield PlantedNode(free.neuron(layer), "inhibitor", "signal", emotion, strength, "asked")


def _distractors(
    rng: random.Random, free: "_Free", emotions: Sequence[str], writer: int, last: int
) -> Iterator[PlantedNode]:
    def distractor(name: str, reads: Reads, emotion: str | None = None) -> PlantedNode:
        return PlantedNode(name, "distractor", reads, emotion, rng.uniform(2, 3), None)

    topic = rng.randint(0, last)
    yield distractor(free.head(topic), "topic")
    yield distractor(free.neuron(rng.randint(topic, last)), "topic")
    yield distractor(free.neuron(rng.randint(0, last)), "constant")
    yield distractor(free.head(rng.randint(0, last)), "code")
    yield distractor(free.neuron(rng.randint(writer, last)), "signal", rng.choice(list(emotions)))


def planted_edges(nodes: Sequence[PlantedNode]) -> tuple[PlantedEdge, ...]:
    """The connections among ``nodes``; none without a writer."""
    writer = next((node for node in nodes if node.role == "writer"), None)
    if writer is None:
        return ()
    backup = next((node for node in nodes if node.role == "backup"), None)
    readers = [node for node in nodes if node.role in ("relay", "inhibitor")]
    edges = [
        PlantedEdge("embed", writer.name, "v", 1, None, "asked"),
        PlantedEdge("embed", writer.name, "k", 1, None, "plain"),
        PlantedEdge(writer.name, "readout", "readout", 1, None, "asked"),
    ]
    for node in readers:
        edges.append(_to(node, writer, "asked"))
        sign = 1 if node.strength > 0 else -1
        edges.append(PlantedEdge(node.name, "readout", "readout", sign, node.emotion, "asked"))
    if backup is not None:
        edges.append(PlantedEdge("embed", backup.name, "v", 1, None, "ablated"))
        edges.append(PlantedEdge(writer.name, backup.name, "q", -1, None, "plain"))
        edges += [_to(node, backup, "ablated") for node in readers if _is_after(node, backup)]
    return tuple(edges)


def _to(reader: PlantedNode, source: PlantedNode, when: When) -> PlantedEdge:
    kind, sign = ("v" if reader.kind == "head" else "mlp"), (1 if reader.strength > 0 else -1)
    return PlantedEdge(source.name, reader.name, kind, sign, reader.emotion, when)


def _is_after(reader: PlantedNode, head: PlantedNode) -> bool:
    # The MLP of a layer reads what its heads have written; the heads of a layer do not.
    return reader.layer > head.layer or (reader.layer == head.layer and reader.kind == "neuron")


def _place(name: str) -> tuple[int, int]:
    part = component(name)
    assert part.layer is not None
    assert part.index is not None
    return part.layer, part.index


class _Free:
    """Heads and neurons that nothing has been given to."""

    def __init__(self, rng: random.Random, n_heads: int, d_mlp: int) -> None:
        self._rng, self._heads, self._neurons = rng, n_heads, d_mlp
        self._taken: set[str] = set()

    def head(self, layer: int) -> str:
        return self._take([head_name(layer, head) for head in range(self._heads)])

    def neuron(self, layer: int) -> str:
        return self._take([neuron_name(layer, neuron) for neuron in range(self._neurons)])

    def _take(self, names: list[str]) -> str:
        name = self._rng.choice([name for name in names if name not in self._taken])
        self._taken.add(name)
        return name
