"""Paths between the components of a circuit, written into its graph.

Attribution chooses the strongest paths, patching confirms them. A path whose 95% interval holds
zero, or does not lie beyond the control (a sender that changes by as much in a random direction),
is kept and marked as not causal.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite

from circuits.errors import CircuitError
from circuits.graph.circuit import Circuit, Edge, Node, Via
from circuits.measure.exact_paths import ExactPaths, edge_name
from circuits.measure.paths import PathEffects
from circuits.names import component, receiver

__all__ = ["connect", "strongest_paths"]


def strongest_paths(circuit: Circuit, effects: PathEffects, keep: int) -> list[tuple[str, str]]:
    """(sender, receiver) of the ``keep`` largest |attributions| among the circuit's own nodes.

    Raises:
        CircuitError: the attributions are another emotion's.
    """
    _check(circuit, effects.emotion)
    found = list(dict.fromkeys((sender, reader) for sender, reader, _ in _own(circuit, effects)))
    size = {
        (sender, reader): abs(effects.at("mean", sender=sender, receiver=reader))
        for sender, reader in found
    }
    return sorted(found, key=lambda path: -size[path])[:keep]


def connect(
    circuit: Circuit, effects: PathEffects, exact: ExactPaths | None = None, *, keep: int = 100
) -> Circuit:
    """The circuit with its strongest paths as edges, in place of any paths that it had.

    A path into the keys or values of a key-value group becomes an edge to each head of the group
    that the circuit holds, since each of them reads the group. Weights of paths from or to a
    neuron are part of those of its MLP.

    Args:
        circuit: Its nodes are joined.
        effects: Attributions, of the same emotion.
        exact: Patched paths, where they were patched; of the same emotion and mode.
        keep: How many paths.

    Raises:
        CircuitError: attributions or patched paths are another emotion's, or of other runs.
    """
    chosen = set(strongest_paths(circuit, effects, keep))
    if exact is not None:
        _check(circuit, exact.emotion)
        if (exact.mode, exact.other, exact.readout) != (
            effects.mode, effects.other, effects.readout,
        ):  # fmt: skip
            raise CircuitError(
                "attributions and patched paths are of other runs: "
                f"{effects.mode} against {effects.other or 'plain'} ({effects.readout}), and "
                f"{exact.mode} against {exact.other or 'plain'} ({exact.readout})"
            )
    edges = [
        _edge(sender, reader, node, effects, exact)
        for sender, reader, node in _own(circuit, effects)
        if (sender, reader) in chosen
    ]
    others = [edge for edge in circuit.edges if edge.kind != "path"]
    return replace(circuit, edges=(*others, *edges))


def _check(circuit: Circuit, emotion: str) -> None:
    if emotion != circuit.emotion:
        raise CircuitError(
            f"the paths are those of {emotion!r}, the circuit is that of {circuit.emotion!r}"
        )


def _own(circuit: Circuit, effects: PathEffects) -> Iterator[tuple[str, str, Node]]:
    """Sender, receiver and the receiver's node, for every path between nodes of the circuit."""
    senders = {name: i for i, name in enumerate(effects.sender)}
    receivers = {name: i for i, name in enumerate(effects.receiver)}
    share = _heads_per_group(effects)
    starts = [node.id for node in circuit.nodes if node.id in senders]
    for node in circuit.nodes:
        for reader in _inputs(node, share):
            if reader not in receivers:
                continue
            for sender in starts:
                if bool(effects.exists[senders[sender], receivers[reader]]):
                    yield sender, reader, node


def _inputs(node: Node, share: int) -> tuple[str, ...]:
    part = component(node.id)
    if part.kind == "head" and part.index is not None:
        group = f"L{part.layer}G{part.index // share}"
        return f"{node.id}.q", f"{group}.k", f"{group}.v"
    return () if part.kind == "embed" or node.id.endswith(".attn") else (node.id,)


def _heads_per_group(effects: PathEffects) -> int:
    ends = [receiver(name) for name in effects.receiver]
    heads, groups = (sum(end.via == via and end.layer == 0 for end in ends) for via in "qk")
    return heads // groups


def _edge(
    sender: str, reader: str, node: Node, effects: PathEffects, exact: ExactPaths | None
) -> Edge:
    def attributed(name: str) -> float:
        return effects.at(name, sender=sender, receiver=reader)

    via: Via = receiver(reader).via  # type: ignore[assignment]
    weight, stderr, control = (attributed(name) for name in ("mean", "stderr", "control"))
    name = edge_name(sender, reader)
    measured, error = None, None
    if exact is not None and name in exact.edge:
        place = exact.edge.index(name)
        measured, error = float(exact.mean[place]), float(exact.stderr[place])
    # Exact is what counts; where a path was not patched, attribution is all there is.
    shown = (weight, stderr) if measured is None or error is None else (measured, error)
    return Edge(
        sender, node.id, "path", weight, via, stderr if isfinite(stderr) else None, control,
        measured, error if error is not None and isfinite(error) else None,
        _beats(*shown, control),
    )  # fmt: skip


def _beats(value: float, stderr: float, control: float) -> bool | None:
    """Does the whole interval lie beyond the control? Not known from one context."""
    return abs(value) - 1.96 * stderr > control if isfinite(stderr) else None
