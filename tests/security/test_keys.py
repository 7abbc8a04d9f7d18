"""A key that is in the environment is in nothing that a run writes, says or shows."""

import base64
import json
import os
import shlex
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import pytest
from plans import plan_in
from rich.console import Console
from rich.traceback import Traceback

from circuits.errors import JudgeError
from circuits.judges import open_judge
from circuits.judges.http import HttpJudge
from circuits.runs import run

ROOT = Path(__file__).parents[2]
KEY = "sk-planted+0123/456789=abcdef"
TOKEN = "hf_plantedTOKEN0123456789abcdef"


def forms(key):
    """The key as it is, in base64 at every alignment, and as part of an address."""
    encoded = {
        base64.b64encode(b"x" * shift + key.encode())[2 * shift + 2 : -4].decode()
        for shift in range(3)
    }
    safe = {text.replace("+", "-").replace("/", "_") for text in encoded}
    return {key, quote(key), quote(key, safe=""), key[:12], key[-12:], *encoded, *safe}


ALL_FORMS = forms(KEY) | forms(TOKEN)


def leaks(text):
    return sorted(form for form in ALL_FORMS if form in text)


def leaks_below(folder):
    return {
        path.name: found
        for path in folder.rglob("*")
        if path.is_file() and (found := leaks(path.read_bytes().decode("latin-1")))
    }


@contextmanager
def serving(status):
    """A judge that accepts every reply, or refuses, and repeats the key that it was sent."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            heard.append(self.headers["Authorization"])
            reason = f"heard {self.headers['Authorization']}"
            verdict = json.dumps({"match": 1, "reason": reason})
            good = {"choices": [{"message": {"role": "assistant", "content": verdict}}]}
            bad = {"error": {"message": reason}}
            data = json.dumps(good if status == 200 else bad).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *args):  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1", heard
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def failing(judge):
    """The error of a judge, without the frames of the test, which know the key."""
    with pytest.raises(JudgeError) as failed:
        judge.judge(["How dare you!"], ["anger"])
    assert failed.tb.tb_next is not None
    return failed.value.with_traceback(failed.tb.tb_next)


def carried_out(out, url, *words):
    options = shlex.split(
        "--scenarios 4 --dev-scenarios 0 --emotions anger,fear --set max_new_tokens=8"
    )
    begin = [sys.executable, "-m", "circuits", "run", "--model", "sev-nano", "--out", str(out)]
    command = [*begin, "--judge", f"http:{url}#any", *options, *words]
    env = {
        "PATH": os.environ["PATH"],
        "COLUMNS": "300",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENAI_API_KEY": KEY,
        "HF_TOKEN": TOKEN,
    }
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300, check=False
    )


@pytest.mark.trial("security", "a run with a key, judged by a server that repeats it")
def test_a_run_holds_no_key(tmp_path, trial):
    with serving(200) as (url, heard):
        done = carried_out(tmp_path / "run", url, "--stages", "replies,judgements,directions")
    assert done.returncode == 0, done.stderr
    assert set(heard) == {f"Bearer {KEY}"}
    assert leaks(done.stdout + done.stderr) == []
    assert leaks_below(tmp_path) == {}
    files = sum(path.is_file() for path in tmp_path.rglob("*"))
    assert files > 4
    trial(times=files, outcome="no key in any file, nor on the screen")


@pytest.mark.slow
@pytest.mark.trial("security", "a run with a key fails at its judge, also with --debug")
def test_a_run_that_fails_shows_no_key(tmp_path, trial):
    with serving(401) as (url, heard):
        for words in ((), ("--debug",)):
            done = carried_out(tmp_path / "run", url, "--stages", "replies,judgements", *words)
            assert done.returncode != 0
            assert ("Traceback" in done.stderr) == bool(words)
            assert leaks(done.stdout + done.stderr) == []
    assert set(heard) == {f"Bearer {KEY}"}
    assert leaks_below(tmp_path) == {}
    trial(times=2, outcome="no key in any file, message or traceback")


@pytest.mark.trial("security", "a key stands in the address of a judge")
@pytest.mark.parametrize(
    "address",
    [f"https://user:{quote(KEY)}@host/v1", f"https://host/v1?key={KEY}", f"https://{KEY}@host/v1"],
    ids=["password", "query", "user"],
)
def test_an_address_with_a_key_is_refused_without_repeating_it(tmp_path, address, trial):
    with pytest.raises(JudgeError) as refused:
        open_judge(f"http:{address}")
    assert leaks(f"{refused.value!r} {refused.value}") == []
    plan = plan_in(tmp_path / "run", judge=f"http:{address}")
    with pytest.raises(JudgeError):
        run(plan)
    assert not (tmp_path / "run").exists()
    trial(outcome="refused, the address is not repeated, nothing is written")


@pytest.mark.trial("security", "a traceback that shows the values of variables ({trouble})")
@pytest.mark.parametrize("trouble", ["the judge refuses", "the judge is not there"])
def test_a_traceback_with_values_shows_no_key(monkeypatch, trouble, trial):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(401) as (url, heard):
        judge = HttpJudge(base_url=url, attempts=1, timeout=5.0)
        failed = failing(judge)
    if "not there" in trouble:  # the server is gone now
        heard.clear()
        failed = failing(judge)
    console = Console(record=True, width=400, file=StringIO())
    values = {"show_locals": True, "locals_max_length": 10_000, "locals_max_string": 10_000}
    frames = failed.__traceback__
    console.print(Traceback.from_exception(type(failed), failed, frames, **values))
    assert bool(heard) == ("refuses" in trouble)
    shown = console.export_text()
    assert "locals" in shown
    assert leaks(shown) == []
    trial(outcome="no key")


def test_a_judge_and_a_plan_show_no_key(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    judge = open_judge("http:https://host/v1#any")
    plan = plan_in(tmp_path, judge="http:https://host/v1#any")
    shown = f"{judge!r} {judge} {vars(judge)} {judge.describe()} {plan!r} {plan.to_json()}"
    assert leaks(shown) == []


def test_every_form_of_the_key_would_be_found():
    encoded = base64.b64encode(f"user:{KEY}".encode()).decode()
    for text in (f"Bearer {KEY}.", encoded, f"https://host/?key={quote(KEY, safe='')}"):
        assert leaks(text)
