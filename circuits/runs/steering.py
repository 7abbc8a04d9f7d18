"""Steering with the circuits of a run: validated, compared, used on a text, and written as files.

A run has the model's own differences. A circuit's file has not: they are measured once on shipped
contexts, and kept in the user's cache folder.
"""

import os
from collections.abc import Mapping, Sequence
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
from circuits.running import Reporter, execution
from circuits.runs.folder import Study, digest_of, made_beside
from circuits.runs.plan import CONFIG, STEERING_BUDGET, Count, Plan, checked, trusted
from circuits.runs.work import (
    Run,
    held_out,
    in_turn,
    part_counts,
    readouts,
    run_of,
    scenarios_of_test,
)
from circuits.steering import evaluate, validation
from circuits.steering.control_vectors import ControlVector, control_vector, write_gguf
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

__all__ = [
    "ReplyGenerator",
    "ValidationOptions",
    "cache_folder",
    "circuit_interventions",
    "deploy",
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
    options, study = options or ValidationOptions(), Study(folder)
    run = run_of(study, reporter)
    contexts = held_out(run, options.contexts)
    written = _differences(study, run.plan)
    known = validation.Known(
        study.totals, readouts(study), study.neutral_means, study.means, written
    )
    evaluator, n_emotions = run.evaluator(contexts), len(run.plan.emotions)
    provenance = study.importance.provenance.child(
        contexts=[context.id for context in contexts], draws=options.draws, seed=options.seed
    )
    place, unfinished = folder / "validation", study.journal_path("validate")
    key = digest_of([study.keys.get("circuits"), run.plan.to_json(), asdict(options)])
    with (
        made_beside(study, place, ("circuits",)),
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
            with run.task(f"ablate and add to {kind}s", n_emotions):
                found = validation.validate_components(
                    run.model, contexts, known, kind, draws=options.draws
                )
            found.save(place / kind)
            sizes = sizes_to(known.effects(run.plan.emotions[0], kind).numel(), options.reply_sizes)
            work = validation.replies_needed(evaluator, sizes, options.reply_draws)
            with run.task(f"reply without and with more of the {kind}s", work):
                replies = validation.validate_replies(
                    evaluator, known, kind, sizes, draws=options.reply_draws
                )
            replies.save(place / f"{kind}_replies")
        write_json(place / "ablation.json", _drop(run, evaluator, options.draws))
        write_json(place / "receipt.json", receipt.to_json())
    forget(unfinished)
    return place


def read_validation(
    study: Study,
) -> tuple[list[validation.Validation], list[validation.ReplyValidation], dict[str, Any]]:
    """What has been validated: effects, judged replies, ablation of the circuits; or nothing."""
    place = study.folder / "validation"
    if not (place / "receipt.json").is_file():
        return [], [], {}
    return (
        [validation.Validation.load(place / kind) for kind in KINDS],
        [validation.ReplyValidation.load(place / f"{kind}_replies") for kind in KINDS],
        read_json(place / "ablation.json"),
    )


def _differences(study: Study, plan: Plan) -> Differences:
    """The differences that are written into the model."""
    neutral = study.neutral_means if plan.relative_to == "neutral" else None
    return differences(study.written_means, neutral, unit=plan.diff_unit)


def _drop(run: Run, evaluator: evaluate.Evaluator, draws: int) -> dict[str, Any]:
    """What is lost without the most needed part of each circuit, as large as what steering writes.

    See :func:`~circuits.steering.validation.ablation_drop`; the mean over neutral prompts stands
    for it.
    """
    study, counts = run.study, part_counts(run.study, run.plan.control_budget)
    needed = {e: core(circuit, *counts, "total") for e, circuit in study.circuits.items()}
    work = (2 + draws) * len(evaluator.contexts) * len(evaluator.emotions)
    with run.task("reply without the circuits", work):
        return validation.ablation_drop(evaluator, needed, study.neutral_means, draws=draws)


_PROBE_CONTEXTS = 96
_GOOD_ENOUGH = 99.0


def steering(run: Run) -> None:
    """Compare all methods, sweep the circuit's strength, and say what it cost."""
    study, plan = run.study, run.plan
    interventions = _interventions(run)
    tuned, scenarios = _tuned(run, interventions), scenarios_of_test(plan)

    def compared(contexts: Sequence[Context], what: str, path: Path) -> evaluate.Comparison:
        methods = tuned.by_method
        with run.task(what, evaluate.compare_cost(len(contexts), len(plan.emotions), methods)):
            found = evaluate.compare(
                run.evaluator(contexts), interventions, methods, second=run.second_judge
            )
        _write_replies(path, found)
        return found

    found = compared(sev.contexts(scenarios), "reply by every method", study.replies_path)
    hard = None
    if plan.hard is not None:
        path, contexts = study.folder / "steering/hard_replies.jsonl", sev.read(plan.hard)
        harder = compared(sev.contexts(contexts), "reply in hard contexts", path)
        hard = {**harder.methods, **harder.baselines}
    said = {method: settings(how) for method, how in tuned.by_method.items()}
    write_json(
        study.folder / "steering.json",
        {
            **found.to_json(),
            "best_steering": tuned.best(evaluate.STEERED),
            "hard": hard,
            **_strengths(run, interventions, tuned, scenarios),
            "judge": _describe(run.judge),
            "second_judge": run.second_judge and _describe(run.second_judge),
            "settings": {**said, "tried": list(tuned.tried)},
        },
    )


def circuit_interventions(study: Study, plan: Plan) -> Interventions:
    """Circuits, differences and directions of a run.

    Raises:
        RunError: a stage that makes them has not run.
    """
    counts = part_counts(study, plan.control_budget)
    return Interventions(study.circuits, _differences(study, plan), study.directions, counts)


def written_how(study: Study) -> Modulation:
    """How the run's steering stage writes circuits; once at the prompt's end before it has run."""
    if "steering" not in study.keys:
        return Modulation()
    chosen = study.steering["settings"].get("circuit", {})
    return Modulation(**{**chosen, "by_emotion": tuple(chosen.get("by_emotion", {}).items())})


def _interventions(run: Run) -> Interventions:
    """Interventions of the planned methods; some need a pass over train contexts."""
    study, plan = run.study, run.plan
    found = circuit_interventions(study, plan)
    if "neurons" in plan.methods and found.parts is not None:
        neurons = {e: strongest_neurons(study.neurons, e, found.parts[1]) for e in plan.emotions}
        found = replace(found, neurons=neurons, means=study.means)
    if {"steer_neutral", "probe"} & {*plan.methods}:
        contexts = run.part_of_fit(_PROBE_CONTEXTS)
        with run.task("read residual streams", len(contexts) * (1 + len(plan.emotions))):
            streams = residuals(run.model, contexts, plan.emotions)
        with recorded(run.provenance(contexts=len(contexts))):
            found = replace(found, others=other_directions(streams, plan.emotions))
    return found


def _tuned(run: Run, interventions: Interventions) -> Tuned:
    """The settings of every method: as the plan gives them, or the best on dev contexts."""
    plan = run.plan
    like = Modulation(heads_at=plan.head_positions, neurons_at=plan.neuron_positions)
    candidates = {m: own for m, own in starts(interventions, like).items() if m in plan.methods}
    given: dict[str, InterventionSettings] = {}
    if not run.dev:
        given = {method: own[0] for method, own in candidates.items()}
    if "steer" in candidates and plan.steering == "published":
        given["steer"] = published_steering(len(run.study.importance.layer))
    elif "steer" in given:
        given["steer"] = Steering((run.study.importance.stable_layers[0],))
    if "circuit" in candidates and (plan.circuit_strength is not None or not run.dev):
        own = dict(plan.circuit_strength or ())
        strength = own.pop("other", 1.0)
        given["circuit"] = replace(
            like, strength=strength, when=plan.circuit_when, by_emotion=tuple(own.items())
        )
    candidates = {method: own for method, own in candidates.items() if method not in given}
    if not candidates:
        return Tuned(given, {}, ())
    brief = plan.tuning == "brief"
    with run.task("choose strengths on dev contexts", 0):
        found = tune(
            # One event per dev scenario; all events for the last round.
            run.evaluator(in_turn(run.dev)),
            interventions,
            candidates,
            finer=None if brief else run.evaluator(sev.contexts(run.dev)),
            good_enough=_GOOD_ENOUGH if brief else None,
        )
    return replace(found, by_method={**given, **found.by_method})


def _strengths(
    run: Run, interventions: Interventions, tuned: Tuned, scenarios: Sequence[sev.Scenario]
) -> dict[str, Any]:
    """Emotion prompts without the circuits; their strength swept, turned negative, and mixed."""
    how, count = tuned.by_method.get("circuit"), run.plan.sweep_contexts
    if not isinstance(how, Modulation) or not count:
        return dict.fromkeys(("ablation", "strengths", "suppression", "mixtures"))
    contexts = in_turn(sev.spread(scenarios, min(count, len(scenarios))))
    evaluator, emotions = run.evaluator(contexts), len(run.plan.emotions)
    ablation = _drop(run, evaluator, run.plan.ablation_draws)
    # Replies and losses of the sweep; replies of the others.
    work = len(contexts) * (1 + emotions * (2 + 2 * len(evaluate.STRENGTHS) + 3))
    with run.task("turn the circuit's strength", work):
        return {
            "ablation": ablation,
            "strengths": evaluate.strength_sweep(evaluator, interventions, how),
            "suppression": evaluate.suppression(evaluator, interventions, how),
            "mixtures": evaluate.mixtures(evaluator, interventions, how),
        }


def _write_replies(path: Path, found: evaluate.Comparison) -> None:
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
        rates = zip(("accuracy", "low", "high"), (found.accuracy, *found.interval), strict=True)
        rounded = {name: round(100 * rate, 1) for name, rate in rates}
        described["calibration"] = {"texts": found.n, **rounded}
    return described


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
    lacking = sorted({*weights} - {*generator.edits})
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
    run, how = run_of(study), written_how(study)
    found = circuit_interventions(study, run.plan)
    return ReplyGenerator(run.model, _edits(found.written(how), found.differences, how))


def generator_of_files(
    paths: Sequence[Path],
    model: str | None,
    reporter: Reporter | None = None,
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
    for path in paths:
        check_same_model(
            str(path),
            origins[path].model,
            describe_model(loaded),
            any_revision=any_revision,
            otherwise="give that model with --model, or take this one with --any-revision",
        )
    found: list[tuple[Path, str, Sequence[Add]]] = []
    if circuits:
        cfg = loaded.cfg
        counts = STEERING_BUDGET.counts(cfg.n_layers * cfg.n_heads, cfg.n_layers * cfg.d_mlp)
        written = {own.emotion: core(own, *counts) for own in circuits.values()}
        place = cache or cache_folder()
        edits = _edits(written, _kept(loaded, tuple(written), reporter, place), Modulation())
        found += [(path, own.emotion, edits[own.emotion]) for path, own in circuits.items()]
    found += [(path, *read_hooks(path, loaded)) for path in hooks]
    by_emotion: dict[str, Sequence[Add]] = {}
    for path, emotion, own in found:
        if emotion in by_emotion:
            raise RunError(f"{path}: another circuit of {emotion!r} was given before")
        by_emotion[emotion] = own
    return ReplyGenerator(loaded, by_emotion)


def _edits(
    circuits: Mapping[str, Circuit], differences: Differences, how: Modulation
) -> dict[str, list[Add]]:
    alone = replace(how, strength=1.0, by_emotion=())
    return {emotion: circuit_edits(own, differences, alone) for emotion, own in circuits.items()}


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/emotion-circuits``, or ``~/.cache/emotion-circuits``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emotion-circuits"


_CONTEXTS = 24


def _kept(
    model: Model, emotions: tuple[str, ...], reporter: Reporter | None, folder: Path
) -> Differences:
    """The model's own differences, measured once."""
    data, described = shipped("sev/train.jsonl"), describe_model(model)
    key = dumps([described, digest(data), _CONTEXTS, emotions, versions()], sort_keys=True)
    place = folder / sha256(key.encode()).hexdigest()[:24]
    if is_file(place / "record.json"):
        return Differences.load(place)
    contexts = in_turn(sev.spread(sev.read(data), _CONTEXTS))
    provenance = Provenance(described, digest(data), {"contexts": _CONTEXTS}, versions())
    work, reporter = len(contexts) * (1 + len(emotions)), reporter or Reporter()
    with (
        reporter.task("measure the differences", work) as done,
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
    run, how = run_of(study), replace(written_how(study), strength=1.0, by_emotion=())
    known = circuit_interventions(study, run.plan)
    chosen = study.steering["settings"].get("steer") if "steering" in study.keys else None
    along = Steering((study.importance.stable_layers[0],))
    if chosen is not None:
        along = Steering(tuple(chosen["layers"]), when=chosen["when"])
    of_direction = {"layers": list(along.layers), "when": along.when}
    stems = {e: file_stem(e) for e in study.emotions if not emotions or e in emotions}
    found = list[tuple[str, str, list[Add], Provenance]]()
    for emotion in stems:
        circuit, directions = known.written(how)[emotion], known.directions
        size = {"heads": len(circuit.heads), "neurons": len(circuit.neurons), "when": how.when}
        edits = steer(directions, emotion, along)
        found.append((emotion, "direction", edits, directions.provenance.child(**of_direction)))
        edits = circuit_edits(circuit, known.differences, how)
        found.append((emotion, "circuit", edits, circuit.provenance.child(**size)))
    made: dict[Path, tuple[ControlVector, tuple[Loss, ...]]] = {}
    written: dict[Path, tuple[Loss, ...]] = {}
    rms = study.directions.sel(sublayer="mlp").rms[0]
    for emotion, kind, edits, provenance in found if "gguf" in formats else ():
        with recorded(provenance):
            vector = control_vector(run.model, edits, emotion, rms=rms)
        made[folder / f"{stems[emotion]}.{kind}.gguf"] = vector
    for path, (vector, lost) in made.items():  # what cannot be a vector leaves nothing behind
        write_gguf(vector, path)
        written[path] = lost
    for emotion, kind, edits, provenance in found if "hf" in formats else ():
        path = folder / f"{stems[emotion]}.{kind}.safetensors"
        with recorded(provenance):
            write_hooks(run.model, edits, emotion, path)
        written[path] = ()
    for stem in stems.values():
        own = {p.name: lost for p, lost in written.items() if p.name.startswith(f"{stem}.")}
        add_losses(folder, stem, own)
    return written
