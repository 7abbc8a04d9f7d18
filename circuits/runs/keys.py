"""What a stage's result depends on and where it is, and the key that sums it up.

A stage is made of its own options, the files that it reads, the model, the package's version, and
the keys of the stages that it needs. While its key is the same, so is its result.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from circuits.files import digest, exists, is_file, shipped
from circuits.models.load import EMBEDDED, folder_digest
from circuits.provenance import versions
from circuits.runs.plan import JUDGES, STAGES, Plan, Stage, judge_file

__all__ = ["NEEDS", "PLACES", "changes", "dependents", "key_of", "made_of", "needed", "stage_key"]

NEEDS: Mapping[Stage, tuple[Stage, ...]] = {
    "replies": (),
    "judgements": ("replies",),
    "directions": ("judgements",),
    "effects": ("directions",),
    "importance": ("directions",),
    "circuits": ("effects", "importance"),
    "scores": ("circuits",),
    "steering": ("circuits",),
    "report": ("scores", "steering"),
}
"""Stage -> the stages whose results it reads; what these need themselves is not said again."""

_MATTERS: Mapping[Stage, str] = {
    "replies": "model dtype begin date data accepted emotions scenarios dev_scenarios "
    "max_new_tokens",
    "judgements": "judge meanings",
    "directions": "samples read last half",
    "effects": "head_readout diff_prompt diff_grouping seed",
    "importance": "doses stable_layers read_at seed",
    "circuits": "budget rank_by signed",
    "scores": "test score_contexts ablation positions draws seed",
    "steering": "test test_scenarios relative_to control_budget diff_unit head_positions "
    "neuron_positions circuit_strength circuit_when steering decoding circuit_dtype judge_profile "
    "seed methods tuning second_judge meanings sweep_contexts ablation_draws hard",
    "report": "",
}
"""Options that decide a stage's result, beside those of the stages that it needs."""

PLACES: Mapping[Stage, str] = {
    "replies": "elicitation/generated.jsonl",
    "judgements": "elicitation/accepted.jsonl elicitation/rejected.jsonl "
    "elicitation/accuracy_stats.json",
    "directions": "directions",
    "effects": "effects/heads effects/neurons effects/means effects/written_means generality",
    "importance": "importance effects/neutral_means",
    "circuits": "circuits effects/direct effects/totals export",
    "scores": "scores scores.json",
    "steering": "steering.json steering_replies.jsonl steering",
    "report": "report.html",
}
"""Stage -> the files and folders that it writes; scores and paths also write into circuits."""

_FILES = ("data", "test", "accepted", "hard")
_SMALL = (".json", ".jinja", ".model", ".txt")

Kind = Literal["options", "files", "model", "version", "needs"]


def made_of(plan: Plan, stage: Stage, needs: Mapping[str, str]) -> dict[Kind, dict[str, Any]]:
    """Everything that decides the stage's result, by kind.

    Args:
        plan: What is asked for.
        stage: Which stage.
        needs: Stage -> key of what is there of it; of those that the stage needs.
    """
    values, own = plan.to_json(), _MATTERS[stage].split()
    files = {name: getattr(plan, name) for name in own if name in _FILES}
    files |= {name: judge_file(getattr(plan, name)) for name in own if name in JUDGES}
    return {
        "options": {name: values[name] for name in own if name not in (*_FILES, "model")},
        "files": {name: _file(path) for name, path in files.items()},
        "model": _model(plan) if "model" in own else {},
        "version": {"emotion-circuits": versions()["emotion-circuits"]},
        "needs": {need: needs.get(need, "") for need in NEEDS[stage]},
    }


def key_of(made: Mapping[Kind, Mapping[str, Any]]) -> str:
    """The key: a digest of what :func:`made_of` says."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def stage_key(plan: Plan, stage: Stage) -> str:
    """The key that the stage will have where all that it needs is made by the same plan."""
    return key_of(made_of(plan, stage, {need: stage_key(plan, need) for need in NEEDS[stage]}))


def needed(stage: Stage) -> tuple[Stage, ...]:
    """All stages that must come before it, in order."""
    own = {need for near in NEEDS[stage] for need in (near, *needed(near))}
    return tuple(before for before in STAGES if before in own)


def dependents(stage: Stage) -> tuple[Stage, ...]:
    """All stages that are made from it, in order."""
    return tuple(after for after in STAGES if stage in needed(after))


def changes(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[Kind, Mapping[str, Any]]
) -> Iterator[str]:
    """What differs between two of :func:`made_of`, in words."""
    for kind, values in now.items():
        old = before.get(kind, {})
        for name in {**old, **values}:
            if name in old and name in values and old[name] == values[name]:
                continue
            one, other = old.get(name), values.get(name)
            if kind == "needs":
                yield f"{name} was made again"
            elif kind == "files":
                lost = "no file any more" if one else "a file where there was none"
                yield f"{name}: {'another file' if one and other else lost}"
            else:
                what = f"model {name}" if kind == "model" else name
                yield f"{what}: {_short(one)} -> {_short(other)}"


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _file(path: Path | None) -> str | None:
    return None if path is None else _digest(path, path.stat().st_mtime_ns, path.stat().st_size)


@cache
def _digest(path: Path, changed: int, size: int) -> str:
    return digest(path)


def _model(plan: Plan) -> dict[str, Any]:
    embedded = plan.model in EMBEDDED and not exists(plan.model)
    folder = shipped(plan.model) if embedded else Path(plan.model)
    if not is_file(folder / "config.json"):
        return {"name": plan.model, "revision": plan.revision}
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (*_SMALL, ".safetensors")]
    stamps = tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return {"name": folder.resolve().name, "revision": _revision(folder, stamps)}


@cache
def _revision(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    small = [folder / name for name, _, _ in stamps if Path(name).suffix in _SMALL]
    return hashlib.sha256(f"{folder_digest(folder)} {digest(*small)}".encode()).hexdigest()[:16]
