"""A run folder: where things are, the records that the stages left, and what is out of date."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
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
from circuits.runs.keys import NEEDS, changes, dependents, key_of, made_of
from circuits.runs.plan import RENAMED_VALUES, STAGES, Plan, Stage

if TYPE_CHECKING:
    from circuits.judges.replies import Judged

__all__ = [
    "MADE_FROM",
    "PLACES",
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

PLACES: Mapping[Stage, tuple[str, ...]] = {
    "replies": ("elicitation/generated.jsonl",),
    "judgements": (
        "elicitation/accepted.jsonl",
        "elicitation/rejected.jsonl",
        "elicitation/accuracy_stats.json",
    ),
    "directions": ("directions",),
    "effects": (
        "effects/heads",
        "effects/neurons",
        "effects/means",
        "effects/written_means",
        "generality",
    ),
    "importance": ("importance", "effects/neutral_means"),
    "circuits": ("circuits", "effects/direct", "effects/totals", "export"),
    "scores": ("scores", "scores.json"),
    "steering": ("steering.json", "steering_replies.jsonl", "steering"),
    "report": ("report.html",),
}
"""Stage -> the files and folders that it writes; scores and paths also write into circuits."""
_MAY_LACK = ("effects/written_means", "steering")
"""Those that a plan may not ask for."""

_BESIDE: Mapping[str, str] = {
    "validation": "validation",
    "patching": "patching/*",
    "paths": "paths/*",
    "neurons": "neurons",
}
"""What is measured beside the stages -> its folders."""
_JOURNALS = {"validation": ".resume/validate.jsonl", "neurons": "neurons/**/.resume/*.jsonl"}
"""Of these: where they keep what is finished until they are whole."""
MADE_FROM: Final = "made_from.json"
"""In each of them, once it is whole: the stages it was made from, and their keys."""


def is_there(folder: Path, stage: Stage) -> bool:
    """Is everything there that the stage always writes?"""
    return all((folder / place).exists() for place in PLACES[stage] if place not in _MAY_LACK)


def beside(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of everything that was measured beside the stages, or begun."""
    for name, pattern in _BESIDE.items():
        found = [place for place in sorted(folder.glob(pattern)) if place.is_dir()]
        begun = [folder / pattern] if not found and _journals(folder, name) else []
        yield from ((name, place) for place in [*found, *begun])


def _journals(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(_JOURNALS[name])) if name in _JOURNALS else []


@contextmanager
def made_beside(study: "Study", place: Path, stages: Sequence[Stage]) -> Iterator[None]:
    """Write into ``place``, and note from which stages' results, once it is whole.

    Raises:
        RunError: another process writes into the run folder.
    """
    with held(study.folder):
        (place / MADE_FROM).unlink(missing_ok=True)
        yield
        done = study.log["stages"]
        write_json(
            place / MADE_FROM, {stage: done[stage]["key"] for stage in stages if stage in done}
        )


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
    """``timings.json``."""

    stages: dict[str, _Amount]


def _read_as(kind: type[BaseModel], path: Path, otherwise: str) -> dict[str, Any]:
    """What a JSON file holds, if it is what the model says.

    Raises:
        RunError: it is not; names the file and the place.
    """
    found = read_json(path)
    try:
        kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise RunError(f"{path}: {place}: {first['msg']}; {otherwise}") from error
    return found


R = TypeVar("R", bound=Record)


class _Saved(cached_property[R]):
    """A record of a run, read when it is asked for."""

    def __init__(self, kind: type[R], place: str, stage: Stage) -> None:
        super().__init__(lambda study: study._load(kind, place, stage))


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
        if not path.is_file():
            return {}
        return _read_as(_Timings, path, "delete the file")["stages"]

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
            if {*(_made_from(place) or ())} & {*undone}:
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

    directions = _Saved(Directions, "directions", "directions")
    """Emotion directions."""
    generality = _Saved(Generality, "generality", "effects")
    """How far the directions hold beyond their contexts."""
    heads = _Saved(HeadEffects, "effects/heads", "effects")
    """Effects of heads."""
    neurons = _Saved(NeuronEffects, "effects/neurons", "effects")
    """Effects of neurons."""
    means = _Saved(ComponentMeans, "effects/means", "effects")
    """Mean head outputs and neuron activations of every emotion."""

    @cached_property
    def written_means(self) -> ComponentMeans:
        """The means from which modulation's differences are made, where they were read apart."""
        place = "effects/written_means"
        if not (self.folder / place).is_dir():
            return self.means
        return self._load(ComponentMeans, place, "effects")

    neutral_means = _Saved(NeutralMeans, "effects/neutral_means", "importance")
    """The same of neutral prompts."""
    importance = _Saved(Importance, "importance", "importance")
    """Importance of sublayers."""
    direct = _Saved(DirectEffects, "effects/direct", "circuits")
    """Direct effects on the readout."""
    totals = _Saved(TotalEstimates, "effects/totals", "circuits")
    """Estimated total effects of heads and neurons."""

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
    """A result that was measured beside the stages."""

    name: str
    """Folder of it, such as ``patching/anger-neutral``."""
    state: Literal["fresh", "stale"]
    why: tuple[str, ...]
    size: int
    waiting: int
    """Batches that were done when it was interrupted, and that will not be done again."""


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
    standing = _standing(study, plan)
    stages = tuple(_stage(study, stage, *standing[stage]) for stage in STAGES)
    results = tuple(_beside(study, name, place) for name, place in beside(study.folder))
    return RunStatus(str(study.folder), stages, results, holder(study.folder))


_Standing = tuple[State, tuple[str, ...]]


def _standing(study: Study, plan: Plan | None) -> dict[Stage, _Standing]:
    done, found = study.log["stages"], dict[Stage, _Standing]()
    for stage in STAGES:
        before = done.get(stage)
        if before is None or plan is None:
            found[stage] = "not run" if before is None else "done", ()
            continue
        made = made_of(plan, stage, study.keys)
        if not is_there(study.folder, stage):
            found[stage] = "stale", ("its files are gone",)
        elif before["key"] == key_of(made):
            open_needs = [need for need in NEEDS[stage] if found[need][0] != "done"]
            why = tuple(f"{need} is to be made again" for need in open_needs)
            found[stage] = "stale" if why else "done", why
        elif before.get("made_of") is None:
            found[stage] = "stale", ("made by an earlier version",)
        else:
            differ = changes(before["made_of"], made)
            found[stage] = "stale", tuple(chain.from_iterable(differ.values()))
    return found


def _stage(study: Study, stage: Stage, state: State, why: tuple[str, ...]) -> StageStatus:
    receipt = study.log["stages"].get(stage, {}).get("receipt", {})
    return StageStatus(
        stage=stage,
        state=state,
        why=why,
        seconds=study.seconds.get(stage),
        passes=receipt.get("passes"),
        size=sum(_size(study.folder / place) for place in PLACES[stage]),
        waiting=_waiting(study.journal_path(stage)),
    )


def _beside(study: Study, name: str, place: Path) -> Beside:
    own, keys = _made_from(place), study.keys
    why = ("not finished, or what it was made from is older than the run",)
    if own is not None:
        why = tuple(f"{stage} was made again" for stage in own if keys.get(stage) != own[stage])
    shown = str(place.relative_to(study.folder))
    waiting = sum(map(_waiting, _journals(study.folder, name)))
    return Beside(shown, "stale" if why else "fresh", why, _size(place), waiting)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(own.stat().st_size for own in path.rglob("*") if own.is_file())
    return path.stat().st_size if path.is_file() else 0


def _waiting(path: Path) -> int:
    # One line says for which stage it is; a line without an end was being written.
    return max(0, path.read_bytes().count(b"\n") - 1) if path.is_file() else 0


def digest_of(value: object) -> str:
    """``sha256:`` of plain values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
