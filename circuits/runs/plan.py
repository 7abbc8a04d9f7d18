"""What a run is asked to do: a plan of options, read from files and from texts, and checked.

A run folder, a plan, a circuit or a file of hooks may come from anybody, and each may name a model
or a judge. So none of them decides whether code of a model's own runs, or whether a judge's server
is sent a key: who opens it does (:func:`trusting`).
"""

import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, field, fields, replace
from datetime import datetime
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic.dataclasses import dataclass

from circuits.circuit.ablate import Ablation, Positions
from circuits.circuit.find import Budget, RankBy
from circuits.effects.activations import DiffGrouping, DiffPrompt, Last, Read, RelativeTo
from circuits.effects.heads import HeadReadout
from circuits.effects.importance import DOSES, ReadAt
from circuits.errors import CircuitsError, JudgeError, RunError
from circuits.files import exists, is_file, is_folder, read_text, resolved, shipped
from circuits.judges import Judge, open_judge
from circuits.judges.http import HttpJudge, JudgeProfile
from circuits.models.edits import When
from circuits.models.load import EMBEDDED as MODELS
from circuits.models.tokens import DATE, Begin, today
from circuits.names import EMOTIONS
from circuits.published.quirks import PRESETS
from circuits.steering.evaluate import METHODS, DecodingBy
from circuits.steering.interventions import Where

__all__ = [
    "CONFIG",
    "OPTIONS",
    "PLAN_FILE",
    "RENAMED",
    "RENAMED_VALUES",
    "STAGES",
    "STEERING_BUDGET",
    "Count",
    "Plan",
    "Stage",
    "check_judges",
    "checked",
    "judge_file",
    "judge_of",
    "listed",
    "meanings",
    "no_option",
    "no_stage",
    "plan_schema",
    "plan_toml",
    "read_plan",
    "template",
    "trusted",
    "trusting",
]

Trust = Literal["code", "judge"]
"""``code``: run what comes with a model. ``judge``: send the key to a server that a file names."""

_TRUSTED: ContextVar[frozenset[Trust]] = ContextVar("trust", default=frozenset())


def trusted(what: Trust) -> bool:
    """Was it asked for, around this call?"""
    return what in _TRUSTED.get()


@contextmanager
def trusting(*what: Trust) -> Iterator[None]:
    """Inside the block, do this also where run folders, plans and circuits are what names it."""
    before = _TRUSTED.set(_TRUSTED.get().union(what))
    try:
        yield
    finally:
        _TRUSTED.reset(before)


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
RENAMED = {"dial_contexts": "sweep_contexts"}
"""Options of earlier versions -> their names now."""
RENAMED_VALUES = {
    ("methods", "steer_plain"): "steer_neutral",
    ("relative_to", "plain"): "neutral",
    ("stages", "control"): "steering",
}
"""Option and a value of earlier versions -> its name now."""

STEERING_BUDGET = Budget(0.10, 0.02)
"""Share of heads and of neurons that is written into the model."""

Stage = Literal[
    "replies",
    "judgements",
    "directions",
    "effects",
    "importance",
    "circuits",
    "scores",
    "steering",
    "report",
]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""In the order in which they run; a stage needs only earlier ones."""

T = TypeVar("T")

_PAIRS = ("circuit_strength", "meanings")
"""Options that give something for each emotion."""
_SHARES = "two shares, of heads and of neurons, as in 0.10,0.02"
_FORMS = {
    "budget": _SHARES,
    "control_budget": _SHARES,
    "circuit_strength": "a strength, or one for each emotion as in anger=0.8,other=1",
    "meanings": "a text for each as in envy=wanting what others have",
}
"""How options are typed of which pydantic does not say it."""


def checked(cls: type[T]) -> type[T]:
    """A pydantic dataclass of options that refuses a value with an error of ours, in one line."""
    make = cls.__init__

    @wraps(make)
    def checking(self: Any, *args: Any, **values: Any) -> None:
        try:
            make(self, *args, **values)
        except ValidationError as error:
            raise _refusal(cls, error) from error
        except UnicodeEncodeError as error:
            half = next((n for n, own in values.items() if "\\ud" in ascii(own)), cls.__name__)
            raise RunError(f"{half}: found half a character; give a text of whole ones") from error

    cls.__init__ = checking
    return cls


def _refusal(cls: Any, error: ValidationError) -> CircuitsError:
    first, fields = error.errors(include_url=False)[0], cls.__pydantic_fields__
    place = [part for part in first["loc"] if isinstance(part, str)] or [""]
    name, own = place[0], first.get("ctx", {}).get("error")
    if isinstance(own, CircuitsError):
        return own if str(own).lstrip("-").startswith(name) else type(own)(f"{name}: {own}")
    if name not in fields:
        return RunError(no_option(name, [*fields]))
    if first["type"] == "missing":
        return RunError(f"{name}: not given; give --{name}: {meanings(cls)[name]}")
    said = _FORMS.get(name) if len(place) == 1 else None
    said = f"give {said}" if said else first["msg"].replace("Input should", "it should")
    if type(None) in get_args(fields[name].annotation):
        said += f", or {NONE}"
    return RunError(
        f"{'.'.join(place)}: found {textwrap.shorten(repr(first['input']), 80)}; {said}"
    )


def no_stage(name: str) -> str:
    """What is said of a stage that there is not."""
    now = RENAMED_VALUES.get(("stages", name))
    if now:
        return f"the stage {name!r} is now called {now!r}; write that"
    return f"no stage is called {name!r}; stages are {', '.join(STAGES)}"


def no_option(name: str, known: Collection[str]) -> str:
    """What is said of an option that there is not."""
    if name in RENAMED:
        return f"the option {name!r} is now called {RENAMED[name]!r}; write that"
    near = difflib.get_close_matches(name, known, n=1)
    return f"no option is called {name!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


@cache
def meanings(cls: Any) -> Mapping[str, str]:
    """Option -> what it means, in a line: the text below its field."""
    said = {name: own.description or "" for name, own in cls.__pydantic_fields__.items()}
    return {name: " ".join(text.replace("``", "").split()) for name, text in said.items()}


def listed(value: Any) -> Any:
    """Words of a text with commas between; other values as they are."""
    if not isinstance(value, str):
        return value
    return [word.strip() for word in value.split(",") if word.strip()]


CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""Of a dataclass whose fields are options: no others, each explained by the text below it."""
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
_WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
Strengths = Annotated[
    tuple[tuple[str, _Finite], ...], WithJsonSchema({"anyOf": [{"type": "number"}, _NUMBERS]})
]
Meanings = Annotated[tuple[tuple[str, str], ...], WithJsonSchema(_WORDS)]


@checked
@dataclass(frozen=True, config=CONFIG)
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
    emotions: Annotated[tuple[str, ...], Field(min_length=2)] = EMOTIONS
    """Two or more; what is asked for and told apart."""
    judge: str = "lexicon"
    """``lexicon``, ``wording``, ``classifier:MODEL``, or ``http:BASE_URL#MODEL``; of labels of your
    own ``lexicon:FILE`` (words of each) or ``wording:FILE`` (labelled texts)."""
    meanings: Meanings = ()
    """What emotions mean, as a chat model that judges is told; nothing by default."""
    scenarios: Count | None = None
    """Train scenarios, evenly over themes; all by default."""
    dev_scenarios: CountOrZero = 16
    """Train scenarios kept from everything but the choice of strengths."""
    test_scenarios: Count | None = None
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
    doses: Annotated[tuple[Positive, ...], Field(min_length=1)] = DOSES
    """Injection magnitudes, in units of the residual stream's RMS."""
    stable_layers: tuple[int, ...] | None = None
    """Layers of the reference direction; by default scaled from the published ones."""
    read_at: ReadAt = "resid_post"
    """Where injections are read."""
    budget: Budget = Budget()
    """What a circuit may have."""
    rank_by: RankBy = "total"
    """By which effect a circuit's parts are ranked."""
    score_contexts: Annotated[int, Field(ge=2)] = 16
    """Test contexts on which circuits are scored, each of another scenario if there are enough."""
    ablation: Ablation = "resample"
    """What stands for the parts outside a circuit."""
    positions: Positions = "last"
    """Replace them at the last position, or at all that match."""
    draws: Count = 100
    """Random circuits beside which every score is held."""
    control_budget: Budget = STEERING_BUDGET
    """What of a circuit is written into the model: its strongest part."""
    signed: bool = False
    """Fill a circuit's places whatever the sign of the effects."""
    relative_to: RelativeTo = "neutral"
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
    circuit_strength: Strengths | None = None
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
    sweep_contexts: CountOrZero = 24
    """Test contexts on which strengths are swept, emotions mixed and circuits ablated; 0: none."""
    ablation_draws: Count = 30
    """Random sets that are ablated in emotion prompts beside the circuits."""
    hard: Path | None = None
    """Further test scenarios, on which all methods are compared once more."""
    judge_profile: JudgeProfile = "robust"
    """How a chat model judges circuits, and the replies that nothing changes."""
    max_new_tokens: Count = 100
    """Longest reply."""
    batch_size: Count = 96
    """Prompts at once, at most."""
    memory: Positive = 1.0
    """Gigabytes beside the weights: half for the values of all prompts, which lie in a temporary
    file where they need more, half for the activations of one pass."""
    seed: int = 0
    """Of everything random."""
    judges_of_file: tuple[str, ...] = field(default=(), compare=False)
    """Options whose judges a plan file or a run folder named, and not who runs it."""

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: Any) -> Any:
        """What files and texts say otherwise than pydantic has it."""
        name = info.field_name
        kinds = cls.__pydantic_fields__[name].annotation  # type: ignore[attr-defined]
        words = listed(value)
        for word in words if isinstance(words, list | tuple) else ():
            now = RENAMED_VALUES.get((name, word)) if isinstance(word, str) else None
            if now:
                raise RunError(f"{name}: {word!r} is now called {now!r}; write that")
        if name == "circuit_strength" and isinstance(value, int | float):
            return (("other", value),)
        if name in _PAIRS and isinstance(value, Mapping):
            return tuple(value.items())
        if not isinstance(value, str):
            return value
        if value == NONE and type(None) in get_args(kinds):
            return None
        if value == "shipped" and name in SHIPPED:
            return shipped(SHIPPED[name])
        if name in _PAIRS:
            pairs = [tuple(map(str.strip, word.split("=", 1))) for word in words]
            if name == "circuit_strength" and [*map(len, pairs)] == [1]:
                return (("other", value),)
            return tuple(pairs) if pairs and {*map(len, pairs)} == {2} else value
        if kinds is Budget and len(words) == 2:
            return dict(zip(("heads", "neurons"), words, strict=True))
        kinds = (kinds, *get_args(kinds))
        return words if tuple in map(get_origin, kinds) else value

    @field_validator("model")
    @classmethod
    def _named(cls, model: str) -> str:
        if not model.strip():
            raise RunError(f"model: {model!r} is no name; give a model's name or folder")
        return model

    @field_validator("data", "test", "accepted", "hard", "out")
    @classmethod
    def _path(cls, path: Path | None, info: Any) -> Path | None:
        if path is None:
            return None
        path, name = resolved(path), info.field_name
        if name == "out" and exists(path) and not is_folder(path):
            raise RunError(f"--out: {path} is a file; give a folder")
        if name != "out" and not is_file(path):
            what = "scenarios" if name != "accepted" else "judged replies"
            raise RunError(f"--{name}: there is no file {path}; give a file of {what}")
        return path

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for method in methods:
            if method not in METHODS:
                known = ", ".join(METHODS)
                raise RunError(f"methods: {method!r} is not known; methods are {known}")
        return methods

    @field_validator("date")
    @classmethod
    def _day(cls, date: str) -> str:
        date = today() if date == "today" else date
        try:
            datetime.strptime(date, "%d %b %Y")
        except ValueError as error:
            raise RunError(f"date: {date!r} is no date such as {DATE}, nor today") from error
        return date

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if self.device and self.device_map:
            raise RunError("--device-map: goes without --device; give one of the two")
        own = ", ".join(self.emotions)
        if len({*self.emotions}) < len(self.emotions):
            raise RunError(f"emotions: found {own}; give two or more different ones")
        strengths = {*EMOTIONS, *self.emotions, "other"}
        for name, known in (("meanings", self.emotions), ("circuit_strength", strengths)):
            for label, _ in getattr(self, name) or ():
                if label not in known:
                    raise RunError(f"{name}: {label!r} is no emotion of the run; give {own}")

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
        return {name: _as_json(name, getattr(self, name)) for name in OPTIONS}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], out: Path) -> "Plan":
        """The plan that :meth:`to_json` gave, for the folder ``out``.

        Raises:
            RunError: it is no plan of this version, such as that of imported results.
        """
        try:
            return cls(**{**values, "out": out})
        except CircuitsError as error:
            raise RunError(f"the run's plan: {error}; make the run again") from error


OPTIONS: tuple[str, ...] = tuple(
    own.name for own in fields(Plan) if own.name not in ("out", "judges_of_file")
)
"""Everything that a plan says but the folder that it writes."""


def _as_json(name: str, value: Any) -> Any:
    """The value as JSON and TOML have it; paths become absolute."""
    if name == "model" and is_folder(value):
        own = [own for own in MODELS if shipped(own) == Path(value)]
        return own[0] if own else str(Path(value).absolute())
    if isinstance(value, Path):
        known = name in SHIPPED and value == shipped(SHIPPED[name])
        return "shipped" if known else str(value.absolute())
    if isinstance(value, Budget):
        return asdict(value)
    if name in _PAIRS and value is not None:
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


PLAN_FILE: Final = "plan.toml"
"""In every run folder: the plan that makes the same run again."""


def plan_toml(plan: Plan) -> str:
    """The whole plan, commented; `run --plan FILE --out NEW` makes the same run again."""
    return _toml(plan.to_json())


def template() -> str:
    """A plan file with every option at its default, commented; of the embedded model."""
    head = "# A run: `emotion-circuits run --plan FILE --out FOLDER`.\n"
    head += "# Relative paths belong to this file's folder. What is left out has its default.\n"
    return f"{head}\n{_toml({'model': 'sev-mini', **_defaults()})}"


def _defaults() -> dict[str, Any]:
    found = {own.name: own.default for own in fields(Plan) if own.name in OPTIONS[1:]}
    return {n: "shipped" if n in SHIPPED else _as_json(n, own) for n, own in found.items()}


def _toml(values: Mapping[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        words = plan_schema()["properties"][name].get("enum")
        text = meanings(Plan)[name] + (f" Takes {', '.join(words)}." if words else "")
        comment = textwrap.indent(textwrap.fill(text, 96, break_long_words=False), "# ")
        parts.append(f"{comment}\n{name} = {_value(value)}\n")
    return "\n".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_value(k)} = {_value(v)}" for k, v in value.items()) + " }"
    # JSON's texts, numbers and lists are TOML's, but for one control character.
    text = json.dumps(NONE if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


@cache
def plan_schema() -> dict[str, Any]:
    """JSON Schema of plan files, made from the fields of :class:`Plan`."""
    text = json.dumps(TypeAdapter(Plan).json_schema())
    found = json.loads(text.replace('{"type": "null"}', json.dumps({"const": NONE})))
    options = {name: found["properties"][name] for name in (*OPTIONS, "out")}
    for name, own in options.items():
        own["description"] = meanings(Plan)[name]
    for name, value in _defaults().items():
        options[name]["default"] = NONE if value is None else value
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plan of a run of emotion-circuits",
        "type": "object",
        "properties": {"preset": {"enum": list(PRESETS), "default": "default"}, **options},
        "additionalProperties": False,
        "$defs": found["$defs"],
    }


def read_plan(
    path: Path | None, given: Mapping[str, Any] | None = None, preset: str | None = None
) -> Plan:
    """The plan that a file and the options beside it describe.

    Args:
        path: A plan file; options alone without one. Relative paths in it belong to its folder.
        given: Options that go before those of the file.
        preset: Goes before the file's; what the file says itself goes before a preset.

    Raises:
        DataError: the file cannot be read.
        RunError: it is no TOML, or an option is unknown, missing, or does not take its value;
            names the file, the line, the option, what was found and what it takes.
        JudgeError: there is no such judge.
    """
    given = given or {}
    if path is None:
        return _made({**PRESETS[preset or "default"], **given})
    text = read_text(path)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: no TOML: {error}") from error
    values = {name.replace("-", "_"): value for name, value in values.items()}
    with _naming_line(path, text, given):
        own = values.pop("preset", "default")
        if own not in PRESETS:
            raise RunError(f"preset: found {own!r}; give {', '.join(PRESETS)}")
        values = {n: _beside(n, value, path.absolute().parent) for n, value in values.items()}
        plan = _made({**PRESETS[preset or own], **values, **given})
        named = tuple(name for name in JUDGES if name in values and name not in given)
        return replace(plan, judges_of_file=named)


def _made(values: dict[str, Any]) -> Plan:
    """A plan of these options; scenarios that are not given are the shipped ones."""
    hard = {} if "test" in values else {"hard": "shipped"}  # own ones come without harder ones
    plan = Plan(**{"data": "shipped", "test": "shipped", **hard, **values})
    check_judges(plan)
    return plan


def _beside(name: str, value: Any, folder: Path) -> Any:
    """A value of a file, whole if it is a path in the file's folder."""
    if not isinstance(value, str) or value in (NONE, "shipped"):
        return value
    if name in (*SHIPPED, "accepted", "out"):
        return folder / value
    # What looks like a path is one; other words may be names on the hub.
    if name == "model" and (is_folder(folder / value) or value.startswith(".")):
        return str(folder / value)
    kind, mark, rest = value.partition(":")
    if name in JUDGES and kind != "http" and rest and exists(folder / rest):
        return f"{kind}{mark}{folder / rest}"
    return value


@contextmanager
def _naming_line(path: Path, text: str, given: Collection[str]) -> Iterator[None]:
    """Put the file, and the line if an option of it is to blame, before an error.

    Errors of options that were ``given`` beside the file stay as they are.
    """
    try:
        yield
    except CircuitsError as error:
        named = re.match(r"(?:--)?([\w-]+)(?:\.(\w+))?:|.*? '(\w+)'", str(error))
        outer, inner, other = named.groups() if named else (None,) * 3
        option = (outer or other or "").replace("-", "_")
        if option in given:
            raise
        for key in filter(None, (inner, option)):
            own = rf"[\s\[\"']*{re.escape(key).replace('_', '[-_]')}\b"
            found = [n for n, line in enumerate(text.split("\n"), 1) if re.match(own, line)]
            if found:
                raise type(error)(f"{path}, line {found[0]}: {error}") from error
        raise type(error)(f"{path}: {error}") from error


def judge_of(plan: Plan, option: str = "judge", profile: JudgeProfile = "robust") -> Judge:
    """The judge that an option names, asked in a way that matters to chat models only.

    Raises:
        JudgeError: there is no such judge, it does not know an emotion of the plan, or a file named
            its server, which would be sent a key.
        DataError: the file of one's own words or texts is missing or malformed.
    """
    try:
        spec = getattr(plan, option)
        judge = open_judge(spec, profile, labels=plan.emotions, meanings=plan.meanings)
    except CircuitsError as error:
        raise type(error)(f"{option}: {error}") from error
    of_file = option in plan.judges_of_file and not trusted("judge")
    if of_file and isinstance(judge, HttpJudge) and judge.sends_key_away:
        raise JudgeError(
            f"{option}: a file names the server {judge.host}, and it would be sent the key in "
            f"{judge.key_variable}; give --trust-judge (in Python: "
            'circuits.runs.plan.trusting("judge")) if the server is yours, or unset the variable'
        )
    return judge


def check_judges(plan: Plan) -> None:
    """Refuse judges that make no sense before anything is made, as :func:`judge_of` does."""
    for option in JUDGES:
        if getattr(plan, option):
            judge_of(plan, option)


def judge_file(spec: str | None) -> Path | None:
    """The file of one's own words or texts from which a judge is made."""
    kind, _, rest = (spec or "").partition(":")
    return Path(rest) if kind in ("lexicon", "wording") and rest else None
