"""The stages of a run: each reads what earlier ones saved, and saves its own results."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
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
    Judged,
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
from circuits.runs.folder import Study, is_there
from circuits.runs.keys import key_of, made_of
from circuits.runs.plan import PLAN_FILE, STAGES, Plan, Stage, check_judges, no_stage, plan_toml
from circuits.runs.report import make_report
from circuits.runs.steering import steering
from circuits.runs.work import Reporter, Run, Silent, part_counts, scores

__all__ = ["at_work", "run"]


def replies(run: Run) -> None:
    """Ask for every emotion in every context."""
    folder = run.study.folder / "elicitation"
    if run.plan.accepted:
        write_rows(folder / "generated.jsonl", [r.reply for r in read_judged(run.plan.accepted)])
        return
    prompts = emotion_prompts(run.fit, run.plan.emotions)
    with run.task("reply with the target emotions", len(prompts)):
        said = elicit(run.model, prompts, max_new_tokens=run.plan.max_new_tokens)
    write_rows(folder / "generated.jsonl", said)


def judgements(run: Run) -> None:
    """Judge the replies; accepted ones go on."""
    folder = run.study.folder / "elicitation"
    if run.plan.accepted:
        _keep(folder, read_judged(run.plan.accepted), run.plan.accepted.stem)
        return
    said = read_replies(folder / "generated.jsonl")
    with run.task("judge the replies", len(said)):
        judged = judge_replies(said, run.judge)
    _keep(folder, judged, run.plan.data.stem)


def directions(run: Run) -> None:
    """Emotion directions."""
    provenance = run.provenance(read=run.plan.read)
    with recorded(provenance):
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
        totals = total_estimates(run.model, run.spread_fit, importance, counts)
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


def _keep(folder: Path, judged: Sequence[Judged], dataset: str) -> None:
    write_rows(folder / "accepted.jsonl", [row for row in judged if row.verdict.match])
    write_rows(folder / "rejected.jsonl", [row for row in judged if not row.verdict.match])
    write_json(folder / "accuracy_stats.json", accuracy_stats(judged, dataset))


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
        path = plan.out / "run.json"
        done = Study(plan.out).log["stages"] if path.exists() else {}
        write_text(plan.out / PLAN_FILE, plan_toml(plan))
        write_json(path, {"plan": plan.to_json(), "versions": versions(), "stages": done})
        study = Study(plan.out)
        remove_leftovers(plan.out)
        work = Run(plan, study, reporter or Silent())
        for stage in STAGES:
            if stage in wanted:
                _do_if_needed(work, stage)
                forget(study.journal_path(stage))
    return study


def _check_folder(plan: Plan) -> None:
    if not is_folder(plan.out):
        return
    if not is_file(plan.out / "run.json"):
        known = (LOCK, HOLDER, PLAN_FILE)
        if any(path.name not in known and not is_leftover(path) for path in plan.out.iterdir()):
            raise RunError(
                f"--out: {plan.out} holds files but no run; give a new folder or an earlier run"
            )
    elif "imported" in Study(plan.out).log["plan"]:
        raise RunError(
            f"--out: {plan.out} holds imported results, which a run would overwrite; "
            "give a new folder"
        )


def _do_if_needed(work: Run, stage: Stage) -> None:
    study = work.study
    made = made_of(work.plan, stage, study.keys)
    before = study.log["stages"].get(stage)
    if before and before["key"] == key_of(made) and is_there(study.folder, stage):
        return
    stop_if_asked()
    started = time.perf_counter()
    work.notes.clear()
    study.begin(stage)
    try:
        with (
            counted() as receipt,
            journal(study.journal_path(stage), key_of(made)) as kept,
            work.as_planned(),
        ):
            if kept.discarded:
                work.notes["journal"] = "discarded: it was kept for another plan or version"
            _DOES[stage](work)
    except Stopped as error:
        number = STAGES.index(stage) + 1
        raise Stopped(f"stage {stage!r} ({number} of {len(STAGES)}): {error}") from error
    except CircuitsError as error:
        raise type(error)(f"stage {stage!r}: {error}") from error
    entry = {"key": key_of(made), "made_of": made, "receipt": receipt.to_json(), **work.notes}
    study.finish(stage, entry, time.perf_counter() - started)
    # What was read before the stage ran may be older than what it wrote.
    for name in list(vars(study)):
        if name != "folder":
            delattr(study, name)
