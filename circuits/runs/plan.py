"""What a run is asked to do, as a value.

What a file may not decide: running code of a model's own, and sending a key to a judge's server.

A run folder, a plan, a circuit or a file of hooks may come from anybody, and each may name a model
or a judge. So what stands in it does not decide either; who opens it does.

Values of a plan's options: out of texts and plain values of a file, checked, and back.

The kind of an option is the type of its field; there is no other list of what options take.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from circuits.circuit.ablate import Ablation, Positions
from circuits.circuit.find import Budget, RankBy
from circuits.effects.activations import MEMORY, DiffGrouping, DiffPrompt, Last, Read, RelativeTo
from circuits.effects.heads import HeadReadout
from circuits.effects.importance import DOSES, ReadAt
from circuits.errors import CircuitsError, JudgeError, RunError
from circuits.files import exists, is_file, is_folder, resolved, shipped
from circuits.judges import Judge, open_judge
from circuits.judges.http import HttpJudge, JudgeProfile
from circuits.models.edits import When
from circuits.models.load import EMBEDDED as MODELS
from circuits.models.tokens import DATE, Begin, today
from circuits.names import EMOTIONS
from circuits.steering.evaluate import METHODS, DecodingBy
from circuits.steering.interventions import Where

__all__ = [
    "CONTROL_BUDGET",
    "NONE",
    "Plan",
    "Problem",
    "SHIPPED",
    "STAGES",
    "Stage",
    "Trust",
    "check_judges",
    "circuit_judge_of",
    "default_of",
    "judge_file",
    "judge_of",
    "of_text",
    "plain",
    "problems",
    "schema",
    "second_judge_of",
    "trusted",
    "trusting",
    "typed",
    "wanted",
]

Trust = Literal["code", "judge"]
"""``code``: run what comes with a model. ``judge``: send the key to a server that a file names."""

_ASKED: ContextVar[frozenset[Trust]] = ContextVar("trust", default=frozenset())


def trusted(what: Trust) -> bool:
    """Was it asked for, around this call?"""
    return what in _ASKED.get()


@contextmanager
def trusting(*what: Trust) -> Iterator[None]:
    """Inside the block, do this also where run folders, plans and circuits are what names it."""
    asked: frozenset[Trust] = frozenset(what)
    before = _ASKED.set(_ASKED.get() | asked)
    try:
        yield
    finally:
        _ASKED.reset(before)


NONE = "none"
"""What a text or a file says for an option that is not to be set."""
SHIPPED: Mapping[str, str] = {
    "data": "sev/train.jsonl",
    "test": "sev/test.jsonl",
    "hard": "sev/hard.jsonl",
}
"""Files that come with the package; ``shipped`` stands for them."""
JUDGES = ("judge", "second_judge")
"""Options that name a judge."""

_FLAGS = {"true": True, "false": False}
_PAIRS = tuple[tuple[str, float], ...]
_TEXTS = tuple[tuple[str, str], ...]
_NUMBERS = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}
_NAMES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "word",
    Path: "path of a file",
    Budget: "two shares, of heads and of neurons, as in 0.10,0.02",
}


@dataclass(frozen=True)
class Problem:
    """A value that an option does not take."""

    option: str
    inner: str
    """The key inside a table such as ``budget``; empty for the option itself."""
    found: Any
    give: str


def typed(name: str, kind: Any, value: Any, base: Path | None = None) -> Any:
    """The option's value for a plain one that :func:`problems` finds nothing wrong with.

    Args:
        name: The option.
        kind: Its type.
        value: What a file or :func:`of_text` gave.
        base: Folder to which relative paths belong; by default the current one.

    Raises:
        CircuitError: a budget is none.
        RunError: a number is too large to be one.
    """
    try:
        return _typed(name, kind, value, base)
    except OverflowError as error:
        raise RunError(f"{name}: found a number that is too large; give {wanted(kind)}") from error


def _typed(name: str, kind: Any, value: Any, base: Path | None) -> Any:
    own, optional = _without_none(kind)
    if value is None or (optional and value == NONE):
        return None
    if name in JUDGES:
        return _judge_at(value, base)
    if name == "model":
        near = (base or Path()) / value
        # What looks like a path is one; other words may be names on the hub.
        return str(near) if base and (is_folder(near) or value.startswith(".")) else value
    if own is Path:
        if value == "shipped" and name in SHIPPED:
            return shipped(SHIPPED[name])
        return (base or Path()) / value
    if own is Budget:
        # To a schema 1 is a number and 1.0 an integer.
        kinds: dict[str, Any] = {"min_per_layer": int}
        return Budget(**{key: kinds.get(key, float)(found) for key, found in value.items()})
    if own == _PAIRS:
        pairs = value.items() if isinstance(value, Mapping) else [("other", value)]
        return tuple((emotion, float(strength)) for emotion, strength in pairs)
    if own == _TEXTS:
        return tuple(value.items())
    if get_origin(own) is tuple:
        return tuple(get_args(own)[0](item) for item in value)
    return own(value) if own in (int, float) else value


def _judge_at(spec: str, base: Path | None) -> str:
    """The judge, with the path of its file where it has one beside the plan file."""
    kind, mark, rest = spec.partition(":")
    near = (base or Path()) / rest
    return f"{kind}{mark}{near}" if base and kind != "http" and rest and exists(near) else spec


def plain(name: str, kind: Any, value: Any) -> Any:
    """The value as JSON and TOML have it; :func:`typed` gives it back. Paths become absolute."""
    if name == "model":
        if is_folder(value):
            own = [own for own in MODELS if shipped(own) == Path(value)]
            return own[0] if own else str(Path(value).absolute())
        return value
    if isinstance(value, Path):
        if name in SHIPPED and value == shipped(SHIPPED[name]):
            return "shipped"
        return str(value.absolute())
    if isinstance(value, Budget):
        return asdict(value)
    if value is not None and _without_none(kind)[0] in (_PAIRS, _TEXTS):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def of_text(kind: Any, text: str) -> Any:
    """The plain value that a text stands for; the text itself where it stands for none."""
    own, optional = _without_none(kind)
    if optional and text == NONE:
        return NONE
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        if own is Budget:
            return dict(zip(("heads", "neurons"), map(float, words), strict=True))
        if own == _PAIRS:
            return _strengths(words)
        if own == _TEXTS:
            return dict(_pair(word) for word in words)
        if get_origin(own) is tuple:
            return [get_args(own)[0](word) for word in words]
        if own is bool:
            return _FLAGS[text]
        return own(text) if own in (int, float) else text
    except (ValueError, KeyError):
        return text


def _strengths(words: list[str]) -> float | dict[str, float]:
    pairs = [word.partition("=") for word in words]
    if len(pairs) == 1 and not pairs[0][1]:
        return float(pairs[0][0])
    return {name.strip(): float(number) for name, _, number in pairs}


def _pair(word: str) -> tuple[str, str]:
    name, mark, text = word.partition("=")
    if not mark:
        raise ValueError(word)
    return name.strip(), text.strip()


def schema(kind: Any) -> dict[str, Any]:
    """What an option of that type takes, as JSON Schema."""
    own, optional = _without_none(kind)
    if optional:
        return {"anyOf": [schema(own), {"const": NONE}]}
    if get_origin(own) is Literal:
        return {"enum": list(get_args(own))}
    if own == _PAIRS:
        number = {"type": "number"}
        return {"anyOf": [number, {"type": "object", "additionalProperties": number}]}
    if own == _TEXTS:
        return {"type": "object", "additionalProperties": {"type": "string"}}
    if get_origin(own) is tuple:
        return {"type": "array", "items": schema(get_args(own)[0])}
    if own is Budget:
        inner = {field.name: schema(field.type) for field in fields(Budget)}
        return {"type": "object", "properties": inner, "additionalProperties": False}
    return {"type": _NUMBERS[own]}


def problems(kinds: Mapping[str, Any], values: Mapping[str, Any]) -> list[Problem]:
    """Values that their options do not take; all names must be options."""
    from jsonschema import Draft202012Validator

    found = []
    for name, value in values.items():
        if value is None and _without_none(kinds[name])[1]:
            continue
        for error in Draft202012Validator(schema(kinds[name])).iter_errors(value):
            inner = ".".join(str(part) for part in error.absolute_path if isinstance(part, str))
            give = wanted(kinds[name])
            if error.validator == "additionalProperties":
                give = f"{', '.join(error.schema['properties'])} in it"
            elif inner:
                give = wanted(_inner_kind(kinds[name], inner))
            found.append(Problem(name, inner, error.instance, give))
    return found


def wanted(kind: Any) -> str:
    """What an option takes, in words."""
    own, optional = _without_none(kind)
    ending = f" or {NONE}" if optional else ""
    if get_origin(own) is Literal:
        return ", ".join(get_args(own)) + ending
    if own == _PAIRS:
        return f"a strength, or one for each emotion as in anger=0.8,other=1{ending}"
    if own == _TEXTS:
        return f"a text for each as in envy=wanting what others have{ending}"
    if get_origin(own) is tuple:
        return f"{_NAMES[get_args(own)[0]]}s with commas between{ending}"
    return _NAMES[own] + ending


def default_of(field: "Field[Any]") -> Any:
    """The default of a field; MISSING if it has none."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _inner_kind(kind: Any, inner: str) -> Any:
    own, _ = _without_none(kind)
    kinds = {field.name: field.type for field in fields(Budget)} if own is Budget else {}
    return kinds.get(inner, str if own == _TEXTS else float)


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    (own,) = [part for part in get_args(kind) if part is not type(None)]
    return own, True


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
        for name in ("data", "test", "out", "accepted", "hard"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, resolved(getattr(self, name)))
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


def judge_of(plan: Plan) -> Judge:
    """The judge."""
    return _opened(plan, "judge", plan.judge)


def second_judge_of(plan: Plan) -> Judge | None:
    """A judge that hears every reply once more, if there is to be one."""
    return _opened(plan, "second_judge", plan.second_judge) if plan.second_judge else None


def circuit_judge_of(plan: Plan) -> Judge:
    """The judge of circuits: the same, asked as the plan says."""
    return _opened(plan, "judge", plan.judge, plan.judge_profile)


def check_judges(plan: Plan) -> None:
    """Refuse judges that make no sense before anything is made.

    Raises:
        JudgeError: there is no such judge, or it does not know an emotion of the plan.
        DataError: the file of one's own words or texts is missing or malformed.
    """
    judge_of(plan)
    second_judge_of(plan)


def judge_file(spec: str | None) -> Path | None:
    """The file of one's own words or texts from which a judge is made."""
    kind, _, rest = (spec or "").partition(":")
    return Path(rest) if kind in ("lexicon", "wording") and rest else None


def _opened(plan: Plan, option: str, spec: str, profile: JudgeProfile = "robust") -> Judge:
    with _naming(option):
        judge = open_judge(spec, profile, labels=plan.emotions, meanings=plan.meanings)
        if option in plan.judges_of_file and not trusted("judge"):
            _check_keeps_key(judge)
    return judge


def _check_keeps_key(judge: Judge) -> None:
    if isinstance(judge, HttpJudge) and judge.sends_key_away:
        raise JudgeError(
            f"a file names the server {judge.host}, and it would be sent the key in "
            f"{judge.key_variable}; give --trust-judge (in Python: "
            'circuits.trusting("judge")) if the server is yours, or unset the variable'
        )


@contextmanager
def _naming(option: str) -> Iterator[None]:
    try:
        yield
    except CircuitsError as error:
        raise type(error)(f"{option}: {error}") from error
