"""What a run is asked to do, as a value."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from circuits.control.methods import METHODS
from circuits.control.modulation import Where
from circuits.control.ways import DecodingBy
from circuits.data.judges.http import JudgeProfile
from circuits.errors import RunError
from circuits.files import exists, is_file, is_folder
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
from circuits.names import EMOTIONS
from circuits.pipeline.plan_values import default_of, plain, problems, typed

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
"""In the order in which they run; a stage needs only earlier ones."""

_NO_OPTIONS = ("out", "judges_of_file")


@dataclass(frozen=True)
class Plan:
    """A run: model, contexts, judge, options, and the folder that it writes."""

    model: str
    """Name on the Hugging Face hub, a folder, or a model that comes with the package."""
    data: Path
    """Train scenarios (JSON lines)."""
    test: Path
    """Test scenarios (JSON lines)."""
    out: Path
    """Folder for the results."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    device: str | None = None
    """``cpu`` or ``cuda``; ``cuda`` if there is one."""
    device_map: str | None = None
    """Spread the model over several devices: ``auto``, ``balanced``, ``sequential``."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the weights."""
    trust_remote_code: bool = False
    """Run code that comes with the model, where it needs any."""
    emotions: tuple[str, ...] = EMOTIONS
    """Two or more; what is asked for and told apart."""
    judge: str = "lexicon"
    """``lexicon``, ``wording``, ``classifier:MODEL``, or ``http:BASE_URL#MODEL``; of labels of your
    own ``lexicon:FILE`` (words of each) or ``wording:FILE`` (labelled texts)."""
    meanings: tuple[tuple[str, str], ...] = ()
    """What emotions mean, as a chat model that judges is told; nothing by default."""
    scenarios: int | None = None
    """Train scenarios, evenly over themes; all by default."""
    dev_scenarios: int = 16
    """Train scenarios kept from everything but the choice of strengths."""
    test_scenarios: int | None = None
    """Test scenarios, evenly over themes; all by default."""
    accepted: Path | None = None
    """Judged replies to start from, instead of replies of the model's own."""
    samples: Literal["accepted", "all"] = "accepted"
    """Make directions, effects and importance from accepted replies only, or from all."""
    begin: Begin = "one"
    """Begin tokens of a prompt: one, or what the tokenizer and its template write."""
    date: str = DATE
    """Given to chat templates that write one; ``today`` is the day on which the plan is made."""
    read: Read = "prompt"
    """Read directions at the last prompt position, or over the reply."""
    last: Last = "resid_post"
    """What stands for the last layer: its output, or what the final norm makes of it."""
    half: bool = False
    """Round activations to float16 before directions are made, as the published dumps do."""
    head_readout: HeadReadout = "resid_mid"
    """Where the readout of heads is read."""
    doses: tuple[float, ...] = DOSES
    """Injected lengths, in units of rms."""
    stable_layers: tuple[int, ...] | None = None
    """Layers of the reference direction; by default scaled from the published ones."""
    read_at: ReadAt = "resid_post"
    """Where injections are read."""
    budget: Budget = field(default_factory=Budget)
    """What a circuit may have."""
    rank_by: RankBy = "total"
    """By which effect a circuit's parts are ranked."""
    score_contexts: int = 16
    """Test contexts on which circuits are scored, each of another scenario if there are enough."""
    ablation: Ablation = "resample"
    """What stands for the parts outside a circuit."""
    positions: Positions = "last"
    """Replace them at the last position, or at all that match."""
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
    """Differences of every context, or of the last valence of every scenario."""
    diff_unit: bool = False
    """Give the heads' difference the length one, layer by layer."""
    head_positions: Where = "last"
    """Positions of every call at which a circuit's heads are written."""
    neuron_positions: Where = "last"
    """The same of its neurons."""
    circuit_strength: tuple[tuple[str, float], ...] | None = None
    """(emotion or ``other``, strength) of circuits; by default chosen on dev contexts."""
    circuit_when: When = "prompt"
    """When circuits are written whose strength is not chosen on dev contexts."""
    steering: Literal["tuned", "published"] = "tuned"
    """Layer and strength of steering: chosen on dev contexts, or the published ones."""
    decoding: DecodingBy = "identical"
    """The same decoding for all methods, or each method's published one."""
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
    """Longest reply."""
    batch_size: int = 96
    """Prompts at once, at most."""
    memory: float = MEMORY
    """Gigabytes for values kept for a second look and for the activations of one pass; not for
    the weights, nor for sums, whose size does not depend on the number of prompts."""
    seed: int = 0
    """Of everything random."""
    judges_of_file: tuple[str, ...] = field(default=(), compare=False)
    """Options whose judges a plan file or a run folder named, and not who runs it."""

    def __post_init__(self) -> None:
        for name in ("data", "test", "accepted", "hard"):
            path = getattr(self, name)
            if path is not None and not is_file(path):
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
        if not 0 < self.memory < math.inf:
            raise RunError(f"--memory: {self.memory} GB holds nothing; give more than 0")
        if len(self.emotions) < 2 or len(set(self.emotions)) < len(self.emotions):
            raise RunError(
                f"--emotions: found {', '.join(self.emotions) or 'none'}; "
                "give two or more different ones"
            )
        if not self.doses or not all(0 < dose < math.inf for dose in self.doses):
            raise RunError("--doses: give one or more positive numbers")
        self._check_values()
        if exists(self.out) and not is_folder(self.out):
            raise RunError(f"--out: {self.out} is a file; give a folder")

    @property
    def reads_apart(self) -> bool:
        """Do differences need a pass of their own?"""
        return self.half or self.diff_prompt != "asked" or self.diff_grouping != "context"

    def asking(self, options: Mapping[str, Any]) -> "Plan":
        """The plan with these options; a judge among them is named by who runs it."""
        of_file = tuple(name for name in self.judges_of_file if name not in options)
        return replace(self, **options, judges_of_file=of_file)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, without the folder that it writes."""
        return {name: plain(name, kind, getattr(self, name)) for name, kind in self.kinds().items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], out: Path) -> "Plan":
        """The plan that :meth:`to_json` gave, for the folder ``out``.

        Raises:
            RunError: it is no plan of this version, such as that of imported results.
        """
        kinds = cls.kinds()
        strange = [name for name in values if name not in kinds]
        if strange:
            raise RunError(
                f"the run's plan has {strange[0]!r}, which this version does not know; "
                "make the run again"
            )
        needed = [own.name for own in fields(cls) if default_of(own) is MISSING]
        missing = [name for name in needed if name in kinds and name not in values]
        if missing:
            raise RunError(f"the run's plan: {missing[0]}: not there; make the run again")
        wrong = problems(kinds, values)
        if wrong:
            found, give = wrong[0].found, wrong[0].give
            raise RunError(f"the run's plan: {wrong[0].option}: found {found!r}; give {give}")
        made = {name: typed(name, kinds[name], value) for name, value in values.items()}
        return cls(**made, out=out)

    @classmethod
    def kinds(cls) -> dict[str, Any]:
        """Option -> its type; without the folder that a run writes, which decides nothing."""
        return {own.name: own.type for own in fields(cls) if own.name not in _NO_OPTIONS}

    def _check_values(self) -> None:
        if not self.model.strip():
            raise RunError(f"model: {self.model!r} is no name; give a model's name or folder")
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
        strange = [label for label, _ in self.meanings if label not in self.emotions]
        if strange:
            raise RunError(
                f"meanings: {strange[0]!r} is no emotion of the run; "
                f"give {', '.join(self.emotions)}"
            )
        endless = [each for each in self.circuit_strength or () if not math.isfinite(each[1])]
        if endless:
            raise RunError(f"circuit_strength: {endless[0][1]} is no strength; give a number")
        named = {emotion for emotion, _ in self.circuit_strength or ()}
        unknown = sorted(named - {*EMOTIONS, *self.emotions, "other"})
        if unknown:
            raise RunError(
                f"circuit_strength: {unknown[0]!r} is no emotion of the run; "
                f"give {', '.join(self.emotions)} or other"
            )


def _choices(kind: Any) -> tuple[Any, ...]:
    # The words of a Literal, or of one that may be None; nothing for other types.
    if get_origin(kind) is Literal:
        return get_args(kind)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    words = tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))
    return (*words, None) if words else ()
