"""Where in a run folder the stages write, and the results that are measured beside them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from circuits.files import read_json, write_json
from circuits.locks import held
from circuits.pipeline.plan import Stage

if TYPE_CHECKING:
    from circuits.pipeline.study import Study

__all__ = [
    "BESIDE",
    "MADE_FROM",
    "PLACES",
    "beside",
    "is_there",
    "journals",
    "made_beside",
    "read_made_from",
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
    "importance": ("importance", "effects/plain_means"),
    "circuits": ("circuits", "effects/direct", "effects/totals", "export"),
    "scores": ("scores", "scores.json"),
    "control": ("control.json", "control_replies.jsonl", "control"),
    "report": ("report.html",),
}
"""Stage -> the files and folders that it writes; scores and paths also write into circuits."""
_MAY_LACK = ("effects/written_means", "control")
"""Those that a plan may not ask for."""

BESIDE: Mapping[str, str] = {
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
    for name, pattern in BESIDE.items():
        found = [place for place in sorted(folder.glob(pattern)) if place.is_dir()]
        begun = [folder / pattern] if not found and journals(folder, name) else []
        yield from ((name, place) for place in [*found, *begun])


def journals(folder: Path, name: str) -> list[Path]:
    """Of something that is measured beside the stages: where its finished batches wait."""
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


def read_made_from(place: Path) -> dict[str, str] | None:
    """Stages and keys from which a result beside was made; None if it is not whole."""
    path = place / MADE_FROM
    return read_json(path) if path.is_file() else None
