"""What a run is asked to do, as a value."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from circuits.assets import shipped
from circuits.control.methods import METHODS
from circuits.control.modulation import Where
from circuits.control.ways import DecodingBy
from circuits.data.judges.http import JudgeProfile
from circuits.errors import RunError
from circuits.files import digest
from circuits.graph.ablation import Ablation, Positions
from circuits.graph.assemble import RankBy
from circuits.graph.budget import Budget
from circuits.measure.groups import DiffGrouping, DiffPrompt
from circuits.measure.heads import HeadReadout
from circuits.measure.importance import DOSES, ReadAt
from circuits.measure.means import RelativeTo
from circuits.measure.memory import MEMORY
from circuits.measure.sweep import Last, Read
from circuits.model.chat import DATE, Begin, today
from circuits.model.edits import When
from circuits.model.loading import EMBEDDED
from circuits.names import EMOTIONS

__all__ = ["CONTROL_BUDGET", "STAGES", "Plan", "Stage"]

CONTROL_BUDGET = Budget(0.10, 0.02)
"""Share of heads and of neurons that is written into the model."""

Stage = Literal[
    "replies",
    "judgements",
    "directions",
    "effects",
    "importance",
    "circuits",
    "scores",
    "control",
    "report",
]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""In the order in which they run; a later stage needs the earlier ones."""

_MATTERS: dict[Stage, tuple[str, ...]] = {
    "replies": (
        "model", "revision", "dtype", "begin", "date", "data", "accepted", "emotions", "scenarios",
        "dev_scenarios", "max_new_tokens",
    ),
    "judgements": ("judge",),
    "directions": ("samples", "read", "last", "half"),
    "effects": ("head_readout", "diff_prompt", "diff_grouping", "seed"),
    "importance": ("doses", "stable_layers", "read_at", "seed"),
    "circuits": ("budget", "rank_by", "signed"),
    "scores": ("test", "score_contexts", "ablation", "positions", "draws", "seed"),
    "control": (
        "test", "test_scenarios", "relative_to", "control_budget", "diff_unit", "head_positions",
        "neuron_positions", "circuit_strength", "circuit_when", "steering", "decoding",
        "circuit_dtype", "judge_profile", "seed", "methods", "tuning", "second_judge",
        "dial_contexts", "ablation_draws", "hard",
    ),
    "report": (),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A run: model, contexts, judge, options, and the folder that it writes."""

    model: str
    data: Path
    test: Path
    out: Path
    revision: str | None = None
    device: str | None = None
    device_map: str | None = None
    """Spread the model over several devices: ``auto``, ``balanced``, ``sequential``."""
    dtype: str = "float32"
    trust_remote_code: bool = False
    """Run code that comes with the model, where it needs any."""
    emotions: tuple[str, ...] = EMOTIONS
    judge: str = "lexicon"
    scenarios: int | None = None
    """Train scenarios, evenly over themes; all by default."""
    dev_scenarios: int = 16
    """Train scenarios kept from everything but the choice of strengths."""
    test_scenarios: int | None = None
    accepted: Path | None = None
    """Judged replies to start from, instead of replies of the model's own."""
    samples: Literal["accepted", "all"] = "accepted"
    """Make directions, effects and importance from accepted replies only, or from all."""
    begin: Begin = "one"
    date: str = DATE
    """Given to chat templates that write one; ``today`` is the day on which the plan is made."""
    read: Read = "prompt"
    last: Last = "resid_post"
    half: bool = False
    """Round activations to float16 before directions are made, as the published dumps do."""
    head_readout: HeadReadout = "resid_mid"
    doses: tuple[float, ...] = DOSES
    stable_layers: tuple[int, ...] | None = None
    """Layers of the reference direction; by default scaled from the published ones."""
    read_at: ReadAt = "resid_post"
    budget: Budget = field(default_factory=Budget)
    """What a circuit may have."""
    rank_by: RankBy = "total"
    score_contexts: int = 16
    """Test contexts on which circuits are scored, each of another scenario if there are enough."""
    ablation: Ablation = "resample"
    positions: Positions = "last"
    draws: int = 100
    """Random circuits beside which every score is held."""
    control_budget: Budget = CONTROL_BUDGET
    """What of a circuit is written into the model: its strongest part."""
    signed: bool = False
    """Fill a circuit's places whatever the sign of the effects."""
    relative_to: RelativeTo = "plain"
    """What a circuit's differences are relative to when it is put back into the model."""
    diff_prompt: DiffPrompt = "asked"
    """Wording of the prompts from which differences are made; another one costs a pass of each."""
    diff_grouping: DiffGrouping = "context"
    diff_unit: bool = False
    """Give the heads' difference the length one, layer by layer."""
    head_positions: Where = "last"
    """Positions of every call at which a circuit's heads are written."""
    neuron_positions: Where = "last"
    circuit_strength: tuple[tuple[str, float], ...] | None = None
    """(emotion or ``other``, strength) of circuits; by default chosen on dev contexts."""
    circuit_when: When = "prompt"
    """When circuits are written whose strength is not chosen on dev contexts."""
    steering: Literal["tuned", "published"] = "tuned"
    decoding: DecodingBy = "identical"
    circuit_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number type of the weights under circuits, and of the replies that nothing changes; by
    default that of all methods."""
    methods: tuple[str, ...] = METHODS
    """Which methods are compared; ``none`` and ``prompt`` always are."""
    tuning: Literal["full", "brief"] = "full"
    """Try every candidate on the dev contexts, or end a method's search at the first good one."""
    second_judge: str | None = "wording"
    """Hears every reply of the comparison once more."""
    dial_contexts: int = 24
    """Test contexts on which strengths are swept, emotions mixed and circuits ablated; 0: none."""
    ablation_draws: int = 30
    """Random sets that are ablated in asked prompts beside the circuits."""
    hard: Path | None = None
    """Further test scenarios, on which all methods are compared once more."""
    judge_profile: JudgeProfile = "robust"
    """How a chat model judges circuits, and the replies that nothing changes."""
    max_new_tokens: int = 100
    batch_size: int = 96
    """Prompts at once, at most."""
    memory: float = MEMORY
    """Gigabytes for values kept for a second look and for the activations of one pass; not for
    the weights, nor for sums, whose size does not depend on the number of prompts."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "test", "accepted", "hard"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                what = "scenarios" if name != "accepted" else "judged replies"
                raise RunError(f"--{name}: there is no file {path}; give a file of {what}")
        for name in ("scenarios", "test_scenarios", "max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RunError(f"--{name.replace('_', '-')}: {value} is too few; give 1 or more")
        if self.score_contexts < 2:
            raise RunError(
                f"--score-contexts: {self.score_contexts} is too few for an interval; "
                "give 2 or more"
            )
        for name, wanted in (("draws", 100), ("ablation_draws", 30)):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise RunError(
                    f"--{option}: {getattr(self, name)} is too few; give {wanted} or more"
                )
        if self.dial_contexts < 0:
            raise RunError(f"--dial-contexts: {self.dial_contexts} is too few; give 0 or more")
        if self.device and self.device_map:
            raise RunError("--device-map: goes without --device; give one of the two")
        if not self.memory > 0:
            raise RunError(f"--memory: {self.memory} GB holds nothing; give more than 0")
        if len(self.emotions) < 2 or len(set(self.emotions)) < len(self.emotions):
            raise RunError(
                f"--emotions: found {', '.join(self.emotions) or 'none'}; "
                "give two or more different ones"
            )
        if not self.doses or min(self.doses) <= 0:
            raise RunError("--doses: give one or more positive numbers")
        self._check_values()
        if self.out.exists() and not self.out.is_dir():
            raise RunError(f"--out: {self.out} is a file; give a folder")

    @property
    def reads_apart(self) -> bool:
        """Do differences need a pass of their own?"""
        return self.half or self.diff_prompt != "asked" or self.diff_grouping != "context"

    def key(self, stage: Stage) -> str:
        """Digest of everything that decides the stage's result."""
        earlier = STAGES[: STAGES.index(stage) + 1]
        values = {name: self._value(name) for before in earlier for name in _MATTERS[before]}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return json.loads(json.dumps(asdict(self), default=str))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        """The plan that :meth:`to_json` gave.

        Raises:
            RunError: it is no plan of this version, such as that of imported results.
        """
        made: dict[str, Any] = {}
        known = {option.name for option in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise RunError(
                    f"the run's plan has {name!r}, which this version does not know; "
                    "make the run again"
                )
            made[name] = _as_option(name, value)
        return cls(**made)

    def _check_values(self) -> None:
        for own in fields(self):
            allowed, value = _choices(own.type), getattr(self, own.name)
            if allowed and value not in allowed:
                words = ", ".join(str(choice) for choice in allowed if choice is not None)
                raise RunError(f"{own.name}: {value!r} is not known; choose {words}")
        if self.date == "today":
            object.__setattr__(self, "date", today())
        try:
            datetime.strptime(self.date, "%d %b %Y")
        except ValueError as error:
            raise RunError(f"date: {self.date!r} is no date such as {DATE}, nor today") from error
        strange = [method for method in self.methods if method not in METHODS]
        if strange:
            raise RunError(
                f"methods: {strange[0]!r} is not known; methods are {', '.join(METHODS)}"
            )
        own = sorted({*self.emotions} - {*EMOTIONS})
        if own and self.second_judge in ("lexicon", "wording"):
            raise RunError(
                f"second_judge: {self.second_judge} does not know {own[0]!r}; choose another, or "
                "none with --set second_judge=none"
            )
        named = {emotion for emotion, _ in self.circuit_strength or ()}
        unknown = sorted(named - {*EMOTIONS, *self.emotions, "other"})
        if unknown:
            raise RunError(
                f"circuit_strength: {unknown[0]!r} is no emotion of the run; "
                f"give {', '.join(self.emotions)} or other"
            )

    def _value(self, name: str) -> Any:
        value = getattr(self, name)
        if isinstance(value, Path):
            return digest(value)
        if name == "model" and value in EMBEDDED and not Path(value).exists():
            value = str(shipped(value))
        if name == "model" and Path(value).is_dir():
            return [digest(path) for path in sorted(Path(value).glob("config.json"))] + [
                [path.name, path.stat().st_size]
                for path in sorted(Path(value).glob("*.safetensors"))
            ]
        return asdict(value) if isinstance(value, Budget) else value


def _as_option(name: str, value: Any) -> Any:
    if name in ("data", "test", "out", "accepted", "hard") and value is not None:
        return Path(value)
    if isinstance(value, dict):
        return Budget(**dict[str, Any](value))
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _choices(kind: Any) -> tuple[Any, ...]:
    # The words of a Literal, or of one that may be None; nothing for other types.
    if get_origin(kind) is Literal:
        return get_args(kind)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    words = tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))
    return (*words, None) if words else ()
