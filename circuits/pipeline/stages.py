"""The stages of a run: each reads what earlier ones saved, and saves its own results."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from circuits.data.prompts import asked_prompts
from circuits.data.replies import Judged, judge_replies, read_judged, read_replies, write_rows
from circuits.export.formats import export_circuit
from circuits.export.node_link import write_circuit
from circuits.files import write_json
from circuits.graph.assemble import Measurements, assemble
from circuits.measure.direct import direct_effects
from circuits.measure.directions import emotion_directions, stable_layers
from circuits.measure.expression import accuracy_stats
from circuits.measure.importance import sublayer_importance
from circuits.measure.looks import look_again
from circuits.measure.means import component_means, differences
from circuits.measure.neurons import neuron_effects, without_neurons
from circuits.measure.totals import total_estimates
from circuits.model.generation import elicit
from circuits.pipeline.control import control
from circuits.pipeline.plan import Stage
from circuits.pipeline.report import make_report
from circuits.pipeline.scoring import scores
from circuits.pipeline.work import Run

__all__ = ["DOES"]


def replies(run: Run) -> None:
    """Ask for every emotion in every context."""
    folder = run.study.folder / "elicitation"
    if run.plan.accepted:
        write_rows(folder / "generated.jsonl", [r.reply for r in read_judged(run.plan.accepted)])
        return
    prompts = asked_prompts(run.fit, run.plan.emotions)
    with run.reporter.task("reply with the asked emotions", len(prompts)) as done:
        said = elicit(
            run.model, prompts, max_new_tokens=run.plan.max_new_tokens,
            batch_size=run.plan.batch_size, progress=done,
        )  # fmt: skip
    write_rows(folder / "generated.jsonl", said)


def judgements(run: Run) -> None:
    """Judge the replies; accepted ones go on."""
    folder = run.study.folder / "elicitation"
    if run.plan.accepted:
        _keep(folder, read_judged(run.plan.accepted), run.plan.accepted.stem)
        return
    said = read_replies(folder / "generated.jsonl")
    with run.reporter.task("judge the replies", len(said)) as done:
        judged = judge_replies(said, run.judge, progress=done)
    _keep(folder, judged, run.plan.data.stem)


def directions(run: Run) -> None:
    """Emotion directions."""
    provenance = run.provenance(read=run.plan.read)
    found = emotion_directions(run.sweep, provenance, read=run.plan.read)
    found.save(run.study.folder / "directions")


def effects(run: Run) -> None:
    """Effects of heads and neurons, their means, and how far directions generalise."""
    found, folder = run.study.directions, run.study.folder / "effects"
    provenance = found.provenance.child(head_readout=run.plan.head_readout)
    swept, plan = run.sweep, run.plan
    with run.reporter.task("effects of heads", len(run.grid.cells)) as done:
        heads, general = look_again(
            run.model, swept, found, readout=plan.head_readout, seed=plan.seed, progress=done
        )
    heads.result(provenance).save(folder / "heads")
    general.result(found.provenance.child(seed=run.plan.seed)).save(run.study.folder / "generality")
    if run.model.cfg.d_mlp:
        neurons = neuron_effects(run.model, run.sweep, found, provenance)
    else:
        neurons = without_neurons(run.sweep, found, provenance)
        run.notes["neurons"] = "none: the MLPs of this model are not sums over neurons"
    neurons.save(folder / "neurons")
    component_means(run.sweep, provenance).save(folder / "means")
    shutil.rmtree(folder / "written_means", ignore_errors=True)
    if run.plan.reads_apart:
        names = ("diff_prompt", "diff_grouping", "half")
        how = {name: getattr(run.plan, name) for name in names}
        written = component_means(run.written_sweep, provenance.child(**how))
        written.save(folder / "written_means")


def importance(run: Run) -> None:
    """Importance of every sublayer."""
    plan, found = run.plan, run.study.directions
    grid = run.grid
    stable = plan.stable_layers or stable_layers(len(found.layer))
    provenance = found.provenance.child(stable_layers=stable, doses=plan.doses, seed=plan.seed)
    with run.reporter.task("inject doses", len(grid.contexts)) as done:
        measured, plain_means = sublayer_importance(
            run.model, grid, found, provenance, stable=stable, doses=plan.doses,
            read_at=plan.read_at, seed=plan.seed, progress=done,
        )  # fmt: skip
    measured.save(run.study.folder / "importance")
    plain_means.save(run.study.folder / "effects" / "plain_means")


def circuits(run: Run) -> None:
    """The circuit of every emotion, in every format."""
    study, plan, folder = run.study, run.plan, run.study.folder
    found, importance = study.directions, study.importance
    provenance = importance.provenance.child(
        budget=plan.to_json()["budget"], rank_by=plan.rank_by, signed=plan.signed
    )
    direct = direct_effects(
        run.model, differences(study.means), found, importance.reference, provenance
    )
    direct.save(folder / "effects" / "direct")
    counts = plan.budget.counts(study.heads.mean[0].numel(), study.neurons.mean[0].numel())
    totals = total_estimates(run.model, run.spread_fit, importance, counts, provenance)
    totals.save(folder / "effects" / "totals")
    measured = Measurements(importance, study.heads, study.neurons, direct, totals)
    for emotion in plan.emotions:
        circuit = assemble(
            measured, emotion, provenance, budget=plan.budget, rank_by=plan.rank_by,
            signed=plan.signed,
        )  # fmt: skip
        write_circuit(circuit, study.circuit_path(emotion))
        export_circuit(circuit, study.folder / "export")


def report(run: Run) -> None:
    """Everything on one page."""
    make_report(run.study, run.study.folder / "report.html")


DOES: Mapping[Stage, Callable[[Run], None]] = {
    "replies": replies,
    "judgements": judgements,
    "directions": directions,
    "effects": effects,
    "importance": importance,
    "circuits": circuits,
    "scores": scores,
    "control": control,
    "report": report,
}
"""Stage -> what it does."""


def _keep(folder: Path, judged: Sequence[Judged], dataset: str) -> None:
    write_rows(folder / "accepted.jsonl", [row for row in judged if row.verdict.match])
    write_rows(folder / "rejected.jsonl", [row for row in judged if not row.verdict.match])
    write_json(folder / "accuracy_stats.json", accuracy_stats(judged, dataset))
