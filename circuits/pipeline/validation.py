"""Validate a finished run's components on held-out contexts, and keep the records in its folder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from circuits.control.ablation import ablation_drop, stand_in
from circuits.control.bench import Bench
from circuits.control.validation import CHANGES, Known, Validating, Validation, validate_components
from circuits.control.validation_replies import Heard, replies_needed, validate_replies
from circuits.data.sev import Context
from circuits.errors import RunError
from circuits.files import read_json, remove_leftovers, write_json
from circuits.graph.ablation import ablation_cost
from circuits.graph.circuit import Circuit
from circuits.graph.core import core
from circuits.graph.ranked_sets import ORDERS, PartKind, sizes_to
from circuits.journal import forget, journal
from circuits.measure.means import differences
from circuits.measure.pairs import make_pairs
from circuits.measure.readouts import Projection
from circuits.model.receipts import Cost, counted
from circuits.pipeline.keeping import digest_of
from circuits.pipeline.places import made_beside
from circuits.pipeline.scoring import held_out
from circuits.pipeline.study import Study
from circuits.pipeline.work import Reporter, Run, Silent, plan_of
from circuits.provenance import Provenance

__all__ = ["ValidationOptions", "drop", "read_validation", "validate", "validation_cost"]

KINDS: tuple[PartKind, ...] = ("head", "neuron")


@dataclass(frozen=True)
class ValidationOptions:
    """How much is measured."""

    contexts: int = 16
    """Test contexts."""
    draws: int = 30
    """Random sets, of every size and beside the circuits."""
    reply_sizes: int = 5
    """Sizes of sets for which replies are judged."""
    reply_draws: int = 2
    """Random sets of each of them."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"contexts": 2, "draws": 1, "reply_sizes": 2, "reply_draws": 1}
        for name, few in least.items():
            if getattr(self, name) < few:
                option = name.replace("_", "-")
                raise RunError(f"--{option}: {getattr(self, name)} is too few; give {few} or more")


def validate(
    folder: Path, options: ValidationOptions | None = None, reporter: Reporter | None = None
) -> Path:
    """Ablate and enhance the components of every emotion; ablate its circuit in asked prompts.

    Writes ``validation/`` in the run folder: ``head`` and ``neuron`` (effects on the readouts),
    ``head_replies`` and ``neuron_replies`` (judged replies), ``ablation.json`` and the receipt.

    Raises:
        RunError: the run has no circuits, or holds imported results.
        DataError: a test context is one that the circuits were made from.
    """
    options = options or ValidationOptions()
    run = _opened(folder, reporter)
    contexts = held_out(run, options.contexts)
    known, bench = _known(run), run.bench(contexts)
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
    ):
        remove_leftovers(folder)
        # Without the receipt what is there counts as not made.
        (place / "receipt.json").unlink(missing_ok=True)
        for kind in KINDS:
            _measure(run, known, kind, contexts, options, provenance).save(place / kind)
            _hear(run, bench, known, kind, options, provenance).save(place / f"{kind}_replies")
        write_json(place / "ablation.json", drop(run, bench, options.draws, options.seed))
        write_json(place / "receipt.json", receipt.to_json())
    forget(unfinished)
    return place


def validation_cost(folder: Path, options: ValidationOptions | None = None) -> dict[str, Cost]:
    """What the readouts will need at most; how long replies get is not known beforehand."""
    options = options or ValidationOptions()
    run = _opened(folder, None)
    contexts, cfg, costs = held_out(run, options.contexts), run.model.cfg, {}
    for kind, per_layer in zip(KINDS, (cfg.n_heads, cfg.d_mlp), strict=True):
        sizes = sizes_to(cfg.n_layers * per_layer)
        rows = 1 + len(sizes) * (len(ORDERS) + options.draws)
        cost = Cost()
        for emotion in run.plan.emotions:
            pairs = make_pairs(run.model, contexts, emotion)
            for _ in CHANGES:
                cost += ablation_cost(run.model, pairs, rows, ablation="zero")
        costs[f"{kind}s: readouts (at most)"] = cost
    return costs


def read_validation(study: Study) -> tuple[list[Validation], list[Heard], dict[str, Any]]:
    """What has been validated: effects, judged replies, ablation of the circuits; or nothing."""
    place = study.folder / "validation"
    if not (place / "receipt.json").is_file():
        return [], [], {}
    return (
        [Validation.load(place / kind) for kind in KINDS],
        [Heard.load(place / f"{kind}_replies") for kind in KINDS],
        read_json(place / "ablation.json"),
    )


def _opened(folder: Path, reporter: Reporter | None) -> Run:
    study = Study(folder)
    return Run(plan_of(study), study, reporter or Silent())


def _known(run: Run) -> Known:
    study, plan, importance = run.study, run.plan, run.study.importance
    readouts = {
        emotion: Projection(importance.reference[e], site=importance.read_at)
        for e, emotion in enumerate(importance.emotion)
    }
    plain = study.plain_means if plan.relative_to == "plain" else None
    written = differences(study.written_means, plain, unit=plan.diff_unit)
    return Known(study.totals, readouts, study.plain_means, study.means, written)


def _measure(
    run: Run,
    known: Known,
    kind: PartKind,
    contexts: tuple[Context, ...],
    options: ValidationOptions,
    provenance: Provenance,
) -> Validation:
    how = Validating(draws=options.draws, seed=options.seed)
    with run.reporter.task(f"ablate and enhance {kind}s", len(run.plan.emotions)) as done:
        return validate_components(
            run.model, contexts, known, kind, provenance, how=how, progress=done
        )


def _hear(
    run: Run,
    bench: Bench,
    known: Known,
    kind: PartKind,
    options: ValidationOptions,
    provenance: Provenance,
) -> Heard:
    count = known.effects(bench.emotions[0], kind).numel()
    sizes = sizes_to(count, options.reply_sizes)
    work = replies_needed(bench, sizes, options.reply_draws)
    with run.reporter.task(f"reply without and with more of the {kind}s", work) as done:
        return validate_replies(
            bench, known, kind, sizes, provenance,
            draws=options.reply_draws, seed=options.seed, progress=done,
        )  # fmt: skip


def drop(run: Run, bench: Bench, draws: int, seed: int) -> dict[str, Any]:
    """What is lost without the most needed part of each circuit, as large as what control writes.

    See :func:`~circuits.control.ablation.ablation_drop`; the mean over plain prompts stands for it.
    """
    study, plan = run.study, run.plan
    counts = plan.control_budget.counts(study.heads.mean[0].numel(), study.neurons.mean[0].numel())
    needed: dict[str, Circuit] = {
        emotion: core(circuit, *counts, "total") for emotion, circuit in study.circuits.items()
    }
    work = (2 + draws) * len(bench.contexts) * len(bench.emotions)
    with run.reporter.task("reply without the circuits", work) as done:
        return ablation_drop(
            bench, needed, stand_in(bench, "mean", study.plain_means),
            draws=draws, seed=seed, progress=done,
        )  # fmt: skip
