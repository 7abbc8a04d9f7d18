"""A run folder: the records that the stages left, and what is out of date."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from circuits.circuit.circuit import Circuit, CircuitScores, check_same_model
from circuits.effects.activations import ComponentMeans, NeutralMeans
from circuits.effects.directions import Directions, Generality
from circuits.effects.heads import HeadEffects
from circuits.effects.importance import Importance
from circuits.effects.neurons import DirectEffects, NeuronEffects
from circuits.errors import RunError
from circuits.export import file_stem
from circuits.export.node_link import read_circuit
from circuits.files import held, holder, is_file, read_json, resolved, write_json
from circuits.patching.totals import TotalEstimates
from circuits.records import Record
from circuits.runs.keys import NEEDS, PLACES, changes, dependents, key_of, made_of
from circuits.runs.plan import RENAMED_VALUES, STAGES, Plan, Stage

if TYPE_CHECKING:
    from circuits.judges.replies import Judged

__all__ = [
    "MADE_FROM",
    "Beside",
    "RunStatus",
    "StageStatus",
    "State",
    "Study",
    "beside",
    "digest_of",
    "is_there",
    "made_beside",
    "run_status",
]

_MAY_LACK = ("effects/written_means", "steering")
"""What a stage writes only if the plan asks for it."""
_BESIDE: Mapping[str, str] = {
    "validation": ".resume/validate.jsonl",
    "patching/*": "",
    "paths/*": "",
    "neurons": "neurons/**/.resume/*.jsonl",
}
"""Folders of what is measured beside the stages -> journals of what is finished until they are
whole."""
MADE_FROM: Final = "made_from.json"
"""In each of them, once it is whole: the stages it was made from, and their keys."""


def is_there(folder: Path, stage: Stage) -> bool:
    """Is everything there that the stage always writes?"""
    return all((folder / own).exists() for own in PLACES[stage].split() if own not in _MAY_LACK)


def beside(folder: Path) -> Iterator[tuple[Path, int]]:
    """What was measured beside the stages, or begun, and how many batches of it wait."""
    for pattern, journals in _BESIDE.items():
        waiting = sum(map(_waiting, folder.glob(journals))) if journals else 0
        found = [place for place in sorted(folder.glob(pattern)) if place.is_dir()]
        yield from ((own, waiting) for own in found or ([folder / pattern] if waiting else []))


@contextmanager
def made_beside(study: "Study", place: Path, stages: Sequence[Stage]) -> Iterator[None]:
    """Write into ``place``, and note from which stages' results, once it is whole.

    Raises:
        RunError: another process writes into the run folder.
    """
    with held(study.folder):
        (place / MADE_FROM).unlink(missing_ok=True)
        yield
        keys = study.keys
        write_json(place / MADE_FROM, {own: keys[own] for own in stages if own in keys})


def _made_from(place: Path) -> dict[str, str] | None:
    """Stages and keys from which a result beside was made; None if it is not whole."""
    path = place / MADE_FROM
    return read_json(path) if path.is_file() else None


_TIMINGS = "timings.json"
"""Wall-clock seconds: the one file in which two runs of one plan differ."""

_Amount = Annotated[float, Field(strict=True, ge=0, lt=10**18)]


class _Plan(BaseModel):
    emotions: list[str] = []


class _Entry(BaseModel):
    key: str
    made_of: dict[str, dict[str, Any]] | None = None
    receipt: dict[str, _Amount] = {}


class _Log(BaseModel):
    """``run.json``; a plan says more, which whoever needs it reads with :class:`Plan`."""

    plan: _Plan
    stages: dict[str, _Entry]


class _Timings(BaseModel):
    stages: dict[str, _Amount]


def _read_as(kind: type[BaseModel], path: Path, otherwise: str) -> dict[str, Any]:
    found = read_json(path)
    try:
        kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise RunError(f"{path}: {place}: {first['msg']}; {otherwise}") from error
    return found


R = TypeVar("R", bound=Record)


def _saved(kind: type[R], place: str, stage: Stage) -> cached_property[R]:
    """A record of a run, read when it is asked for."""

    def load(study: "Study") -> R:
        study._need(stage)
        return kind.load(study.folder / place)

    return cached_property(load)


class Study:
    """Read what a run has written; nothing is computed here.

    Raises:
        RunError: the folder is no run, or the stage that writes what is asked for has not run.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = resolved(folder)
        if not is_file(self.folder / "run.json"):
            raise RunError(
                f"{folder} is no run folder (it holds no run.json); "
                "make one with `emotion-circuits run`"
            )

    @property
    def log(self) -> dict[str, Any]:
        """The run's plan, and per finished stage its key, what that is made of, and its receipt."""
        found = _read_as(_Log, self.folder / "run.json", "make the run again")
        for stage in found["stages"]:
            if stage not in STAGES:
                now = RENAMED_VALUES.get(("stages", stage))
                what = f"is now called {now!r}" if now else "is not known"
                raise RunError(
                    f"{self.folder} was made by another version: its stage {stage!r} {what}; "
                    "make the run again in another folder"
                )
        return found

    @property
    def seconds(self) -> dict[str, float]:
        """Finished stage -> how long it took; kept apart from all that two runs have in common."""
        path = self.folder / _TIMINGS
        return _read_as(_Timings, path, "delete the file")["stages"] if path.is_file() else {}

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
        undone = {stage, *dependents(stage)}
        for place, _ in beside(self.folder):
            if {*(_made_from(place) or ())} & undone:
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
        write_json(self.folder / _TIMINGS, {"stages": took})
        write_json(self.folder / "run.json", {**log, "stages": stages})

    directions = _saved(Directions, "directions", "directions")
    """Emotion directions."""
    generality = _saved(Generality, "generality", "effects")
    """How far the directions hold beyond their contexts."""
    heads = _saved(HeadEffects, "effects/heads", "effects")
    """Effects of heads."""
    neurons = _saved(NeuronEffects, "effects/neurons", "effects")
    """Effects of neurons."""
    means = _saved(ComponentMeans, "effects/means", "effects")
    """Mean head outputs and neuron activations of every emotion."""
    neutral_means = _saved(NeutralMeans, "effects/neutral_means", "importance")
    """The same of neutral prompts."""
    importance = _saved(Importance, "importance", "importance")
    """Importance of sublayers."""
    direct = _saved(DirectEffects, "effects/direct", "circuits")
    """Direct effects on the readout."""
    totals = _saved(TotalEstimates, "effects/totals", "circuits")
    """Estimated total effects of heads and neurons."""

    @cached_property
    def written_means(self) -> ComponentMeans:
        """The means from which modulation's differences are made, where they were read apart."""
        self._need("effects")
        place = self.folder / "effects" / "written_means"
        return ComponentMeans.load(place) if place.is_dir() else self.means

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
                str(self.circuit_path(emotion)),
                circuit.provenance.model,
                self.directions.provenance.model,
                otherwise="put the run's own circuit there, which --stages circuits makes again",
            )
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
    def steering(self) -> dict[str, Any]:
        """What the steering stage measured."""
        self._need("steering")
        return read_json(self.folder / "steering.json")

    @property
    def replies_path(self) -> Path:
        """Where the steering stage keeps the replies of all methods on the test contexts."""
        return self.folder / "steering_replies.jsonl"

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
        from circuits.judges.replies import read_judged

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

    def _need(self, stage: Stage) -> None:
        if stage not in self.keys:
            raise RunError(
                f"{self.folder}: stage {stage!r} has not run (finished: "
                f"{', '.join(self.keys) or 'none'}); run `emotion-circuits run` with the same "
                "options to go on"
            )


State = Literal["done", "not run", "stale"]


@dataclass(frozen=True)
class StageStatus:
    """What there is of one stage."""

    stage: Stage
    state: State
    why: tuple[str, ...]
    """What changed since; empty unless it is stale."""
    seconds: float | None
    passes: int | None
    size: int
    """Bytes on disk."""
    waiting: int
    """Batches that were done when it was interrupted, and that will not be done again."""


@dataclass(frozen=True)
class Beside:
    """A result that was measured beside the stages, in a folder such as ``patching/anger-neutral``.

    The rest is as in :class:`StageStatus`.
    """

    name: str
    state: Literal["fresh", "stale"]
    why: tuple[str, ...]
    size: int
    waiting: int


@dataclass(frozen=True)
class RunStatus:
    """All of a run folder."""

    folder: str
    stages: tuple[StageStatus, ...]
    beside: tuple[Beside, ...]
    writer: str | None
    """The process that writes into it at this moment."""

    @property
    def to_do(self) -> tuple[Stage, ...]:
        """Stages that a run will do."""
        return tuple(own.stage for own in self.stages if own.state != "done")

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {**asdict(self), "to_do": list(self.to_do)}


def run_status(study: Study, plan: Plan | None = None) -> RunStatus:
    """Look at a run folder; nothing is written.

    Args:
        study: The run.
        plan: What a run is to be asked for; None for imported results, whose stages are what they
            are.
    """
    done, seconds, folder = study.log["stages"], study.seconds, study.folder
    stages, undone = list[StageStatus](), set[str]()
    for stage in STAGES:
        entry = done.get(stage)
        why = () if entry is None or plan is None else tuple(_stale(study, plan, stage, undone))
        state: State = "not run" if entry is None else "stale" if why else "done"
        undone |= {stage} if state != "done" else set()
        stages.append(
            StageStatus(
                stage,
                state,
                why,
                seconds.get(stage),
                (entry or {}).get("receipt", {}).get("passes"),
                sum(_size(folder / place) for place in PLACES[stage].split()),
                _waiting(study.journal_path(stage)),
            )
        )
    results = []
    for place, waiting in beside(folder):
        own, keys = _made_from(place), study.keys
        why = ("not finished, or what it was made from is older than the run",)
        if own is not None:
            why = tuple(f"{name} was made again" for name in own if keys.get(name) != own[name])
        name = str(place.relative_to(folder))
        results.append(Beside(name, "stale" if why else "fresh", why, _size(place), waiting))
    return RunStatus(str(folder), tuple(stages), tuple(results), holder(folder))


def _stale(study: Study, plan: Plan, stage: Stage, undone: set[str]) -> Iterator[str]:
    """Why a stage that was done has to be done again; nothing if it has not."""
    before, made = study.log["stages"][stage], made_of(plan, stage, study.keys)
    if not is_there(study.folder, stage):
        yield "its files are gone"
    elif before["key"] == key_of(made):
        yield from (f"{need} is to be made again" for need in NEEDS[stage] if need in undone)
    elif before.get("made_of") is None:
        yield "made by an earlier version"
    else:
        yield from changes(before["made_of"], made)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(own.stat().st_size for own in files if own.is_file())


def _waiting(path: Path) -> int:
    # One line says for which stage it is; a line without an end was being written.
    return max(0, path.read_bytes().count(b"\n") - 1) if path.is_file() else 0


def digest_of(value: object) -> str:
    """``sha256:`` of plain values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
