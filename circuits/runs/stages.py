"""The stages of a run: each reads what earlier ones saved, and saves its own results."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from circuits.circuit.find import Measurements, assemble
from circuits.effects.activations import component_means, differences
from circuits.effects.directions import direction_generality, emotion_directions, stable_layers
from circuits.effects.heads import head_effects
from circuits.effects.importance import sublayer_importance
from circuits.effects.neurons import direct_effects, neuron_effects, without_neurons
from circuits.errors import CircuitsError, RunError, Stopped
from circuits.export import export_circuit
from circuits.export.node_link import write_circuit
from circuits.files import (
    HOLDER,
    LOCK,
    held,
    is_file,
    is_folder,
    is_leftover,
    remove_leftovers,
    write_json,
    write_text,
)
from circuits.journal import forget, journal, stop_if_asked
from circuits.judges.replies import (
    accuracy_stats,
    judge_replies,
    read_judged,
    read_replies,
    write_rows,
)
from circuits.models.generate import elicit
from circuits.models.memory import counted
from circuits.patching.totals import total_estimates
from circuits.prompts.templates import emotion_prompts
from circuits.provenance import recorded, versions
from circuits.running import Reporter
from circuits.runs.folder import Study, is_there
from circuits.runs.keys import key_of, made_of
from circuits.runs.plan import PLAN_FILE, STAGES, Plan, Stage, check_judges, no_stage, plan_toml
from circuits.runs.report import make_report
from circuits.runs.steering import steering
from circuits.runs.work import GRADIENT_CONTEXTS, Run, part_counts, scores

__all__ = ["at_work", "run"]


def replies(run: Run) -> None:
    """Ask for every emotion in every context, unless judged replies are given."""
    if run.plan.accepted:
        said = [row.reply for row in read_judged(run.plan.accepted)]
    else:
        prompts = emotion_prompts(run.fit, run.plan.emotions)
        with run.task("reply with the target emotions", len(prompts)):
            said = elicit(run.model, prompts, max_new_tokens=run.plan.max_new_tokens)
    write_rows(run.study.folder / "elicitation" / "generated.jsonl", said)


def judgements(run: Run) -> None:
    """Judge the replies; accepted ones go on."""
    folder = run.study.folder / "elicitation"
    if run.plan.accepted:
        judged = read_judged(run.plan.accepted)
    else:
        said = read_replies(folder / "generated.jsonl")
        with run.task("judge the replies", len(said)):
            judged = judge_replies(said, run.judge)
    for name, match in (("accepted", True), ("rejected", False)):
        write_rows(folder / f"{name}.jsonl", [own for own in judged if own.verdict.match == match])
    stats = accuracy_stats(judged, (run.plan.accepted or run.plan.data).stem)
    write_json(folder / "accuracy_stats.json", stats)


def directions(run: Run) -> None:
    """Emotion directions."""
    with recorded(run.provenance(read=run.plan.read)):
        found = emotion_directions(run.activations, read=run.plan.read)
    found.save(run.study.folder / "directions")


def effects(run: Run) -> None:
    """Effects of heads and neurons, their means, and how far directions generalise."""
    found, folder = run.study.directions, run.study.folder / "effects"
    activations, plan = run.activations, run.plan
    provenance = found.provenance.child(head_readout=plan.head_readout)
    with recorded(found.provenance.child(seed=plan.seed)):
        direction_generality(activations).save(run.study.folder / "generality")
    with recorded(provenance):
        heads = head_effects(run.model, activations, found, readout=plan.head_readout)
        heads.save(folder / "heads")
        if run.model.cfg.d_mlp:
            neurons = neuron_effects(run.model, activations, found)
        else:
            neurons = without_neurons(activations, found)
            run.notes["neurons"] = "none: the MLPs of this model are not sums over neurons"
        neurons.save(folder / "neurons")
        component_means(activations).save(folder / "means")
    shutil.rmtree(folder / "written_means", ignore_errors=True)
    if plan.reads_apart:
        apart = provenance.child(
            diff_prompt=plan.diff_prompt, diff_grouping=plan.diff_grouping, half=plan.half
        )
        with recorded(apart):
            component_means(run.written_activations).save(folder / "written_means")


def importance(run: Run) -> None:
    """Importance of every sublayer."""
    plan, found = run.plan, run.study.directions
    stable = plan.stable_layers or stable_layers(len(found.layer))
    provenance = found.provenance.child(stable_layers=stable, doses=plan.doses, seed=plan.seed)
    with run.task("inject doses", len(run.groups.contexts)), recorded(provenance):
        measured, neutral_means = sublayer_importance(
            run.model, run.groups, found, stable=stable, doses=plan.doses, read_at=plan.read_at
        )
    measured.save(run.study.folder / "importance")
    neutral_means.save(run.study.folder / "effects" / "neutral_means")


def circuits(run: Run) -> None:
    """The circuit of every emotion, in every format."""
    study, plan, folder = run.study, run.plan, run.study.folder
    found, importance = study.directions, study.importance
    provenance = importance.provenance.child(
        budget=plan.to_json()["budget"], rank_by=plan.rank_by, signed=plan.signed
    )
    counts = part_counts(study, plan.budget)
    with recorded(provenance):
        direct = direct_effects(run.model, differences(study.means), found, importance.reference)
        direct.save(folder / "effects" / "direct")
        contexts = run.part_of_fit(GRADIENT_CONTEXTS)
        totals = total_estimates(run.model, contexts, importance, counts)
        totals.save(folder / "effects" / "totals")
        measured = Measurements(importance, study.heads, study.neurons, direct, totals)
        for emotion in plan.emotions:
            circuit = assemble(
                measured, emotion, budget=plan.budget, rank_by=plan.rank_by, signed=plan.signed
            )
            write_circuit(circuit, study.circuit_path(emotion))
            export_circuit(circuit, study.folder / "export")


def report(run: Run) -> None:
    """Everything on one page."""
    make_report(run.study, run.study.folder / "report.html")


_DOES: Mapping[Stage, Callable[[Run], None]] = {
    "replies": replies,
    "judgements": judgements,
    "directions": directions,
    "effects": effects,
    "importance": importance,
    "circuits": circuits,
    "scores": scores,
    "steering": steering,
    "report": report,
}
"""Stage -> what it does."""


EngineName = Literal["here", "ray"]


@contextmanager
def at_work(
    engine: EngineName = "here", workers: int | None = None, ray_address: str | None = None
) -> Iterator[None]:
    """Have the work inside the block done by an engine.

    Args:
        engine: ``here``: as it is outside the block, in this process unless said otherwise.
            ``ray``: by Ray workers, which are gone after the block.
        workers: How many; one per GPU, or without GPUs one per core, by default.
        ray_address: A Ray cluster to join; one on this machine by default.

    Raises:
        RunError: the options do not go together, or Ray is not there.
    """
    if engine == "here":
        if workers is not None or ray_address is not None:
            option = "--workers" if workers is not None else "--ray-address"
            raise RunError(f"{option}: one process does the work; add --engine ray")
        yield
        return
    from circuits.models.engines import on_ray  # loads the model's libraries

    with on_ray(workers, ray_address):
        yield


def run(
    plan: Plan,
    *,
    stages: Sequence[Stage] = STAGES,
    reporter: Reporter | None = None,
    engine: EngineName = "here",
    workers: int | None = None,
    ray_address: str | None = None,
) -> Study:
    """Run the stages of a plan that are not done yet.

    A stage is done if it was finished in the same folder with the same inputs and options, by the
    same version of the package.

    Args:
        plan: What to do.
        stages: Which stages; a stage needs earlier ones, now or from before.
        reporter: Shows progress; silent by default.
        engine: Who does the work; the results are the same.
        workers: How many workers; see :func:`at_work`.
        ray_address: A Ray cluster to join.

    Raises:
        RunError: a stage is unknown, or needs one that has not run; or another process writes into
            the folder.
        CircuitsError: what a stage raises, with the stage's name before it. The replies and
            judgements that it has finished are kept, and taken over when it is run again.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise RunError(no_stage(unknown[0]))
    check_judges(plan)
    _check_folder(plan)
    # Replies that are given need no asking for: the two stages only take them over.
    wanted = {*stages, "replies", "judgements"} if plan.accepted else {*stages}
    with held(plan.out), at_work(engine, workers, ray_address):
        _check_folder(plan)  # once more, now that nobody else writes
        path, done = plan.out / "run.json", {}
        if path.exists():
            done = Study(plan.out).log["stages"]
        write_text(plan.out / PLAN_FILE, plan_toml(plan))
        write_json(path, {"plan": plan.to_json(), "versions": versions(), "stages": done})
        remove_leftovers(plan.out)
        work = Run(plan, Study(plan.out), reporter)
        for stage in STAGES:
            if stage in wanted:
                _do_if_needed(work, stage)
                forget(work.study.journal_path(stage))
    return work.study


def _check_folder(plan: Plan) -> None:
    if is_file(plan.out / "run.json"):
        if "imported" in Study(plan.out).log["plan"]:
            raise RunError(
                f"--out: {plan.out} holds imported results, which a run would overwrite; "
                "give a new folder"
            )
    elif is_folder(plan.out):
        known = (LOCK, HOLDER, PLAN_FILE)
        if any(path.name not in known and not is_leftover(path) for path in plan.out.iterdir()):
            raise RunError(
                f"--out: {plan.out} holds files but no run; give a new folder or an earlier run"
            )


def _do_if_needed(work: Run, stage: Stage) -> None:
    study = work.study
    made = made_of(work.plan, stage, study.keys)
    key = key_of(made)
    if study.keys.get(stage) == key and is_there(study.folder, stage):
        return
    stop_if_asked()
    started = time.perf_counter()
    work.notes.clear()
    study.begin(stage)
    try:
        unfinished = journal(study.journal_path(stage), key)
        with counted() as receipt, unfinished as kept, work.as_planned():
            if kept.discarded:
                work.notes["journal"] = "discarded: it was kept for another plan or version"
            _DOES[stage](work)
    except CircuitsError as error:
        place = f" ({STAGES.index(stage) + 1} of {len(STAGES)})" if type(error) is Stopped else ""
        raise type(error)(f"stage {stage!r}{place}: {error}") from error
    entry = {"key": key, "made_of": made, "receipt": receipt.to_json(), **work.notes}
    study.finish(stage, entry, time.perf_counter() - started)
    work.study = Study(study.folder)  # what was read before may be older than what was written
