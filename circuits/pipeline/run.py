"""Run a plan: the stages in order, each timed and counted, none done twice."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from circuits.errors import CircuitsError, RunError, Stopped
from circuits.files import (
    is_file,
    is_folder,
    is_leftover,
    remove_leftovers,
    write_json,
    write_text,
)
from circuits.journal import forget, journal
from circuits.locks import HOLDER, LOCK, held
from circuits.model.receipts import counted
from circuits.pipeline.engines import EngineName, at_work
from circuits.pipeline.judges import check_judges
from circuits.pipeline.keys import Kind, changes, key_of, made_of
from circuits.pipeline.places import is_there
from circuits.pipeline.plan import STAGES, Plan, Stage
from circuits.pipeline.plan_toml import PLAN_FILE, plan_toml
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
    keep_code: bool = False,
    reporter: Reporter | None = None,
    engine: EngineName = "here",
    workers: int | None = None,
    ray_address: str | None = None,
) -> Study:
    """Run the stages of a plan that are not done yet.

    A stage is done if it was finished in the same folder with the same inputs, options and code.

    Args:
        plan: What to do.
        stages: Which stages; a stage needs earlier ones, now or from before.
        keep_code: Take stages as done of which nothing has changed but the code.
        reporter: Shows progress; silent by default.
        engine: Who does the work; the results are the same.
        workers: How many workers; see :func:`~circuits.pipeline.engines.at_work`.
        ray_address: A Ray cluster to join.

    Raises:
        RunError: a stage is unknown, or needs one that has not run; or another process writes into
            the folder.
        CircuitsError: what a stage raises, with the stage's name before it. The replies and
            judgements that it has finished are kept, and taken over when it is run again.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise RunError(f"no stage is called {unknown[0]!r}; stages are {', '.join(STAGES)}")
    check_judges(plan)
    _check_folder(plan)
    # Replies that are given need no asking for: the two stages only take them over.
    wanted = {*stages, "replies", "judgements"} if plan.accepted else {*stages}
    with held(plan.out), at_work(engine, workers, ray_address):
        study = _open(plan)
        remove_leftovers(plan.out)
        work = Run(plan, study, reporter or Silent())
        for stage in STAGES:
            if stage in wanted:
                _do_if_needed(work, stage, keep_code=keep_code)
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


def _open(plan: Plan) -> Study:
    _check_folder(plan)  # once more, now that nobody else writes
    path = plan.out / "run.json"
    done = Study(plan.out).log["stages"] if path.exists() else {}
    write_text(plan.out / PLAN_FILE, plan_toml(plan))
    write_json(path, {"plan": plan.to_json(), "versions": versions(), "stages": done})
    return Study(plan.out)


def _do_if_needed(work: Run, stage: Stage, *, keep_code: bool) -> None:
    made = made_of(work.plan, stage, work.study.keys)
    before = work.study.log["stages"].get(stage)
    if before is not None and is_there(work.study.folder, stage):
        if before["key"] == key_of(made):
            return
        if keep_code and set(changes(before.get("made_of", {}), made)) == {"code"}:
            return
    _do(work, stage, made)


def _do(work: Run, stage: Stage, made: Mapping[Kind, Mapping[str, Any]]) -> None:
    stop_if_asked()
    started = time.perf_counter()
    work.notes.clear()
    work.study.begin(stage)
    try:
        with (
            counted() as receipt,
            journal(work.study.journal_path(stage), key_of(made)) as kept,
        ):
            if kept.discarded:
                work.notes["journal"] = "discarded: it was kept for another plan or version"
            DOES[stage](work)
    except Stopped as error:
        number = STAGES.index(stage) + 1
        raise Stopped(f"stage {stage!r} ({number} of {len(STAGES)}): {error}") from error
    except CircuitsError as error:
        raise type(error)(f"stage {stage!r}: {error}") from error
    entry = {"key": key_of(made), "made_of": made, "receipt": receipt.to_json(), **work.notes}
    work.study.finish(stage, entry, time.perf_counter() - started)
    _forget(work.study)


def _forget(study: Study) -> None:
    # What was read before the stage ran may be older than what it wrote.
    for name in list(vars(study)):
        if name != "folder":
            delattr(study, name)
