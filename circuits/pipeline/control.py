"""The stage that puts circuits back into the model, beside all other ways to an emotion."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuits.assets import shipped
from circuits.control.baselines import other_directions, residuals, strongest_neurons
from circuits.control.compare import Comparison, compare, compare_cost
from circuits.control.dial import DIAL, dial, mixtures, suppression
from circuits.control.methods import STEERED
from circuits.control.modulation import How, Modulation, Steering, published_steering
from circuits.control.tools import Tools
from circuits.control.tuning import Tuned, settings, starts, tune
from circuits.data import sev
from circuits.data.judges import Judge, LexiconJudge, WordingJudge, error_rate
from circuits.data.sev import Context
from circuits.files import write_json, write_json_lines
from circuits.measure.means import differences
from circuits.names import EMOTIONS
from circuits.pipeline.plan import Plan
from circuits.pipeline.study import Study
from circuits.pipeline.validation import drop
from circuits.pipeline.work import Run

__all__ = ["circuit_tools", "control", "make_tools", "written_how"]

_PROBE_CONTEXTS = 96
_GOOD_ENOUGH = 99.0


def control(run: Run) -> None:
    """Compare all methods, sweep the circuit's strength, and say what it cost."""
    study, plan = run.study, run.plan
    tools = make_tools(run)
    tuned = _tuned(run, tools)
    scenarios = sev.read(plan.test)
    if plan.test_scenarios:
        scenarios = sev.spread(scenarios, plan.test_scenarios)
    found = _compared(run, tools, tuned, sev.contexts(scenarios), "reply by every method")
    _write_replies(study.replies_path, found)
    hard = None
    if plan.hard is not None:
        contexts = sev.contexts(sev.read(plan.hard))
        harder = _compared(run, tools, tuned, contexts, "reply in hard contexts")
        _write_replies(study.folder / "control" / "hard_replies.jsonl", harder)
        hard = {**harder.methods, **harder.controls}
    write_json(
        study.folder / "control.json",
        {
            **found.to_json(),
            "best_steering": tuned.best(STEERED),
            "hard": hard,
            **_dialled(run, tools, tuned, scenarios),
            "judge": _describe(run.judge),
            "second_judge": run.second_judge and _describe(run.second_judge),
            "settings": {m: settings(how) for m, how in tuned.hows.items()}
            | {"tried": list(tuned.tried)},
        },
    )


def circuit_tools(study: Study, plan: Plan) -> Tools:
    """Circuits, differences and directions of a run.

    Raises:
        RunError: a stage that makes them has not run.
    """
    n_heads, n_neurons = study.heads.mean[0].numel(), study.neurons.mean[0].numel()
    counts = plan.control_budget.counts(n_heads, n_neurons)
    plain = study.plain_means if plan.relative_to == "plain" else None
    written = differences(study.written_means, plain, unit=plan.diff_unit)
    return Tools(study.circuits, written, study.directions, counts)


def written_how(study: Study) -> Modulation:
    """How the run's control stage writes circuits; once at the prompt's end before it has run."""
    if "control" not in study.log["stages"]:
        return Modulation()
    chosen = study.control["settings"].get("circuit", {})
    return Modulation(**{**chosen, "by_emotion": tuple(chosen.get("by_emotion", {}).items())})


def make_tools(run: Run) -> Tools:
    """The tools of all methods that the plan asks for; some need a pass over train contexts."""
    study, plan = run.study, run.plan
    tools = circuit_tools(study, plan)
    if "neurons" in plan.methods and tools.parts is not None:
        count = tools.parts[1]
        strongest = {e: strongest_neurons(study.neurons, e, count) for e in plan.emotions}
        tools = replace(tools, neurons=strongest, means=study.means)
    if {"steer_plain", "probe"} & {*plan.methods}:
        contexts = run.part_of_fit(_PROBE_CONTEXTS)
        work = len(contexts) * (1 + len(plan.emotions))
        with run.reporter.task("read residual streams", work) as done:
            streams = residuals(
                run.model, contexts, plan.emotions, batch_size=plan.batch_size, progress=done
            )
        provenance = run.provenance(contexts=len(contexts))
        tools = replace(tools, others=other_directions(streams, plan.emotions, provenance))
    return tools


def _compared(
    run: Run, tools: Tools, tuned: Tuned, contexts: Sequence[Context], what: str
) -> Comparison:
    work = compare_cost(len(contexts), len(run.plan.emotions), tuned.hows)
    with run.reporter.task(what, work) as done:
        return compare(
            run.bench(contexts), tools, tuned.hows, second=run.second_judge,
            seed=run.plan.seed, progress=done,
        )  # fmt: skip


def _tuned(run: Run, tools: Tools) -> Tuned:
    plan = run.plan
    like = Modulation(heads_at=plan.head_positions, neurons_at=plan.neuron_positions)
    candidates = {m: hows for m, hows in starts(tools, like).items() if m in plan.methods}
    given = _given(run, like, candidates)
    candidates = {method: hows for method, hows in candidates.items() if method not in given}
    if not candidates:
        return Tuned(given, {}, ())
    # One event per dev scenario, the valences in turn; all events for the last round.
    every = sev.contexts(run.dev)
    some = [every[3 * i + i % 3] for i in range(len(run.dev))]
    brief = plan.tuning == "brief"
    with run.reporter.task("choose strengths on dev contexts", 0) as done:
        found = tune(
            run.bench(some), tools, candidates, finer=None if brief else run.bench(every),
            good_enough=_GOOD_ENOUGH if brief else None, progress=done,
        )  # fmt: skip
    return replace(found, hows={**given, **found.hows})


def _given(run: Run, like: Modulation, candidates: dict[str, list[How]]) -> dict[str, How]:
    """What is not chosen on dev contexts: what the plan says, and all of it without them."""
    plan, found = run.plan, run.study.importance
    given: dict[str, How] = {} if run.dev else {m: hows[0] for m, hows in candidates.items()}
    if not run.dev and "steer" in candidates:
        given["steer"] = Steering((found.stable_layers[0],))
    if plan.steering == "published" and "steer" in candidates:
        given["steer"] = published_steering(len(found.layer))
    if "circuit" in candidates and (plan.circuit_strength is not None or not run.dev):
        own = dict(plan.circuit_strength or ())
        given["circuit"] = replace(
            like, strength=own.pop("other", 1.0), when=plan.circuit_when,
            by_emotion=tuple(own.items()),
        )  # fmt: skip
    return given


def _dialled(
    run: Run, tools: Tools, tuned: Tuned, scenarios: Sequence[sev.Scenario]
) -> dict[str, Any]:
    """Asked prompts without the circuits; their strength swept, turned negative, and mixed."""
    how, count = tuned.hows.get("circuit"), run.plan.dial_contexts
    if not isinstance(how, Modulation) or not count:
        return dict.fromkeys(("ablation", "dial", "suppression", "mixtures"))
    every = sev.contexts(sev.spread(scenarios, min(count, len(scenarios))))
    contexts = [every[3 * i + i % 3] for i in range(len(every) // 3)]
    bench, emotions = run.bench(contexts), len(run.plan.emotions)
    # Replies and losses of the sweep; replies of the others.
    work = len(contexts) * (1 + emotions * (2 + 2 * len(DIAL) + 3))
    ablation = drop(run, bench, run.plan.ablation_draws, run.plan.seed)
    with run.reporter.task("turn the circuit's strength", work) as done:
        return {
            "ablation": ablation,
            "dial": dial(bench, tools, how, progress=done),
            "suppression": suppression(bench, tools, how, progress=done),
            "mixtures": mixtures(bench, tools, how, progress=done),
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
