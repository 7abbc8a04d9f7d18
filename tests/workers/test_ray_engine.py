"""Ray workers: what they do is what one process does, whoever dies."""

import os
import signal
import sys
import time

import pytest
import torch

from circuits.errors import DataError, ModelError, RunError
from circuits.models.edits import Scale, edited
from circuits.models.engines import RETRIES, Here, engine, on_ray, working_on
from circuits.models.generate import elicit
from circuits.models.memory import counted
from circuits.prompts.templates import emotion_prompts
from circuits.running import execution
from circuits.runs.stages import at_work

# What workers are given here is defined inside the tests, so that it travels by value.


@pytest.fixture(scope="module")
def two():
    with on_ray(2) as workers:
        yield workers


@pytest.fixture
def on_two(two):
    with working_on(two):
        yield two


def processes(workers):
    import ray

    return ray.get([worker.process.remote() for worker in workers.workers])


def test_results_bear_the_places_of_their_parts(on_two, mini):
    def square(model, part):
        return part * part

    found = dict(on_two.results(mini, square, range(10)))
    assert found == {place: place**2 for place in range(10)}


def test_workers_carry_out_their_parts_as_is_said_here(on_two, mini):
    def how(model, part):
        from circuits.running import in_force

        own = in_force()
        return own.batch_size, own.seed, own.progress

    told = []
    with execution(batch_size=3, seed=5, progress=told.append):
        assert dict(on_two.results(mini, how, [0, 1])) == {0: (3, 5, None), 1: (3, 5, None)}
    assert dict(on_two.results(mini, how, [0])) == {0: (None, 0, None)}


def test_parts_are_taken_as_they_are_needed(on_two, mini):
    def same(model, part):
        return part

    taken = []

    def parts():
        for part in range(40):
            taken.append(part)
            yield part

    results = on_two.results(mini, same, parts())
    next(results)
    assert len(taken) <= 2 * 2 + 1
    results.close()
    assert dict(on_two.results(mini, same, "ab")) == {0: "a", 1: "b"}


def test_what_workers_run_is_charged_here(on_two, mini, contexts):
    prompts = emotion_prompts(contexts[:4])
    with execution(batch_size=6), counted() as receipt:
        said = elicit(mini, prompts, max_new_tokens=20)
    with working_on(Here()), execution(batch_size=6), counted() as own:
        here = elicit(mini, prompts, max_new_tokens=20)
    assert [reply.text for reply in said] == [reply.text for reply in here]
    assert receipt == own
    assert receipt.passes == len(prompts)


@pytest.mark.trial("workers", "a worker is killed (SIGKILL) while it does its part")
def test_a_killed_workers_part_is_done_again(on_two, mini, contexts, trial):
    prompts = emotion_prompts(contexts[:3])
    with working_on(Here()), execution(batch_size=4), counted() as own:
        here = elicit(mini, prompts, max_new_tokens=20)
    times = 2
    for turn in range(times):
        pids = processes(on_two)
        done = []

        def kill(count, pids=pids, done=done, turn=turn):
            if not done:
                os.kill(pids[turn % 2], signal.SIGKILL)
            done.append(count)

        with execution(batch_size=4, progress=kill), counted() as receipt:
            said = elicit(mini, prompts, max_new_tokens=20)
        assert [reply.text for reply in said] == [reply.text for reply in here]
        assert sum(done) == len(prompts)
        assert receipt == own
        assert processes(on_two) != pids
    trial(times=times, outcome="the same replies and the same receipt as of one process")


@pytest.mark.slow
@pytest.mark.trial("workers", "a part kills every worker that it is given to")
def test_a_part_that_kills_its_workers_is_named(on_two, mini, trial):
    def deadly(model, part):
        if part == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    with pytest.raises(RunError, match=r"^part \d was lost: its worker died"):
        list(on_two.results(mini, deadly, range(6)))
    trial(times=RETRIES + 1, outcome="named error that says which part")


@pytest.mark.trial("workers", "the work of a worker raises {kind}")
@pytest.mark.parametrize("kind", ["DataError", "ModelError", "ZeroDivisionError"])
def test_an_error_of_the_work_arrives_as_itself(on_two, mini, kind, trial):
    error = {"DataError": DataError, "ModelError": ModelError}.get(kind, ZeroDivisionError)

    def fails(model, part):
        if part == 1:
            raise error("context sc_01 is empty")
        return part

    with pytest.raises(error, match="^context sc_01 is empty$"):
        list(on_two.results(mini, fails, range(3)))

    def same(model, part):
        return part

    assert len(list(on_two.results(mini, same, range(3)))) == 3
    trial(outcome="the same error here; the workers go on with the next work")


def test_a_model_that_was_given_in_memory_is_refused_by_name(on_two, llama):
    def same(model, part):
        return part

    with pytest.raises(ModelError, match="^random-llama was given in memory, and workers load"):
        list(on_two.results(llama, same, range(3)))


def test_work_on_an_edited_model_is_done_where_the_edits_are(on_two, mini):
    here = os.getpid()

    def process(model, part):
        return os.getpid()

    with edited(mini, [Scale("post", 0, torch.zeros(mini.cfg.d_mlp))]):
        assert {pid for _, pid in on_two.results(mini, process, range(4))} == {here}
    assert here not in {pid for _, pid in on_two.results(mini, process, range(4))}


@pytest.mark.trial("workers", "--engine ray without the extra [ray]")
def test_without_ray_the_extra_is_named(monkeypatch, trial):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'ray>=2\.40,<3'$"), at_work("ray"):
        pass
    trial(outcome="named error that says how to install it")


@pytest.mark.parametrize(
    ("opened", "cause"),
    [
        (lambda: on_ray(5000), "--workers: 5000 asked for, and the Ray cluster has "),
        (lambda: on_ray(0), "--workers: 0 is too few"),
        (lambda: at_work("here", 2), "^--workers: one process"),
        (lambda: at_work("here", None, "auto"), "^--ray-address: one"),
    ],
)
def test_workers_that_cannot_be_are_refused(opened, cause):
    with pytest.raises(RunError, match=cause), opened():
        pass


def test_workers_are_gone_after_the_block(mini):
    with on_ray(1) as one:
        (pid,) = processes(one)
        assert engine() is one
    assert isinstance(engine(), Here) or engine() is not one
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {pid} goes on")
