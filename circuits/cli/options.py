"""Options that commands share, and what their texts mean."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from circuits.errors import RunError

if TYPE_CHECKING:
    from circuits.runs.plan import Stage

__all__ = [
    "ANYWHERE",
    "Accepted",
    "Against",
    "Batch",
    "BudgetOption",
    "Contexts",
    "Data",
    "Debug",
    "DevScenarios",
    "Device",
    "DeviceMap",
    "Doses",
    "Dtype",
    "Emotions",
    "Engine",
    "JudgeOption",
    "Memory",
    "Mode",
    "Model",
    "Out",
    "PlanOption",
    "PresetOption",
    "RayAddress",
    "ReadOption",
    "ReadoutOption",
    "Revision",
    "RunOut",
    "Scenarios",
    "ScoreContexts",
    "Seed",
    "Settings",
    "SomeEmotions",
    "StableLayers",
    "Stages",
    "Test",
    "TestScenarios",
    "TrustCode",
    "TrustJudge",
    "Workers",
    "allowed",
    "checked_stages",
    "given_options",
    "settings",
    "words",
]

Model = Annotated[str | None, typer.Option(help="Name on the Hugging Face hub, or a local folder.")]
RunOut = Annotated[Path | None, typer.Option(help="Folder for the results.")]
PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan file (TOML); options that are given as well go before it."),
]
Out = Annotated[Path | None, typer.Option(help="Folder for the results.")]
PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan file (TOML); options that are given as well go before it."),
]
KeepCode = Annotated[
    bool,
    typer.Option(
        "--keep-code", help="Take stages as done of which nothing has changed but the code."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Data = Annotated[
    Path | None, typer.Option(help="Train scenarios (JSON lines); the shipped ones by default.")
]
Test = Annotated[
    Path | None, typer.Option(help="Test scenarios (JSON lines); the shipped ones by default.")
]
JudgeOption = Annotated[
    str, typer.Option(help="lexicon, wording, classifier:MODEL, or http:BASE_URL#MODEL.")
]
Emotions = Annotated[str, typer.Option(help="Comma-separated.")]
Scenarios = Annotated[int | None, typer.Option(help="Use only so many train scenarios.")]
TestScenarios = Annotated[int | None, typer.Option(help="Use only so many test scenarios.")]
ScoreContexts = Annotated[
    int, typer.Option(help="Test contexts on which circuits are scored; 2 or more.")
]
Accepted = Annotated[
    Path | None,
    typer.Option(help="Judged replies to start from, instead of the model's own (JSON lines)."),
]
PresetOption = Annotated[
    Literal["default", "published", "as-released"],
    typer.Option(
        "--preset", help="Our defaults, the published method, or its scripts as they are."
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="Any other option, such as diff_prompt=indented; "
        "goes before the preset's value. May be given several times.",
    ),
]
DevScenarios = Annotated[
    int, typer.Option(help="Train scenarios kept for the choice of strengths; 0: no choice.")
]
Stages = Annotated[str, typer.Option(help="Comma-separated; all by default.")]
StableLayers = Annotated[
    str, typer.Option(help="Layers of the reference direction, e.g. 21,22,23.")
]
Doses = Annotated[str, typer.Option(help="Injected lengths in units of rms.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
BudgetOption = Annotated[
    str, typer.Option(help="Share of heads and of neurons in a circuit; 0.20,0.05.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; cuda if there is one.")]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Spread one model over the GPUs of a machine: auto, balanced or sequential, as of "
        "accelerate; instead of --device."
    ),
]
Engine = Annotated[
    Literal["here", "ray"],
    typer.Option(help="Do the work in this process, or on Ray workers (extra 'ray')."),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Ray workers; by default one per GPU, or without GPUs one per core."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="A Ray cluster to join, such as auto; by default one is started here."),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option(help="Number type of the weights.")
]
ReadOption = Annotated[
    Literal["prompt", "reply"],
    typer.Option("--read", help="Read directions at the last prompt position or over the reply."),
]
SomeEmotions = Annotated[str, typer.Option(help="Emotions, comma-separated; all by default.")]
Against = Annotated[str, typer.Option(help="plain, or another emotion.")]
Mode = Annotated[
    Literal["denoising", "noising"],
    typer.Option(help="Clean values into the corrupt run, or the other way round."),
]
ReadoutOption = Annotated[
    Literal["projection", "logits", "reply"],
    typer.Option(
        "--readout", help="Projection on the direction, emotion words, or judged replies."
    ),
]
Contexts = Annotated[int, typer.Option(help="How many test contexts.")]
Batch = Annotated[int, typer.Option(help="Prompts at once, at most.")]
Memory = Annotated[
    float,
    typer.Option(
        help="Gigabytes beside the weights for values kept for a second look and for one pass; "
        "what does not fit is made again."
    ),
]


def words(text: str) -> tuple[str, ...]:
    """Comma-separated words.

    >>> words("anger, fear")
    ('anger', 'fear')
    """
    return tuple(word.strip() for word in text.split(",") if word.strip())


def checked_stages(text: str) -> "tuple[Stage, ...]":
    """Comma-separated stages; all of them for an empty text.

    Raises:
        RunError: a stage is unknown.
    """
    from circuits.runs.plan import STAGES

    wanted = words(text) or STAGES
    for word in wanted:
        if word not in STAGES:
            raise RunError(f"--stages: {word!r} is not known; stages are {', '.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage in wanted)


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code that comes with a model. It can do all that you can."
    ),
]
TrustJudge = Annotated[
    bool,
    typer.Option(
        "--trust-judge", help="Send your key to the judge's server that a plan or a run names."
    ),
]

ANYWHERE: Final = ("--debug", "--trust-remote-code", "--trust-judge")


def allowed(given: Sequence[str]) -> AbstractContextManager[None]:
    """What the given options allow while a command is at work."""
    if not {"--trust-remote-code", "--trust-judge"} & {*given}:
        return nullcontext()
    # Loaded here: the pipeline is heavy, and --help is to be quick.
    from circuits.runs.plan import trusting

    code = ("code",) if "--trust-remote-code" in given else ()
    judge = ("judge",) if "--trust-judge" in given else ()
    return trusting(*code, *judge)


_TEXTS = ("emotions", "doses", "stable_layers", "budget")


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Options of a plan from texts such as ``diff_prompt=indented``.

    Raises:
        RunError: no option has the name, or the value is none of those that it takes.
    """
    from circuits.runs.plan_files import option_of_text

    found: dict[str, Any] = {}
    for text in texts:
        name, mark, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not mark:
            raise RunError(f"--set: {text!r} sets nothing; write option=value")
        try:
            found[name] = option_of_text(name, value)
        except RunError as error:
            before = " " if str(error).startswith(f"{name}:") else ": "
            raise RunError(f"--set{before}{error}") from error
    return found


def given_options(context: "typer.Context", names: Sequence[str]) -> dict[str, Any]:
    """Those of the named options that were typed, not left at their defaults.

    Raises:
        RunError: a list or a budget cannot be read.
    """
    from circuits.runs.plan_files import option_of_text

    found: dict[str, Any] = {}
    for name in names:
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if name in _TEXTS:
            try:
                value = option_of_text(name, value)
            except RunError as error:
                raise RunError(f"--{str(error).replace('_', '-', 1)}") from error
        found[name] = value
    return found
