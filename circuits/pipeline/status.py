"""What there is of a run: which stages are done, which are out of date and why, what goes on."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from circuits.locks import holder
from circuits.pipeline.keys import NEEDS, Kind, changes, key_of, made_of
from circuits.pipeline.places import PLACES, beside, is_there, journals, read_made_from
from circuits.pipeline.plan import STAGES, Plan, Stage
from circuits.pipeline.study import Study

__all__ = ["Beside", "RunStatus", "StageStatus", "State", "run_status"]

State = Literal["done", "not run", "stale"]


@dataclass(frozen=True)
class StageStatus:
    """What there is of one stage."""

    stage: Stage
    state: State
    why: tuple[str, ...]
    """What changed since; empty unless it is stale."""
    only_code: bool
    """Is it stale for nothing but changes of code?"""
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
    """Folder of it, such as ``patching/anger-plain``."""
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
    standing = _imported(study) if plan is None else _standing(study, plan)
    stages = tuple(_stage(study, stage, *standing[stage]) for stage in STAGES)
    results = tuple(_beside(study, name, place) for name, place in beside(study.folder))
    return RunStatus(str(study.folder), stages, results, holder(study.folder))


_Standing = tuple[State, dict[Kind, list[str]]]


def _imported(study: Study) -> dict[Stage, _Standing]:
    done = study.log["stages"]
    return {stage: ("done" if stage in done else "not run", {}) for stage in STAGES}


def _standing(study: Study, plan: Plan) -> dict[Stage, _Standing]:
    done, found = study.log["stages"], dict[Stage, _Standing]()
    for stage in STAGES:
        before = done.get(stage)
        if before is None:
            found[stage] = "not run", {}
            continue
        made = made_of(plan, stage, study.keys)
        if not is_there(study.folder, stage):
            found[stage] = "stale", {"files": ["its files are gone"]}
        elif before["key"] != key_of(made):
            found[stage] = "stale", _changed(before.get("made_of"), made)
        else:
            again = [f"{need} is to be made again" for need in NEEDS[stage] if _open(found[need])]
            found[stage] = ("stale", {"needs": again}) if again else ("done", {})
    return found


def _changed(
    before: Mapping[str, Any] | None, made: Mapping[Kind, Mapping[str, Any]]
) -> dict[Kind, list[str]]:
    return {"options": ["made by an earlier version"]} if before is None else changes(before, made)


def _open(standing: _Standing) -> bool:
    return standing[0] != "done"


def _stage(study: Study, stage: Stage, state: State, why: Mapping[Kind, list[str]]) -> StageStatus:
    receipt = study.log["stages"].get(stage, {}).get("receipt", {})
    return StageStatus(
        stage=stage,
        state=state,
        why=tuple(each for kind in why for each in why[kind]),
        only_code=state == "stale" and set(why) == {"code"},
        seconds=study.seconds.get(stage),
        passes=receipt.get("passes"),
        size=sum(map(_size, _places(study.folder, stage))),
        waiting=_waiting(study.journal_path(stage)),
    )


def _places(folder: Path, stage: Stage) -> Iterator[Path]:
    return (folder / place for place in PLACES[stage])


def _beside(study: Study, name: str, place: Path) -> Beside:
    own, keys = read_made_from(place), study.keys
    why: tuple[str, ...] = ()
    if own is None:
        why = ("not finished, or what it was made from is older than the run",)
    else:
        why = tuple(f"{stage} was made again" for stage in own if keys.get(stage) != own[stage])
    shown = str(place.relative_to(study.folder))
    waiting = sum(map(_waiting, journals(study.folder, name)))
    return Beside(shown, "stale" if why else "fresh", why, _size(place), waiting)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(own.stat().st_size for own in path.rglob("*") if own.is_file())
    return path.stat().st_size if path.is_file() else 0


def _waiting(path: Path) -> int:
    # One line says for which stage it is; a line without an end was being written.
    return max(0, path.read_bytes().count(b"\n") - 1) if path.is_file() else 0
