"""A key goes to a server only where the user named it, and not because a file did."""

import json

import pytest
from plans import plan_in

from circuits.cli.app import main
from circuits.errors import JudgeError
from circuits.runs import Plan, run
from circuits.runs.folder import Study
from circuits.runs.plan import check_judges, read_plan, trusted, trusting
from circuits.runs.work import plan_of

AWAY = "http:https://judge.invalid/v1#any"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")


@pytest.fixture
def plan(tmp_path):
    return plan_in(tmp_path / "run")


@pytest.fixture
def received(plan):
    """A run folder from somebody whose judge would like the key."""

    def made(option="judge", spec=AWAY):
        plan.out.mkdir()
        log = {"plan": {**plan.to_json(), option: spec}, "versions": {}, "stages": {}}
        (plan.out / "run.json").write_text(json.dumps(log))
        return Study(plan.out)

    return made


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(f'model = "sev-nano"\nout = "run"\njudge = "{AWAY}"\n')
    return path


@pytest.mark.trial("security", "a received run folder names a server as its {option}")
@pytest.mark.parametrize("option", ["judge", "second_judge"])
def test_a_received_run_folder_is_not_told_the_key(received, option, trial):
    found = plan_of(received(option))
    with pytest.raises(JudgeError, match=rf"{option}: .*judge\.invalid.*--trust-judge"):
        check_judges(found)
    with trusting("judge"):
        check_judges(found)
    assert not trusted("judge")
    trial(outcome="refused before anything is sent; only the user allows it")


@pytest.mark.trial("security", "a plan file names a server as its judge")
def test_nor_is_the_server_of_a_plan_file(plan_file, trial):
    with pytest.raises(JudgeError, match="--trust-judge"):
        run(read_plan(plan_file))
    assert not (plan_file.parent / "run").exists()
    trial(outcome="refused before anything is made or sent")


def test_who_names_the_judge_sends_the_key(plan, plan_file, received):
    check_judges(Plan(**{**vars(plan), "judge": AWAY}))
    check_judges(read_plan(plan_file, {"judge": AWAY}))
    check_judges(plan_of(received()).asking({"judge": AWAY}))


def test_without_a_key_there_is_nothing_to_keep(received, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    check_judges(plan_of(received()))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_server_on_this_machine_may_have_it(received, host):
    check_judges(plan_of(received(spec=f"http:http://{host}:8000/v1")))


@pytest.mark.parametrize("host", ["127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7"])
def test_one_that_only_looks_so_may_not(received, host):
    with pytest.raises(JudgeError, match="--trust-judge"):
        check_judges(plan_of(received(spec=f"http:http://{host}:8000/v1")))


def test_the_command_line_says_so_in_one_line(received, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["emotion-circuits", "steer", str(received().folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "judge.invalid" in said
    assert "Traceback" not in said
