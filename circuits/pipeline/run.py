"""Run a plan: the stages in order, each timed and counted, none done twice."""

import time
from collections.abc import Sequence

from circuits.data.judges import open_judge
from circuits.errors import CircuitsError, RunError, Stopped
from circuits.files import is_leftover, remove_leftovers, write_json
from circuits.journal import forget, journal
from circuits.model.receipts import counted
from circuits.pipeline.engines import EngineName, at_work
from circuits.pipeline.plan import STAGES, Plan, Stage
from circuits.pipeline.stages import DOES
from circuits.pipeline.study import Study
from circuits.pipeline.work import Reporter, Run, Silent
from circuits.provenance import versions
from circuits.stopping import stop_if_asked

__all__ = ["run"]


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

    A stage is done if it was finished in the same folder with the same inputs and options.

    Args:
        plan: What to do.
        stages: Which stages; a stage needs the earlier ones, now or from before.
        reporter: Shows progress; silent by default.
        engine: Who does the work; the results are the same.
        workers: How many workers; see :func:`~circuits.pipeline.engines.at_work`.
        ray_address: A Ray cluster to join.

    Raises:
        RunError: a stage is unknown, or needs one that has not run.
        CircuitsError: what a stage raises, with the stage's name before it. The replies and
            judgements that it has finished are kept, and taken over when it is run again.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise RunError(f"no stage is called {unknown[0]!r}; stages are {', '.join(STAGES)}")
    open_judge(plan.judge)  # refuses a judge that makes no sense before anything is made
    study = _open(plan)
    remove_leftovers(plan.out)
    work = Run(plan, study, reporter or Silent())
    # Replies that are given need no asking for: the two stages only take them over.
    wanted = {*stages, "replies", "judgements"} if plan.accepted else {*stages}
    with at_work(engine, workers, ray_address):
        for stage in STAGES:
            if stage in wanted and not study.finished(stage, plan.key(stage)):
                stop_if_asked()
                _do(work, stage)
            if stage in wanted:
                forget(study.journal_path(stage))
    return study


def _open(plan: Plan) -> Study:
    path = plan.out / "run.json"
    if not path.exists():
        if plan.out.is_dir() and any(not is_leftover(own) for own in plan.out.iterdir()):
            raise RunError(
                f"--out: {plan.out} holds files but no run; give a new folder or an earlier run"
            )
        write_json(path, {"plan": plan.to_json(), "versions": versions(), "stages": {}})
    study = Study(plan.out)
    log = study.log
    if "imported" in log["plan"]:
        raise RunError(
            f"--out: {plan.out} holds imported results, which a run would overwrite; "
            "give a new folder"
        )
    write_json(path, {**log, "plan": plan.to_json(), "versions": versions()})
    return study


def _do(work: Run, stage: Stage) -> None:
    started = time.perf_counter()
    work.notes.clear()
    work.study.begin(stage)
    key = work.plan.key(stage)
    try:
        with counted() as receipt, journal(work.study.journal_path(stage), key) as kept:
            if kept.discarded:
                work.notes["journal"] = "discarded: it was kept for another plan or version"
            DOES[stage](work)
    except Stopped as error:
        number = STAGES.index(stage) + 1
        raise Stopped(f"stage {stage!r} ({number} of {len(STAGES)}): {error}") from error
    except CircuitsError as error:
        raise type(error)(f"stage {stage!r}: {error}") from error
    work.study.finish(
        stage,
        {
            "key": key,
            "seconds": round(time.perf_counter() - started, 2),
            "receipt": receipt.to_json(),
            **work.notes,
        },
    )
    _forget(work.study)


def _forget(study: Study) -> None:
    # What was read before the stage ran may be older than what it wrote.
    for name in list(vars(study)):
        if name != "folder":
            delattr(study, name)
