"""What a model's emotions were found to be made of, and the edits that write it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from circuits.control.modulation import (
    Along,
    Driving,
    How,
    Modulation,
    Steering,
    blend,
    drive,
    enhance,
    random_like,
    steer,
)
from circuits.errors import CircuitError
from circuits.graph.circuit import Circuit
from circuits.graph.core import core
from circuits.measure.directions import Directions
from circuits.measure.means import ComponentMeans, Differences
from circuits.model.edits import Add

__all__ = ["Tools"]


@dataclass(frozen=True, eq=False)
class Tools:
    """Circuits, differences and directions, made from other contexts than they are used on."""

    circuits: Mapping[str, Circuit]
    differences: Differences
    directions: Directions
    parts: tuple[int, int] | None = None
    """Heads and neurons of a circuit that are written: its strongest ones; all by default."""
    others: Mapping[Along, Directions] = field(default_factory=dict)
    """Further directions to steer along."""
    neurons: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """Emotion -> (layer, neuron) of those that induction drives."""
    means: ComponentMeans | None = None
    """What induction drives them with."""

    def edits(self, how: How) -> list[list[Add]]:
        """Edits of every emotion.

        Raises:
            CircuitError: what ``how`` needs is not among the tools.
        """
        if isinstance(how, Modulation):
            return self.modulate(how)
        return self.steer(how) if isinstance(how, Steering) else self.drive(how)

    def written(self, how: Modulation) -> dict[str, Circuit]:
        """The part of every emotion's circuit that is written."""
        if self.parts is None:
            return dict(self.circuits)
        return {e: core(c, *self.parts, how.order) for e, c in self.circuits.items()}

    def modulate(self, how: Modulation) -> list[list[Add]]:
        """Edits of every emotion's circuit."""
        return [enhance(c, self.differences, how) for c in self.written(how).values()]

    def modulate_randomly(
        self, how: Modulation, seed: int, *, same_layers: bool
    ) -> list[list[Add]]:
        """Edits of a random circuit of the same size for every emotion."""
        drawn = [
            random_like(circuit, self.differences, seed=seed, same_layers=same_layers)
            for circuit in self.written(how).values()
        ]
        return [enhance(circuit, self.differences, how) for circuit in drawn]

    def blend(self, how: Modulation, weights: Mapping[str, float]) -> list[Add]:
        """Edits of several emotions' circuits at once."""
        return blend(self.written(how), self.differences, weights, how)

    def steer(self, how: Steering) -> list[list[Add]]:
        """Edits of every emotion's direction."""
        directions = {"others": self.directions, **self.others}.get(how.along)
        if directions is None:
            raise CircuitError(f"there are no directions along {how.along!r}; make them first")
        return [steer(directions, emotion, how) for emotion in self.circuits]

    def drive(self, how: Driving) -> list[list[Add]]:
        """Edits of every emotion's neurons."""
        if self.means is None:
            raise CircuitError("there are no mean activations to drive neurons with")
        return [drive(self.neurons[e], self.means, e, how) for e in self.circuits]
