"""What a run is asked to do, as a value."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from circuits.assets import shipped
from circuits.errors import RunError
from circuits.files import digest
from circuits.graph.ablation import Ablation, Positions
from circuits.graph.assemble import RankBy
from circuits.graph.budget import Budget
from circuits.measure.heads import HeadReadout
from circuits.measure.importance import DOSES, ReadAt
from circuits.measure.means import RelativeTo
from circuits.measure.memory import MEMORY
from circuits.measure.sweep import Last, Read
from circuits.model.chat import Begin
from circuits.model.loading import EMBEDDED
from circuits.names import EMOTIONS

__all__ = ["STAGES", "Plan", "Stage"]

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
        "model", "revision", "dtype", "begin", "data", "accepted", "emotions", "scenarios",
        "dev_scenarios", "max_new_tokens",
    ),
    "judgements": ("judge",),
    "directions": ("samples", "read", "last", "half"),
    "effects": ("head_readout", "seed"),
    "importance": ("doses", "stable_layers", "read_at", "seed"),
    "circuits": ("budget", "rank_by"),
    "scores": ("test", "score_contexts", "ablation", "positions", "draws", "seed"),
    "control": ("test", "test_scenarios", "relative_to", "control_budget", "seed"),
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
    dtype: str = "float32"
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
    control_budget: Budget = field(default_factory=lambda: Budget(0.10, 0.02))
    """What of a circuit is written into the model: its strongest part."""
    relative_to: RelativeTo = "plain"
    """What a circuit's differences are relative to when it is put back into the model."""
    max_new_tokens: int = 100
    batch_size: int = 96
    """Prompts at once, at most."""
    memory: float = MEMORY
    """Gigabytes for values kept for a second look and for the activations of one pass; not for
    the weights, nor for sums, whose size does not depend on the number of prompts."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "test", "accepted"):
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
        if self.draws < 1:
            raise RunError(f"--draws: {self.draws} is too few; give 100 or more")
        if not self.memory > 0:
            raise RunError(f"--memory: {self.memory} GB holds nothing; give more than 0")
        if len(self.emotions) < 2 or len(set(self.emotions)) < len(self.emotions):
            raise RunError(
                f"--emotions: found {', '.join(self.emotions) or 'none'}; "
                "give two or more different ones"
            )
        if not self.doses or min(self.doses) <= 0:
            raise RunError("--doses: give one or more positive numbers")
        if self.out.exists() and not self.out.is_dir():
            raise RunError(f"--out: {self.out} is a file; give a folder")

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

    def _value(self, name: str) -> Any:
        value = getattr(self, name)
        if isinstance(value, Path):
            return digest(value)
        if name == "model" and value == EMBEDDED and not Path(value).exists():
            value = str(shipped(EMBEDDED))
        if name == "model" and Path(value).is_dir():
            return [digest(path) for path in sorted(Path(value).glob("config.json"))] + [
                [path.name, path.stat().st_size]
                for path in sorted(Path(value).glob("*.safetensors"))
            ]
        return asdict(value) if isinstance(value, Budget) else value


def _as_option(name: str, value: Any) -> Any:
    if name in ("data", "test", "out", "accepted") and value is not None:
        return Path(value)
    if isinstance(value, dict):
        return Budget(**dict[str, Any](value))
    return tuple(value) if isinstance(value, list) else value
