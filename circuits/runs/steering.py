"""Steering with the circuits of a run: validated, compared, used on a text, and written as files.

One text answered in an emotion, by a run's circuits or by circuits from files.

A run has the model's own differences. A circuit's file has not: they are measured once on shipped
contexts, and kept in the user's cache folder.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as options_dataclass

from circuits.circuit.ablate import PartKind, sizes_to
from circuits.circuit.circuit import Circuit, check_same_model, core
from circuits.effects.activations import Differences, differences
from circuits.effects.directions import own_differences
from circuits.errors import CircuitError, RunError
from circuits.export import file_stem
from circuits.export.node_link import read_circuit
from circuits.files import (
    Loss,
    add_losses,
    digest,
    is_file,
    read_json,
    remove_leftovers,
    shipped,
    write_json,
    write_json_lines,
)
from circuits.journal import forget, journal
from circuits.judges import Judge, LexiconJudge, WordingJudge, error_rate
from circuits.models.edits import Add, edited
from circuits.models.generate import elicit
from circuits.models.load import describe_model, load_model
from circuits.models.memory import counted
from circuits.models.protocol import Model
from circuits.names import EMOTIONS
from circuits.prompts import sev
from circuits.prompts.sev import Context
from circuits.prompts.templates import context_of, neutral_prompt
from circuits.provenance import Provenance, recorded, versions
from circuits.running import execution
from circuits.runs.folder import Study, digest_of, made_beside
from circuits.runs.plan import CONFIG, STEERING_BUDGET, Count, Plan, checked, trusted
from circuits.runs.work import (
    Reporter,
    Run,
    Silent,
    held_out,
    in_turn,
    part_counts,
    plan_of,
    readouts,
    scenarios_of_test,
)
from circuits.steering.control_vectors import ControlVector, control_vector, write_gguf
from circuits.steering.evaluate import (
    STEERED,
    STRENGTHS,
    Comparison,
    Evaluator,
    compare,
    compare_cost,
    mixtures,
    strength_sweep,
    suppression,
)
from circuits.steering.hook_files import hooks_provenance, read_hooks, write_hooks
from circuits.steering.interventions import (
    Interventions,
    InterventionSettings,
    Modulation,
    Steering,
    circuit_edits,
    other_directions,
    published_steering,
    residuals,
    steer,
    strongest_neurons,
)
from circuits.steering.tune import Tuned, settings, starts, tune
from circuits.steering.validation import (
    Known,
    ReplyValidation,
    Validation,
    ablation_drop,
    replies_needed,
    validate_components,
    validate_replies,
)

__all__ = [
    "ReplyGenerator",
    "ValidationOptions",
    "cache_folder",
    "circuit_interventions",
    "deploy",
    "drop",
    "generator_of_files",
    "generator_of_run",
    "read_validation",
    "say",
    "steering",
    "validate",
    "written_how",
]

KINDS: tuple[PartKind, ...] = ("head", "neuron")


@checked
@options_dataclass(frozen=True, config=CONFIG)
class ValidationOptions:
    """How much is measured."""

    contexts: Annotated[int, Field(ge=2)] = 16
    """Test contexts."""
    draws: Count = 30
    """Random sets, of every size and beside the circuits."""
    reply_sizes: Annotated[int, Field(ge=2)] = 5
    """Sizes of sets for which replies are judged."""
    reply_draws: Count = 2
    """Random sets of each of them."""
    seed: int = 0
    """Of everything random."""


def validate(
    folder: Path, options: ValidationOptions | None = None, reporter: Reporter | None = None
) -> Path:
    """Ablate and add to the components of every emotion; ablate its circuit in emotion prompts.

    Writes ``validation/`` in the run folder: ``head`` and ``neuron`` (effects on the readouts),
    ``head_replies`` and ``neuron_replies`` (judged replies), ``ablation.json`` and the receipt.

    Raises:
        RunError: the run has no circuits, or holds imported results.
        DataError: a test context is one that the circuits were made from.
    """
    options = options or ValidationOptions()
    study = Study(folder)
    run = Run(plan_of(study), study, reporter or Silent())
    contexts = held_out(run, options.contexts)
    known, evaluator = _known(run), run.evaluator(contexts)
    provenance = run.study.importance.provenance.child(
        contexts=[context.id for context in contexts], draws=options.draws, seed=options.seed
    )
    place = folder / "validation"
    unfinished = run.study.journal_path("validate")
    key = digest_of([run.study.keys.get("circuits"), run.plan.to_json(), asdict(options)])
    with (
        made_beside(run.study, place, ("circuits",)),
        counted() as receipt,
        journal(unfinished, key),
        run.as_planned(),
        execution(seed=options.seed),
        recorded(provenance),
    ):
        remove_leftovers(folder)
        # Without the receipt what is there counts as not made.
        (place / "receipt.json").unlink(missing_ok=True)
        for kind in KINDS:
            with run.task(f"ablate and add to {kind}s", len(run.plan.emotions)):
                found = validate_components(run.model, contexts, known, kind, draws=options.draws)
            found.save(place / kind)
            _validate_replies(run, evaluator, known, kind, options).save(place / f"{kind}_replies")
        write_json(place / "ablation.json", drop(run, evaluator, options.draws))
        write_json(place / "receipt.json", receipt.to_json())
    forget(unfinished)
    return place


def read_validation(study: Study) -> tuple[list[Validation], list[ReplyValidation], dict[str, Any]]:
    """What has been validated: effects, judged replies, ablation of the circuits; or nothing."""
    place = study.folder / "validation"
    if not (place / "receipt.json").is_file():
        return [], [], {}
    return (
        [Validation.load(place / kind) for kind in KINDS],
        [ReplyValidation.load(place / f"{kind}_replies") for kind in KINDS],
        read_json(place / "ablation.json"),
    )


def _known(run: Run) -> Known:
    study, written = run.study, _written(run.study, run.plan)
    return Known(study.totals, readouts(study), study.neutral_means, study.means, written)


def _written(study: Study, plan: Plan) -> Differences:
    """The differences that are written into the model."""
    plain = study.neutral_means if plan.relative_to == "neutral" else None
    return differences(study.written_means, plain, unit=plan.diff_unit)


def _validate_replies(
    run: Run, evaluator: Evaluator, known: Known, kind: PartKind, options: ValidationOptions
) -> ReplyValidation:
    count = known.effects(evaluator.emotions[0], kind).numel()
    sizes = sizes_to(count, options.reply_sizes)
    work = replies_needed(evaluator, sizes, options.reply_draws)
    with run.task(f"reply without and with more of the {kind}s", work):
        return validate_replies(evaluator, known, kind, sizes, draws=options.reply_draws)


def drop(run: Run, evaluator: Evaluator, draws: int) -> dict[str, Any]:
    """What is lost without the most needed part of each circuit, as large as what steering writes.

    See :func:`~circuits.steering.validation.ablation_drop`; the mean over neutral prompts stands
    for it.
    """
    study, counts = run.study, part_counts(run.study, run.plan.control_budget)
    needed: dict[str, Circuit] = {
        emotion: core(circuit, *counts, "total") for emotion, circuit in study.circuits.items()
    }
    work = (2 + draws) * len(evaluator.contexts) * len(evaluator.emotions)
    with run.task("reply without the circuits", work):
        return ablation_drop(evaluator, needed, study.neutral_means, draws=draws)


_PROBE_CONTEXTS = 96
_GOOD_ENOUGH = 99.0


def steering(run: Run) -> None:
    """Compare all methods, sweep the circuit's strength, and say what it cost."""
    study, plan = run.study, run.plan
    interventions = _interventions(run)
    tuned = _tuned(run, interventions)
    scenarios = scenarios_of_test(plan)
    found = _compared(run, interventions, tuned, sev.contexts(scenarios), "reply by every method")
    _write_replies(study.replies_path, found)
    hard = None
    if plan.hard is not None:
        contexts = sev.contexts(sev.read(plan.hard))
        harder = _compared(run, interventions, tuned, contexts, "reply in hard contexts")
        _write_replies(study.folder / "steering" / "hard_replies.jsonl", harder)
        hard = {**harder.methods, **harder.baselines}
    write_json(
        study.folder / "steering.json",
        {
            **found.to_json(),
            "best_steering": tuned.best(STEERED),
            "hard": hard,
            **_strengths(run, interventions, tuned, scenarios),
            "judge": _describe(run.judge),
            "second_judge": run.second_judge and _describe(run.second_judge),
            "settings": {m: settings(how) for m, how in tuned.by_method.items()}
            | {"tried": list(tuned.tried)},
        },
    )


def circuit_interventions(study: Study, plan: Plan) -> Interventions:
    """Circuits, differences and directions of a run.

    Raises:
        RunError: a stage that makes them has not run.
    """
    counts = part_counts(study, plan.control_budget)
    return Interventions(study.circuits, _written(study, plan), study.directions, counts)


def written_how(study: Study) -> Modulation:
    """How the run's steering stage writes circuits; once at the prompt's end before it has run."""
    if "steering" not in study.log["stages"]:
        return Modulation()
    chosen = study.steering["settings"].get("circuit", {})
    return Modulation(**{**chosen, "by_emotion": tuple(chosen.get("by_emotion", {}).items())})


def _interventions(run: Run) -> Interventions:
    """Interventions of the planned methods; some need a pass over train contexts."""
    study, plan = run.study, run.plan
    interventions = circuit_interventions(study, plan)
    if "neurons" in plan.methods and interventions.parts is not None:
        count = interventions.parts[1]
        strongest = {e: strongest_neurons(study.neurons, e, count) for e in plan.emotions}
        interventions = replace(interventions, neurons=strongest, means=study.means)
    if {"steer_neutral", "probe"} & {*plan.methods}:
        contexts = run.part_of_fit(_PROBE_CONTEXTS)
        work = len(contexts) * (1 + len(plan.emotions))
        with run.task("read residual streams", work):
            streams = residuals(run.model, contexts, plan.emotions)
        provenance = run.provenance(contexts=len(contexts))
        with recorded(provenance):
            interventions = replace(interventions, others=other_directions(streams, plan.emotions))
    return interventions


def _compared(
    run: Run, interventions: Interventions, tuned: Tuned, contexts: Sequence[Context], what: str
) -> Comparison:
    evaluator, by_method = run.evaluator(contexts), tuned.by_method
    with run.task(what, compare_cost(len(contexts), len(run.plan.emotions), by_method)):
        return compare(evaluator, interventions, by_method, second=run.second_judge)


def _tuned(run: Run, interventions: Interventions) -> Tuned:
    plan = run.plan
    like = Modulation(heads_at=plan.head_positions, neurons_at=plan.neuron_positions)
    candidates = {m: own for m, own in starts(interventions, like).items() if m in plan.methods}
    given = _given(run, like, candidates)
    candidates = {method: own for method, own in candidates.items() if method not in given}
    if not candidates:
        return Tuned(given, {}, ())
    # One event per dev scenario; all events for the last round.
    some, every = in_turn(run.dev), sev.contexts(run.dev)
    brief = plan.tuning == "brief"
    with run.task("choose strengths on dev contexts", 0):
        found = tune(
            run.evaluator(some),
            interventions,
            candidates,
            finer=None if brief else run.evaluator(every),
            good_enough=_GOOD_ENOUGH if brief else None,
        )
    return replace(found, by_method={**given, **found.by_method})


def _given(
    run: Run, like: Modulation, candidates: dict[str, list[InterventionSettings]]
) -> dict[str, InterventionSettings]:
    """What is not chosen on dev contexts: what the plan says, and all of it without them."""
    plan, found = run.plan, run.study.importance
    given: dict[str, InterventionSettings] = (
        {} if run.dev else {m: by_method[0] for m, by_method in candidates.items()}
    )
    if not run.dev and "steer" in candidates:
        given["steer"] = Steering((found.stable_layers[0],))
    if plan.steering == "published" and "steer" in candidates:
        given["steer"] = published_steering(len(found.layer))
    if "circuit" in candidates and (plan.circuit_strength is not None or not run.dev):
        own = dict(plan.circuit_strength or ())
        given["circuit"] = replace(
            like,
            strength=own.pop("other", 1.0),
            when=plan.circuit_when,
            by_emotion=tuple(own.items()),
        )
    return given


def _strengths(
    run: Run, interventions: Interventions, tuned: Tuned, scenarios: Sequence[sev.Scenario]
) -> dict[str, Any]:
    """Emotion prompts without the circuits; their strength swept, turned negative, and mixed."""
    how, count = tuned.by_method.get("circuit"), run.plan.sweep_contexts
    if not isinstance(how, Modulation) or not count:
        return dict.fromkeys(("ablation", "strengths", "suppression", "mixtures"))
    contexts = in_turn(sev.spread(scenarios, min(count, len(scenarios))))
    evaluator, emotions = run.evaluator(contexts), len(run.plan.emotions)
    # Replies and losses of the sweep; replies of the others.
    work = len(contexts) * (1 + emotions * (2 + 2 * len(STRENGTHS) + 3))
    ablation = drop(run, evaluator, run.plan.ablation_draws)
    with run.task("turn the circuit's strength", work):
        return {
            "ablation": ablation,
            "strengths": strength_sweep(evaluator, interventions, how),
            "suppression": suppression(evaluator, interventions, how),
            "mixtures": mixtures(evaluator, interventions, how),
        }


def _write_replies(path: Path, found: Comparison) -> None:
    rows = []
    for method, judged in found.replies.items():
        for place, row in enumerate(judged):
            values = {"method": method, **row.to_json()}
            if method in found.second:
                verdict = found.second[method][place]
                values["second_judge"] = {"match": int(verdict.match), "label": verdict.label}
            rows.append(values)
    write_json_lines(path, rows)


def _describe(judge: Judge) -> dict[str, Any]:
    described = {"name": judge.name, **judge.describe()}
    # The shipped texts are of the six emotions: they measure no judge of others.
    if isinstance(judge, LexiconJudge | WordingJudge) and {*judge.labels} == {*EMOTIONS}:
        found = error_rate(judge, shipped("judge/labelled.jsonl"))
        described["calibration"] = {
            "texts": found.n,
            "accuracy": round(100 * found.accuracy, 1),
            "low": round(100 * found.interval[0], 1),
            "high": round(100 * found.interval[1], 1),
        }
    return described


_CONTEXTS = 24


@dataclass(frozen=True, eq=False)
class ReplyGenerator:
    """A model, and what can be written into it."""

    model: Model
    edits: Mapping[str, Sequence[Add]]
    """Emotion -> its edits at strength 1, the model's own difference."""


def say(
    generator: ReplyGenerator, text: str, weights: Mapping[str, float], *, max_new_tokens: int = 100
) -> str:
    """What the model replies to a text when circuits are written into it.

    Args:
        generator: The model and its circuits.
        text: What the user says; put to the model in two lines, as contexts are.
        weights: Emotion -> strength; 1 is the model's own difference, negative suppresses.
        max_new_tokens: Longest reply.

    Raises:
        DataError: the text is empty.
        CircuitError: an emotion has no circuit.
    """
    prompt = neutral_prompt(context_of(text))
    lacking = sorted(set(weights) - set(generator.edits))
    if lacking:
        known = ", ".join(generator.edits) or "none"
        raise CircuitError(f"there is no circuit of {lacking[0]!r}; there are {known}")
    edits = [
        replace(edit, value=weight * edit.value)
        for emotion, weight in weights.items()
        for edit in generator.edits[emotion]
    ]
    with edited(generator.model, edits):
        (reply,) = elicit(generator.model, [prompt], max_new_tokens=max_new_tokens)
    return reply.text


def generator_of_run(study: Study) -> ReplyGenerator:
    """The model of a finished run with its circuits and differences.

    They are written as the run's steering stage chose, or by default once at the prompt's end.

    Raises:
        RunError: the run has no circuits, or no model.
    """
    run = Run(plan_of(study), study, Silent())
    interventions, how = circuit_interventions(study, run.plan), written_how(study)
    return ReplyGenerator(
        run.model, _edits(interventions.written(how), interventions.differences, how)
    )


def generator_of_files(
    paths: Sequence[Path],
    model: str | None,
    reporter: Reporter,
    *,
    any_revision: bool = False,
    cache: Path | None = None,
) -> ReplyGenerator:
    """A model with circuits or directions from files, one emotion each.

    Args:
        paths: Circuits as node-link JSON, or files of hooks (``.safetensors``), which say
            themselves what is written.
        model: Name or folder of the model; by default what the first file names.
        reporter: Told of the passes that measure the differences of circuits.
        any_revision: Take a file of other weights of the same sizes.
        cache: Where they are kept; by default :func:`cache_folder`.

    Raises:
        RunError: no file names its model and none is given, or two files have the same emotion.
        CircuitError: a file is of another model.
    """
    hooks = [path for path in paths if path.suffix == ".safetensors"]
    circuits = {path: read_circuit(path) for path in paths if path not in hooks}
    origins = {path: circuit.provenance for path, circuit in circuits.items()}
    origins |= {path: hooks_provenance(path) for path in hooks}
    named = model or origins[paths[0]].model.get("name")
    if not named:
        raise RunError(f"{paths[0]} does not say which model it is of; give --model")
    loaded = load_model(str(named), trust_remote_code=trusted("code"))
    found: list[tuple[Path, str, Sequence[Add]]] = []
    described = describe_model(loaded)
    for path in paths:
        check_same_model(
            str(path),
            origins[path].model,
            described,
            any_revision=any_revision,
            otherwise="give that model with --model, or take this one with --any-revision",
        )
    if circuits:
        written = _strongest(circuits.values(), loaded)
        differences = _kept(loaded, tuple(written), reporter, cache or cache_folder())
        edits = _edits(written, differences, Modulation())
        found += [(path, own.emotion, edits[own.emotion]) for path, own in circuits.items()]
    found += [(path, *read_hooks(path, loaded)) for path in hooks]
    by_emotion: dict[str, Sequence[Add]] = {}
    for path, emotion, own in found:
        if emotion in by_emotion:
            raise RunError(f"{path}: another circuit of {emotion!r} was given before")
        by_emotion[emotion] = own
    return ReplyGenerator(loaded, by_emotion)


def _strongest(circuits: Iterable[Circuit], model: Model) -> dict[str, Circuit]:
    """The part of each circuit that is written."""
    cfg = model.cfg
    counts = STEERING_BUDGET.counts(cfg.n_layers * cfg.n_heads, cfg.n_layers * cfg.d_mlp)
    return {circuit.emotion: core(circuit, *counts) for circuit in circuits}


def _edits(
    circuits: Mapping[str, Circuit], differences: Differences, how: Modulation
) -> dict[str, list[Add]]:
    alone = replace(how, strength=1.0, by_emotion=())
    return {emotion: circuit_edits(own, differences, alone) for emotion, own in circuits.items()}


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/emotion-circuits``, or ``~/.cache/emotion-circuits``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emotion-circuits"


def _kept(model: Model, emotions: tuple[str, ...], reporter: Reporter, folder: Path) -> Differences:
    data, described = shipped("sev/train.jsonl"), describe_model(model)
    key = dumps([described, digest(data), _CONTEXTS, emotions, versions()], sort_keys=True)
    place = folder / sha256(key.encode()).hexdigest()[:24]
    if is_file(place / "record.json"):
        return Differences.load(place)
    contexts = in_turn(sev.spread(sev.read(data), _CONTEXTS))
    provenance = Provenance(described, digest(data), {"contexts": _CONTEXTS}, versions())
    with (
        reporter.task("measure the differences", len(contexts) * (1 + len(emotions))) as done,
        execution(progress=done),
        recorded(provenance),
    ):
        found = own_differences(model, contexts, emotions)
    found.save(place)
    return found


def deploy(
    study: Study, folder: Path, formats: Sequence[str], emotions: Sequence[str] = ()
) -> dict[Path, tuple[Loss, ...]]:
    """Write every emotion's direction and circuit in each of ``formats``.

    A circuit is its strongest part, as the run writes it into the model; a direction is added where
    the run steers. Both at strength 1, the model's own difference.

    Args:
        study: A run with its circuits.
        folder: Made if it is not there.
        formats: Some of :data:`~circuits.steering.APPLIED`.
        emotions: All by default.

    Returns:
        The files, and what each does not keep (nothing, in files of hooks); this also stands
        beside them in a file per emotion.

    Raises:
        RunError: a stage has not run, or the package ``gguf`` is not installed.
        ModelError: the run's model cannot be loaded.
        DataError: the folder cannot be written to.
    """
    run = Run(plan_of(study), study, Silent())
    chosen = [emotion for emotion in study.emotions if not emotions or emotion in emotions]
    found = [
        (emotion, kind, edits, provenance)
        for emotion in chosen
        for kind, (edits, provenance) in _edits_of_files(run, emotion).items()
    ]
    written: dict[Path, tuple[Loss, ...]] = {}
    if "gguf" in formats:
        written |= _vectors(run, found, folder)
    if "hf" in formats:
        for emotion, kind, edits, provenance in found:
            path = folder / f"{file_stem(emotion)}.{kind}.safetensors"
            with recorded(provenance):
                write_hooks(run.model, edits, emotion, path)
            written[path] = ()
    for emotion in chosen:
        stem = file_stem(emotion)
        own = {p.name: lost for p, lost in written.items() if p.name.startswith(f"{stem}.")}
        add_losses(folder, stem, own)
    return written


_Found = tuple[str, str, list[Add], Provenance]
"""Emotion, ``direction`` or ``circuit``, its edits, and where they come from."""


def _edits_of_files(run: Run, emotion: str) -> dict[str, tuple[list[Add], Provenance]]:
    study = run.study
    modulation = replace(written_how(study), strength=1.0, by_emotion=())
    interventions, steering = circuit_interventions(study, run.plan), _steering(study)
    circuit = interventions.written(modulation)[emotion]
    return {
        "direction": (
            steer(interventions.directions, emotion, steering),
            interventions.directions.provenance.child(
                layers=list(steering.layers), when=steering.when
            ),
        ),
        "circuit": (
            circuit_edits(circuit, interventions.differences, modulation),
            circuit.provenance.child(
                heads=len(circuit.heads), neurons=len(circuit.neurons), when=modulation.when
            ),
        ),
    }


def _steering(study: Study) -> Steering:
    """As the steering stage steers, at strength 1; at the first stable layer, if it has not run."""
    has_run = "steering" in study.log["stages"]
    chosen = study.steering["settings"].get("steer") if has_run else None
    if chosen is None:
        return Steering((study.importance.stable_layers[0],))
    return Steering(tuple(chosen["layers"]), when=chosen["when"])


def _vectors(run: Run, found: Sequence[_Found], folder: Path) -> dict[Path, tuple[Loss, ...]]:
    rms = run.study.directions.sel(sublayer="mlp").rms[0]
    made: dict[Path, tuple[ControlVector, tuple[Loss, ...]]] = {}
    for emotion, kind, edits, provenance in found:
        path = folder / f"{file_stem(emotion)}.{kind}.gguf"
        with recorded(provenance):
            made[path] = control_vector(run.model, edits, emotion, rms=rms)
    for path, (vector, _) in made.items():
        write_gguf(vector, path)
    return {path: lost for path, (_, lost) in made.items()}
