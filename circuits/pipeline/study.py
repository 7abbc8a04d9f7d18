"""A run folder, opened: every record that the stages have left."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from circuits.errors import RunError
from circuits.export.formats import file_stem
from circuits.export.node_link import read_circuit
from circuits.files import is_file, read_json, write_json
from circuits.graph.circuit import Circuit
from circuits.graph.same_model import check_same_model
from circuits.graph.scores import CircuitScores
from circuits.measure.direct import DirectEffects
from circuits.measure.directions import Directions
from circuits.measure.generality import Generality
from circuits.measure.heads import HeadEffects
from circuits.measure.importance import Importance
from circuits.measure.means import ComponentMeans, PlainMeans
from circuits.measure.neurons import NeuronEffects
from circuits.measure.totals import TotalEstimates
from circuits.pipeline.keys import dependents
from circuits.pipeline.places import MADE_FROM, beside, read_made_from
from circuits.pipeline.plan import STAGES, Stage
from circuits.records import Record

if TYPE_CHECKING:
    from circuits.data.replies import Judged

__all__ = ["TIMINGS", "Study"]

TIMINGS = "timings.json"
"""Wall-clock seconds: the one file in which two runs of one plan differ."""

_MUCH = 10**18
"""More than anything in a log counts."""

R = TypeVar("R", bound=Record)


class Study:
    """Read what a run has written; nothing is computed here.

    Raises:
        RunError: the folder is no run, or the stage that writes what is asked for has not run.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not is_file(self.folder / "run.json"):
            raise RunError(
                f"{folder} is no run folder (it holds no run.json); "
                "make one with `emotion-circuits run`"
            )

    @property
    def log(self) -> dict[str, Any]:
        """The run's plan, and per finished stage its key, what that is made of, and its receipt."""
        return _read_log(self.folder / "run.json")

    @property
    def seconds(self) -> dict[str, float]:
        """Finished stage -> how long it took; kept apart from all that two runs have in common."""
        path = self.folder / TIMINGS
        found = read_json(path) if path.is_file() else {"stages": {}}
        stages = found.get("stages") if isinstance(found, dict) else None
        if not isinstance(stages, dict) or not all(map(_is_number, stages.values())):
            raise RunError(f"{path}: expected seconds of stages; delete the file")
        return stages

    @property
    def keys(self) -> dict[str, str]:
        """Finished stage -> its key."""
        return {stage: entry["key"] for stage, entry in self.log["stages"].items()}

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions of the run."""
        return tuple(self.log["plan"].get("emotions", ()))

    def begin(self, stage: Stage) -> None:
        """Note that a stage is about to write: it and all that is made from it count as undone."""
        undone = (stage, *dependents(stage))
        for _, place in beside(self.folder):
            if {*(read_made_from(place) or ())} & {*undone}:
                (place / MADE_FROM).unlink()
        log = self.log
        kept = {name: own for name, own in log["stages"].items() if name not in undone}
        if kept != log["stages"]:
            write_json(self.folder / "run.json", {**log, "stages": kept})

    def finish(self, stage: Stage, entry: Mapping[str, Any], seconds: float) -> None:
        """Note that a stage is done, and how long it took."""
        log = self.log
        done = {**log["stages"], stage: dict(entry)}
        stages = {name: done[name] for name in STAGES if name in done}
        took = {**self.seconds, stage: round(seconds, 2)}
        took = {name: took[name] for name in stages if name in took}
        write_json(self.folder / TIMINGS, {"stages": took})
        write_json(self.folder / "run.json", {**log, "stages": stages})

    @cached_property
    def directions(self) -> Directions:
        """Emotion directions."""
        return self._load(Directions, "directions", "directions")

    @cached_property
    def generality(self) -> Generality:
        """How far the directions hold beyond their contexts."""
        return self._load(Generality, "generality", "effects")

    @cached_property
    def heads(self) -> HeadEffects:
        """Effects of heads."""
        return self._load(HeadEffects, "effects/heads", "effects")

    @cached_property
    def neurons(self) -> NeuronEffects:
        """Effects of neurons."""
        return self._load(NeuronEffects, "effects/neurons", "effects")

    @cached_property
    def means(self) -> ComponentMeans:
        """Mean head outputs and neuron activations of every emotion."""
        return self._load(ComponentMeans, "effects/means", "effects")

    @cached_property
    def written_means(self) -> ComponentMeans:
        """The means from which modulation's differences are made, where they were read apart."""
        place = "effects/written_means"
        if not (self.folder / place).is_dir():
            return self.means
        return self._load(ComponentMeans, place, "effects")

    @cached_property
    def plain_means(self) -> PlainMeans:
        """The same of plain prompts."""
        return self._load(PlainMeans, "effects/plain_means", "importance")

    @cached_property
    def importance(self) -> Importance:
        """Importance of sublayers."""
        return self._load(Importance, "importance", "importance")

    @cached_property
    def direct(self) -> DirectEffects:
        """Direct effects on the readout."""
        return self._load(DirectEffects, "effects/direct", "circuits")

    @cached_property
    def totals(self) -> TotalEstimates:
        """Estimated total effects of heads and neurons."""
        return self._load(TotalEstimates, "effects/totals", "circuits")

    @cached_property
    def circuits(self) -> dict[str, Circuit]:
        """The circuit of every emotion.

        Raises:
            CircuitError: a file is of another model than the run.
        """
        self._need("circuits")
        found = {e: read_circuit(self.circuit_path(e)) for e in self.emotions}
        # Imported results name no model of their own beside the circuits.
        known = found if "directions" in self.keys else {}
        for emotion, circuit in known.items():
            check_same_model(
                str(self.circuit_path(emotion)), circuit.provenance.model,
                self.directions.provenance.model,
                otherwise="put the run's own circuit there, which --stages circuits makes again",
            )  # fmt: skip
        return found

    @cached_property
    def scores(self) -> dict[str, CircuitScores]:
        """Scores of every circuit on held-out contexts."""
        self._need("scores")
        path = self.folder / "scores" / "details.json"
        found = read_json(path)
        try:
            return {e: CircuitScores.from_json(found[e]) for e in self.emotions}
        except (LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{path} holds no scores of this run ({error}); score again") from error

    @property
    def control(self) -> dict[str, Any]:
        """What the control stage measured."""
        self._need("control")
        return read_json(self.folder / "control.json")

    @property
    def replies_path(self) -> Path:
        """Where the control stage keeps the replies of all methods on the test contexts."""
        return self.folder / "control_replies.jsonl"

    def journal_path(self, work: str) -> Path:
        """Where a stage, or another piece of work, keeps what it has finished until it is done."""
        return self.folder / ".resume" / f"{work}.jsonl"

    @property
    def elicitation(self) -> dict[str, Any]:
        """Accuracy of the prompted replies on the train contexts."""
        self._need("judgements")
        return read_json(self.folder / "elicitation" / "accuracy_stats.json")

    @cached_property
    def accepted(self) -> "list[Judged]":
        """Replies that were judged to express what was asked."""
        from circuits.data.replies import read_judged

        self._need("judgements")
        return read_judged(self.folder / "elicitation" / "accepted.jsonl")

    def circuit_path(self, emotion: str) -> Path:
        """Where the circuit of an emotion is.

        Raises:
            RunError: the run has no such emotion.
        """
        if emotion not in self.emotions:
            raise RunError(
                f"{self.folder} has no emotion {emotion!r}; it has {', '.join(self.emotions)}"
            )
        return self.folder / "circuits" / f"{file_stem(emotion)}.json"

    def _load(self, kind: type[R], place: str, stage: Stage) -> R:
        self._need(stage)
        return kind.load(self.folder / place)

    def _need(self, stage: Stage) -> None:
        if stage not in self.log["stages"]:
            done = ", ".join(self.log["stages"]) or "none"
            raise RunError(
                f"{self.folder}: stage {stage!r} has not run (finished: {done}); "
                "run `emotion-circuits run` with the same options to go on"
            )


def _read_log(path: Path) -> dict[str, Any]:
    found = read_json(path)
    plan, stages = (
        found.get(name) if isinstance(found, dict) else None for name in ("plan", "stages")
    )
    emotions = plan.get("emotions", []) if isinstance(plan, dict) else None
    if not isinstance(emotions, list) or not all(isinstance(own, str) for own in emotions):
        raise RunError(f"{path}: expected a plan with its emotions; make the run again")
    entries = stages.values() if isinstance(stages, dict) else (None,)
    if not all(map(_is_entry, entries)):
        raise RunError(f"{path}: expected stages, each with its key and counts; make the run again")
    return found


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        return False
    receipt = value.get("receipt", {})
    return isinstance(receipt, dict) and all(map(_is_number, receipt.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MUCH
