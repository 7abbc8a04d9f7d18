"""A plan at work: what several stages need, made once and only if needed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from circuits.control.bench import Bench
from circuits.control.methods import FEW
from circuits.control.ways import CIRCUIT_STAGE, PUBLISHED_DECODING, Way
from circuits.data import sev
from circuits.data.judges import Judge
from circuits.data.replies import read_replies
from circuits.data.sev import Context
from circuits.errors import RunError
from circuits.files import digest
from circuits.measure.groups import last_valence, reworded
from circuits.measure.sweep import Grid, Sweep, arrange, sweep
from circuits.model.decoding import Decoding
from circuits.model.generation import Progress
from circuits.model.identities import check_identities
from circuits.model.loading import describe_model, load_model
from circuits.model.protocol import Model
from circuits.model.receipts import uncounted
from circuits.names import VALENCES
from circuits.pipeline.judges import circuit_judge_of, judge_of, second_judge_of
from circuits.pipeline.plan import Plan
from circuits.pipeline.plan_values import JUDGES
from circuits.pipeline.study import Study
from circuits.pipeline.trust import trusted
from circuits.provenance import Provenance, versions

__all__ = ["Reporter", "Run", "Silent", "plan_of"]

_GRADIENT_CONTEXTS = 24


@runtime_checkable
class Reporter(Protocol):
    """Shows how far a run is."""

    def task(self, what: str, total: int) -> AbstractContextManager[Progress]:
        """A piece of work with ``total`` items; the value inside counts finished ones."""
        ...


class Silent:
    """A reporter that shows nothing."""

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Progress]:
        """Do the work without a word."""
        yield lambda finished: None


class Run:
    """A plan at work: what several stages need, made once and only if needed."""

    def __init__(self, plan: Plan, study: Study, reporter: Reporter) -> None:
        self.plan, self.study, self.reporter = plan, study, reporter
        self.notes: dict[str, str] = {}
        """What the stage at work decided and why, for the run's log."""

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
        """A judge that hears every reply once more, if there is to be one."""
        return second_judge_of(self.plan)

    @cached_property
    def circuit_judge(self) -> Judge:
        """The judge of circuits: the same, or the same asked in another way."""
        robust = self.plan.judge_profile == "robust"
        return self.judge if robust else circuit_judge_of(self.plan)

    @cached_property
    def train(self) -> tuple[sev.Scenario, ...]:
        """Train scenarios, dev ones included."""
        scenarios = sev.read(self.plan.data)
        wanted = self.plan.scenarios
        return sev.spread(scenarios, wanted) if wanted else scenarios

    @cached_property
    def dev(self) -> tuple[sev.Scenario, ...]:
        """Train scenarios that serve only the choice of strengths."""
        count = min(self.plan.dev_scenarios, len(self.train) // 4)
        return sev.spread(tuple(reversed(self.train)), count) if count else ()

    @property
    def fit(self) -> tuple[Context, ...]:
        """Contexts from which directions, effects and circuits are made."""
        held = {scenario.id for scenario in self.dev}
        return sev.contexts([scenario for scenario in self.train if scenario.id not in held])

    @property
    def spread_fit(self) -> tuple[Context, ...]:
        """A part of :attr:`fit`: enough for means that are taken with gradients."""
        return self.part_of_fit(_GRADIENT_CONTEXTS)

    def part_of_fit(self, most: int) -> tuple[Context, ...]:
        """At most so many contexts of :attr:`fit`, evenly over it."""
        contexts = self.fit
        step = max(1, len(contexts) // most)
        # The valences alternate, so a step that they share would always meet the same one.
        return contexts[:: step + (step % len(VALENCES) == 0)][:most]

    @cached_property
    def grid(self) -> Grid:
        """Replies by context and emotion: those that were accepted, or all."""
        kept = [row.reply for row in self.study.accepted]
        if self.plan.samples == "all":
            kept = read_replies(self.study.folder / "elicitation" / "generated.jsonl")
        return arrange(kept, self.plan.emotions)

    @cached_property
    def sweep(self) -> Sweep:
        """The one pass over the accepted prompts."""
        # A run that was interrupted after the stage that reads for all makes the pass again.
        # Receipts say what results cost, and its cost stands in that stage's already.
        again = "directions" in self.study.log["stages"]
        with uncounted() if again else nullcontext():
            found = self._swept()
        if not again:
            self.notes["values"] = found.keeping.reason
        return found

    def _swept(self) -> Sweep:
        grid, plan = self.grid, self.plan
        with self.reporter.task("read activations", len(grid.cells)) as done:
            return sweep(
                self.model, grid, read=plan.read, last=plan.last, half=plan.half,
                memory=plan.memory, batch_size=plan.batch_size, seed=plan.seed, progress=done,
            )  # fmt: skip

    @cached_property
    def written_sweep(self) -> Sweep:
        """The pass from which differences are made; the same one unless it must be another."""
        if not self.plan.reads_apart:
            return self.sweep
        grid = reworded(self.grid, self.plan.diff_prompt)
        if self.plan.diff_grouping == "scenario":
            grid = last_valence(grid)
        with self.reporter.task("read differences", len(grid.cells)) as done:
            return sweep(
                self.model, grid, half_parts=self.plan.half, memory=self.plan.memory,
                batch_size=self.plan.batch_size, progress=done,
            )  # fmt: skip

    def provenance(self, **options: object) -> Provenance:
        """Provenance of a result of this run."""
        data = digest(self.plan.accepted or self.plan.data)
        return Provenance(describe_model(self.model), data, options, versions())

    def bench(self, contexts: Sequence[Context]) -> Bench:
        """Model, judge and decoding, with these contexts."""
        plan = self.plan
        return Bench(
            self.model, self.judge, contexts, plan.emotions, plan.max_new_tokens, plan.batch_size,
            {method: self._way(method) for method in FEW},
        )  # fmt: skip

    def _way(self, method: str) -> Way:
        plan, of_circuits = self.plan, method in CIRCUIT_STAGE
        return Way(
            PUBLISHED_DECODING[method] if plan.decoding == "published" else Decoding(),
            indented=method == "steer" and plan.steering == "published",
            model=self.circuit_model if of_circuits else None,
            judge=self.circuit_judge if of_circuits else None,
        )

    def _load(self, dtype: str) -> Model:
        plan = self.plan
        # Receipts say what results cost: a model that is loaded is tried, which is none of it, and
        # so is what is checked before anything is made that later stages could not use.
        with self.reporter.task("load the model", 1) as done, uncounted():
            model = load_model(
                plan.model, revision=plan.revision, device=plan.device, dtype=dtype,
                begin=plan.begin, date=plan.date, device_map=plan.device_map,
                trust_remote_code=plan.trust_remote_code,
            )  # fmt: skip
            check_identities(model)
            done(1)
        return model


def plan_of(study: Study) -> Plan:
    """What a finished run was asked to do.

    Whether code of the model's own may run, and whether its judge may be sent a key, is no matter
    of the folder, which may be from anybody: :func:`~circuits.pipeline.trust.trusting` allows it.

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
