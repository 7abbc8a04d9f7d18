"""Paths of the circuits of a finished run: measured, confirmed, written into the circuits."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from circuits.data import sev
from circuits.data.sev import Context
from circuits.errors import RunError
from circuits.export.formats import export_circuit, file_stem
from circuits.export.node_link import write_circuit
from circuits.files import digest, write_json
from circuits.graph.circuit import Circuit
from circuits.graph.connect import connect, strongest_paths
from circuits.measure.cases import Mode
from circuits.measure.exact_paths import exact_cost, exact_paths
from circuits.measure.pairs import Pair, make_pairs
from circuits.measure.path_agreement import path_agreement, sample_paths
from circuits.measure.paths import PathMethod, path_cost, path_effects
from circuits.measure.readouts import Projection
from circuits.model.loading import describe_model
from circuits.model.protocol import Model
from circuits.model.receipts import Cost
from circuits.pipeline.places import made_beside
from circuits.pipeline.study import Study
from circuits.pipeline.work import Reporter, Run, Silent, plan_of
from circuits.provenance import Provenance, versions

__all__ = ["PathOptions", "PathStudy"]


@dataclass(frozen=True)
class PathOptions:
    """How paths are measured.

    Raises:
        RunError: a number is too small.
    """

    other: str | None = None
    """The emotion of the corrupt prompts; plain prompts by default."""
    method: PathMethod = "eap"
    steps: int = 5
    mode: Mode = "noising"
    split: Literal["test", "dev"] = "test"
    contexts: int = 12
    keep: int = 60
    """Paths written into a circuit; all of them are patched."""
    sample: int = 60
    """Paths drawn at random and patched, to say how far attribution can be trusted."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("contexts", 1), ("keep", 1), ("sample", 3)):
            if getattr(self, name) < least:
                found = getattr(self, name)
                raise RunError(f"--{name}: {found} is too few; give {least} or more")


class PathStudy:
    """A finished run, opened again to measure paths.

    Raises:
        RunError: the folder is no run, is an imported one, or lacks a stage.
    """

    def __init__(
        self, folder: Path, options: PathOptions, reporter: Reporter | None = None
    ) -> None:
        self.study, self.options = Study(folder), options
        self._run = Run(plan_of(self.study), self.study, reporter or Silent())
        self._circuits = self.study.circuits

    def cost(self, emotion: str) -> Mapping[str, Cost]:
        """What :meth:`measure` will run; of patching the most that it can be."""
        pairs, own = self._pairs(emotion), self.options
        edges = [("embed", "L0H0.q")] * (own.keep + own.sample)
        return {
            "attribution": path_cost(
                self.model, pairs, method=own.method, steps=own.steps, mode=own.mode
            ),
            "patching (at most)": exact_cost(
                self.model, pairs, self._readout(emotion), edges, mode=own.mode
            ),
        }

    def measure(self, emotion: str) -> tuple[Circuit, Mapping[str, Any]]:
        """Measure and patch the paths of one emotion; write records, circuit and exports.

        Returns:
            The circuit with its paths, and what is said of them in ``paths.json``.
        """
        own, circuit, pairs = self.options, self._circuit(emotion), self._pairs(emotion)
        readout = self._readout(emotion)
        effects = path_effects(
            self.model, pairs, readout, self._provenance, method=own.method, steps=own.steps,
            mode=own.mode, neurons=circuit.neurons, positions=True, seed=own.seed,
        )  # fmt: skip
        sample = sample_paths(effects, own.sample, seed=own.seed)
        edges = list(dict.fromkeys([*strongest_paths(circuit, effects, own.keep), *sample]))
        exact = exact_paths(self.model, pairs, readout, self._provenance, edges, mode=own.mode)
        connected = connect(circuit, effects, exact, keep=own.keep)
        said = {
            "options": asdict(own),
            "agreement": path_agreement(effects, exact, sample),
            "gap": effects.gap,
            "paths": len(connected.paths),
            "causal": sum(edge.causal is True for edge in connected.paths),
            "receipts": {"attribution": dict(effects.receipt), "patching": dict(exact.receipt)},
        }
        place = self.study.folder / "paths" / file_stem(emotion)
        with made_beside(self.study, place, ("circuits",)):
            effects.save(place / "attribution")
            exact.save(place / "patching")
            write_json(place / "paths.json", said)
            write_circuit(connected, self.study.circuit_path(emotion))
            export_circuit(connected, self.study.folder / "export")
        return connected, said

    @property
    def model(self) -> Model:
        """The run's model."""
        return self._run.model

    @cached_property
    def _contexts(self) -> Sequence[Context]:
        """Contexts that nothing of the circuits was made from, evenly over the split."""
        plan = self._run.plan
        if self.options.split == "dev":
            scenarios = self._run.dev
        else:
            scenarios = sev.read(plan.test)
            if plan.test_scenarios:
                scenarios = sev.spread(scenarios, plan.test_scenarios)
        every = sev.contexts(scenarios)
        if self.options.contexts > len(every):
            raise RunError(
                f"--contexts: asked for {self.options.contexts}, the {self.options.split} split of "
                f"{self.study.folder} has {len(every)}"
            )
        count = self.options.contexts
        return [every[i * len(every) // count] for i in range(count)]

    @property
    def _provenance(self) -> Provenance:
        data = digest(self._run.plan.test if self.options.split == "test" else self._run.plan.data)
        return Provenance(describe_model(self.model), data, asdict(self.options), versions())

    def _circuit(self, emotion: str) -> Circuit:
        self.study.circuit_path(emotion)  # refuses an emotion that the run lacks
        return self._circuits[emotion]

    def _pairs(self, emotion: str) -> list[Pair]:
        self._circuit(emotion)
        if self.options.other == emotion:
            raise RunError(f"--against: {emotion!r} is the emotion itself; name another, or plain")
        return make_pairs(self.model, self._contexts, emotion, self.options.other)

    def _readout(self, emotion: str) -> Projection:
        importance = self.study.importance
        place = importance.index("emotion", emotion)
        return Projection(importance.reference[place], site=importance.read_at)
