"""The stage that scores circuits on contexts that nothing was made from or chosen on."""

from circuits.data import sev
from circuits.data.sev import Context
from circuits.export.formats import export_circuit
from circuits.export.node_link import write_circuit
from circuits.files import write_json
from circuits.graph.scores import with_scores
from circuits.graph.scoring import Scoring, check_held_out, score_circuits, score_cost
from circuits.measure.pairs import make_pairs
from circuits.measure.readouts import Projection
from circuits.model.receipts import Cost
from circuits.pipeline.plan import Plan
from circuits.pipeline.work import Run

__all__ = ["held_out", "scores", "scores_cost"]


def scores(run: Run) -> None:
    """Score every circuit, and write the scores into its files."""
    study, plan, importance = run.study, run.plan, run.study.importance
    contexts = held_out(run, run.plan.score_contexts)
    readouts = {
        emotion: Projection(importance.reference[e], site=importance.read_at)
        for e, emotion in enumerate(importance.emotion)
    }
    with run.reporter.task("score the circuits", len(plan.emotions)) as done:
        found = score_circuits(
            run.model, study.circuits, contexts, readouts, study.totals,
            how=_how(plan), means=study.plain_means, progress=done,
        )  # fmt: skip
    folder = study.folder
    write_json(folder / "scores" / "details.json", {e: own.to_json() for e, own in found.items()})
    write_json(folder / "scores.json", {e: own.summary() for e, own in found.items()})
    for emotion, circuit in study.circuits.items():
        scored = with_scores(circuit, found[emotion])
        write_circuit(scored, study.circuit_path(emotion))
        export_circuit(scored, folder / "export")


def scores_cost(run: Run) -> Cost:
    """What the stage will need."""
    contexts = held_out(run, run.plan.score_contexts)
    pairs = {emotion: make_pairs(run.model, contexts, emotion) for emotion in run.plan.emotions}
    return score_cost(run.model, run.study.circuits, pairs, _how(run.plan))


def _how(plan: Plan) -> Scoring:
    return Scoring(plan.ablation, plan.positions, plan.draws, plan.seed)


def held_out(run: Run, count: int) -> tuple[Context, ...]:
    """Test contexts: one event of every scenario, the valences in turn, then the other events.

    Raises:
        DataError: fewer than two, or one of them is a train context.
    """
    scenarios = sev.read(run.plan.test)
    chosen = sev.spread(scenarios, min(count, len(scenarios)))
    every = sev.contexts(chosen)
    order = [3 * i + (i + turn) % 3 for turn in range(3) for i in range(len(chosen))]
    contexts = tuple(every[place] for place in order[:count])
    check_held_out(contexts, sev.contexts(run.train))
    return contexts
