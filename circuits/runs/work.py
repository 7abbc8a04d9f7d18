"""A plan at work: what several stages need, made once and only if needed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property

from circuits.circuit.circuit import with_scores
from circuits.circuit.find import Budget
from circuits.circuit.score import check_held_out, score_circuits
from circuits.effects.activations import (
    Activations,
    ContextGroups,
    group_by_context,
    last_valence,
    read_activations,
    reworded,
)
from circuits.errors import RunError
from circuits.export import export_circuit
from circuits.export.node_link import write_circuit
from circuits.files import digest, write_json
from circuits.judges import Judge
from circuits.judges.replies import read_replies
from circuits.models.families import check_identities
from circuits.models.generate import Decoding
from circuits.models.load import describe_model, load_model
from circuits.models.memory import uncounted
from circuits.models.protocol import Model
from circuits.names import VALENCES
from circuits.patching.pairs import Projection
from circuits.prompts import sev
from circuits.prompts.sev import Context
from circuits.provenance import Provenance, versions
from circuits.running import Execution, Reporter, execution
from circuits.runs.folder import Study
from circuits.runs.plan import JUDGES, Plan, judge_of, trusted
from circuits.steering.evaluate import CIRCUIT_STAGE, FEW, PUBLISHED_DECODING, Evaluator, Generation

__all__ = [
    "Run",
    "held_out",
    "in_turn",
    "part_counts",
    "plan_of",
    "readouts",
    "run_of",
    "scenarios_of_test",
    "scores",
]

GRADIENT_CONTEXTS = 24
"""Contexts that are enough for means that are taken with gradients."""


class Run:
    """A plan at work: what several stages need, made once and only if needed."""

    def __init__(self, plan: Plan, study: Study, reporter: Reporter | None = None) -> None:
        self.plan, self.study, self.reporter = plan, study, reporter or Reporter()
        self.notes: dict[str, str] = {}
        """What the stage at work decided and why, for the run's log."""

    def as_planned(self) -> AbstractContextManager[Execution]:
        """Carry out the work of a block as the plan says."""
        plan = self.plan
        return execution(batch_size=plan.batch_size, memory=plan.memory, seed=plan.seed)

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[None]:
        """Show how far the work of a block is; it tells of ``total`` items."""
        with self.reporter.task(what, total) as done, execution(progress=done):
            yield

    @cached_property
    def model(self) -> Model:
        """The model; not loaded if every stage that needs it is done."""
        return self._load(self.plan.dtype)

    @cached_property
    def circuit_model(self) -> Model:
        """The model under circuits: the same, or the same in another number type."""
        dtype = self.plan.circuit_dtype or self.plan.dtype
        return self.model if dtype == self.plan.dtype else self._load(dtype)

    @cached_property
    def judge(self) -> Judge:
        """The judge."""
        return judge_of(self.plan)

    @cached_property
    def second_judge(self) -> Judge | None:
        """A judge that reads every reply once more, if there is to be one."""
        return judge_of(self.plan, "second_judge") if self.plan.second_judge else None

    @cached_property
    def circuit_judge(self) -> Judge:
        """The judge of circuits: the same, or the same asked in another way."""
        profile = self.plan.judge_profile
        return self.judge if profile == "robust" else judge_of(self.plan, profile=profile)

    @cached_property
    def train(self) -> tuple[sev.Scenario, ...]:
        """Train scenarios, dev ones included."""
        scenarios = sev.read(self.plan.data)
        return sev.spread(scenarios, self.plan.scenarios) if self.plan.scenarios else scenarios

    @cached_property
    def dev(self) -> tuple[sev.Scenario, ...]:
        """Train scenarios that serve only the choice of strengths."""
        count = min(self.plan.dev_scenarios, len(self.train) // 4)
        return sev.spread(tuple(reversed(self.train)), count) if count else ()

    @property
    def fit(self) -> tuple[Context, ...]:
        """Contexts from which directions, effects and circuits are made."""
        dev = {scenario.id for scenario in self.dev}
        return sev.contexts([scenario for scenario in self.train if scenario.id not in dev])

    def part_of_fit(self, most: int) -> tuple[Context, ...]:
        """At most so many contexts of :attr:`fit`, evenly over it."""
        contexts = self.fit
        step = max(1, len(contexts) // most)
        # The valences alternate, so a step that they share would always meet the same one.
        return contexts[:: step + (step % len(VALENCES) == 0)][:most]

    @cached_property
    def groups(self) -> ContextGroups:
        """Replies by context and emotion: those that were accepted, or all."""
        kept = [row.reply for row in self.study.accepted]
        if self.plan.samples == "all":
            kept = read_replies(self.study.folder / "elicitation" / "generated.jsonl")
        return group_by_context(kept, self.plan.emotions)

    @cached_property
    def activations(self) -> Activations:
        """The one pass over the accepted prompts."""
        # A run that was interrupted after the stage that reads for all makes the pass again.
        # Receipts say what results cost, and its cost stands in that stage's already.
        again = "directions" in self.study.keys
        work = self.task("read activations", len(self.groups.cells))
        with uncounted() if again else nullcontext(), work:
            found = read_activations(
                self.model,
                self.groups,
                read=self.plan.read,
                last=self.plan.last,
                half=self.plan.half,
            )
        if not again:
            self.notes["values"] = found.stored
        return found

    @property
    def written_activations(self) -> Activations:
        """The pass from which differences are made, where it is another one."""
        groups = reworded(self.groups, self.plan.diff_prompt)
        if self.plan.diff_grouping == "scenario":
            groups = last_valence(groups)
        with self.task("read differences", len(groups.cells)):
            return read_activations(self.model, groups, half_parts=self.plan.half)

    def provenance(self, **options: object) -> Provenance:
        """Provenance of a result of this run."""
        data = digest(self.plan.accepted or self.plan.data)
        return Provenance(describe_model(self.model), data, options, versions())

    def evaluator(self, contexts: Sequence[Context]) -> Evaluator:
        """Model, judge and decoding, with these contexts."""
        plan, ways = self.plan, {method: self._generation(method) for method in FEW}
        return Evaluator(self.model, self.judge, contexts, plan.emotions, plan.max_new_tokens, ways)

    def _generation(self, method: str) -> Generation:
        plan, of_circuits = self.plan, method in CIRCUIT_STAGE
        indented = method == "steer" and plan.steering == "published"
        return Generation(
            PUBLISHED_DECODING[method] if plan.decoding == "published" else Decoding(),
            template="published-indented" if indented else "published",
            model=self.circuit_model if of_circuits else None,
            judge=self.circuit_judge if of_circuits else None,
        )

    def _load(self, dtype: str) -> Model:
        # Receipts say what results cost: a model that is loaded is tried, which is none of it, and
        # so is what is checked before anything is made that later stages could not use.
        names = ("revision", "device", "begin", "date", "device_map", "trust_remote_code")
        options = {name: getattr(self.plan, name) for name in names}
        with self.reporter.task("load the model", 1) as done, uncounted():
            model = load_model(self.plan.model, dtype=dtype, **options)
            check_identities(model)
            done(1)
        return model


def plan_of(study: Study) -> Plan:
    """What a finished run was asked to do.

    Whether code of the model's own may run, and whether its judge may be sent a key, is no matter
    of the folder, which may be from anybody: :func:`~circuits.runs.plan.trusting` allows it.

    Raises:
        RunError: the folder holds imported results, which name no model; or the plan is of another
            version.
    """
    values = study.log["plan"]
    if "imported" in values:
        raise RunError(
            f"{study.folder} holds imported results, without a model; this needs a run of its own"
        )
    plan = Plan.from_json(values, study.folder)
    return replace(plan, trust_remote_code=trusted("code"), judges_of_file=JUDGES)


def run_of(study: Study, reporter: Reporter | None = None) -> Run:
    """A finished run, to measure more with its model; raises as :func:`plan_of` does."""
    return Run(plan_of(study), study, reporter)


def scores(run: Run) -> None:
    """Score every circuit, and write the scores into its files."""
    study, plan, folder = run.study, run.plan, run.study.folder
    contexts = held_out(run, plan.score_contexts)
    with run.task("score the circuits", len(plan.emotions)):
        found = score_circuits(
            run.model,
            study.circuits,
            contexts,
            readouts(study),
            study.totals,
            ablation=plan.ablation,
            positions=plan.positions,
            draws=plan.draws,
            means=study.neutral_means,
        )
    write_json(folder / "scores" / "details.json", {e: own.to_json() for e, own in found.items()})
    write_json(folder / "scores.json", {e: own.summary() for e, own in found.items()})
    for emotion, circuit in study.circuits.items():
        scored = with_scores(circuit, found[emotion])
        write_circuit(scored, study.circuit_path(emotion))
        export_circuit(scored, folder / "export")


def readouts(study: Study) -> dict[str, Projection]:
    """Emotion -> the projection on its reference direction."""
    found = study.importance
    vectors = zip(found.emotion, found.reference, strict=True)
    return {emotion: Projection(vector, site=found.read_at) for emotion, vector in vectors}


def part_counts(study: Study, budget: Budget) -> tuple[int, int]:
    """Heads and neurons that a budget allows in a circuit of the run's model."""
    return budget.counts(study.heads.mean[0].numel(), study.neurons.mean[0].numel())


def scenarios_of_test(plan: Plan) -> tuple[sev.Scenario, ...]:
    """Test scenarios, as many as the plan asks for."""
    scenarios = sev.read(plan.test)
    return sev.spread(scenarios, plan.test_scenarios) if plan.test_scenarios else scenarios


def in_turn(scenarios: Sequence[sev.Scenario], turn: int = 0) -> list[Context]:
    """One event of every scenario, the valences in turn."""
    every = sev.contexts(scenarios)
    return [every[3 * i + (i + turn) % 3] for i in range(len(scenarios))]


def held_out(run: Run, count: int) -> tuple[Context, ...]:
    """Test contexts: one event of every scenario, the valences in turn, then the other events.

    Raises:
        DataError: fewer than two, or one of them is a train context.
    """
    scenarios = sev.read(run.plan.test)
    chosen = sev.spread(scenarios, min(count, len(scenarios)))
    contexts = tuple(own for turn in range(3) for own in in_turn(chosen, turn))[:count]
    check_held_out(contexts, sev.contexts(run.train))
    return contexts
