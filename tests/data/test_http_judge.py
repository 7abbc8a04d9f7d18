import gzip
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from circuits.errors import JudgeError, Stopped
from circuits.journal import ask_to_stop, go_on, journal
from circuits.judges import HttpJudge
from circuits.judges.replies import judge_texts

ROOT = Path(__file__).parents[2]
KEY = "sk-test-0123456789abcdef"
GOOD = '{"match": 1, "reason": "how dare"}'


def completion(answer):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]})


class Server:
    """A chat server on the loopback; plays one step per request, the last one for ever."""

    def __init__(self, *steps: Any):
        self.steps = steps
        self.requests = []
        self.lock = threading.Lock()
        self.url = ""

    def reply(self, request):
        length = int(request.headers["Content-Length"])
        body = json.loads(request.rfile.read(length))
        with self.lock:
            at = min(len(self.requests), len(self.steps) - 1)
            self.requests.append((request.path, dict(request.headers), body))
        step = self.steps[at]
        answer: Any = step(request, body) if callable(step) else step
        if answer is None:
            request.close_connection = True
            return
        status, text, *headers = answer
        data = text.encode()
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


@contextmanager
def serving(*steps):
    server = Server(*steps)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            with suppress(ConnectionError):
                server.reply(self)

        def log_message(self, format, *args):  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


def ask(server, texts=("How dare you!",), **options):
    judge = HttpJudge(base_url=server.url, **options)
    return judge.judge(list(texts), ["anger"] * len(texts))


def test_the_question_holds_the_text_the_emotion_the_model_and_the_key():
    with serving((200, completion(GOOD))) as server:
        (verdict,) = ask(server)
    assert (verdict.match, verdict.label, verdict.reason) == (True, None, "how dare")
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"]) == ("gpt-4o-mini", 0)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    question = json.loads(body["messages"][1]["content"])
    assert question == {"target": "anger", "text": "How dare you!"}


def test_the_key_is_read_from_the_named_variable_at_each_call_and_never_kept(monkeypatch):
    with serving((200, completion(GOOD))) as server:
        judge = HttpJudge(base_url=server.url, key_variable="OTHER_KEY")
        monkeypatch.setenv("OTHER_KEY", " other-key\n")
        judge.judge(["x"], ["fear"])
    assert server.requests[0][1]["Authorization"] == "Bearer other-key"
    assert "other-key" not in repr(judge) + str(vars(judge)) + json.dumps(judge.describe())


def test_verdicts_keep_the_order_of_the_texts_and_empty_ones_cost_no_call():
    def echo(_, body):
        text = json.loads(body["messages"][1]["content"])["text"]
        time.sleep(0.05 if text == "0" else 0)
        return 200, completion(json.dumps({"match": int(text) % 2, "reason": text}))

    with serving(echo) as server:
        verdicts = ask(server, ["0", "1", " ", "3", "4", "5", "6", "7"])
    assert [v.reason for v in verdicts] == ["0", "1", "empty text", "3", "4", "5", "6", "7"]
    assert [v.match for v in verdicts] == [False, True, False, True, False, True, False, True]
    assert len(server.requests) == 7


def test_no_more_than_the_allowed_workers_ask_at_once():
    busy, most, lock = [], [], threading.Lock()

    def slow(*_):
        with lock:
            busy.append(1)
            most.append(len(busy))
        time.sleep(0.02)
        with lock:
            busy.pop()
        return 200, completion(GOOD)

    with serving(slow) as server:
        ask(server, ["x"] * 9, workers=3)
    assert 1 < max(most) <= 3


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "request for model 'gpt-4o-mini' is not accepted"),
        (401, "a key is needed; .* OPENAI_API_KEY"),
        (404, "base URL often ends in /v1"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(monkeypatch, status, advice):
    monkeypatch.delenv("OPENAI_API_KEY")
    body = json.dumps({"error": {"message": "bad luck"}})
    with (
        serving((status, body)) as server,
        pytest.raises(JudgeError, match=f"item 0: .*status {status}, .*{advice}.*'bad luck'"),
    ):
        ask(server)
    assert len(server.requests) == 1


def test_an_unreadable_answer_is_retried_then_named_with_its_first_80_characters():
    unreadable = (200, completion("I would say " + "x" * 99))
    with serving(unreadable) as server, pytest.raises(JudgeError) as refused:
        ask(server, attempts=2)
    message = str(refused.value)
    assert message.startswith("item 0: ")
    assert repr("I would say " + "x" * 68) in message
    assert len(server.requests) == 2


def furious(answer):
    """A server that will not judge texts with one word."""

    def step(_, body):
        text = json.loads(body["messages"][1]["content"])["text"]
        return answer if "furious" in text else (200, completion(GOOD))

    return step


FILTERED = {"error": {"message": "no", "code": "content_filter"}}
NULL = {"choices": [{"finish_reason": "content_filter", "message": {"content": None}}]}
REFUSAL = {"choices": [{"message": {"content": None, "refusal": "I can't help with that."}}]}
WILL_NOT = {
    "filter": (400, json.dumps(FILTERED), 1),
    "no content": (200, json.dumps(NULL), 1),
    "refusal": (200, json.dumps(REFUSAL), 2),
    "excuse": (200, completion("I'm sorry, but I can't help with that."), 2),
}


@pytest.mark.parametrize("kind", WILL_NOT)
def test_a_text_that_the_server_will_not_judge_does_not_end_the_work(kind):
    status, body, times = WILL_NOT[kind]
    texts = ["fine", "I am furious", *["fine"] * 18]
    with serving(furious((status, body))) as server:
        verdicts = ask(server, texts, attempts=2)
    assert [v.match for v in verdicts] == [True, False, *[True] * 18]
    assert verdicts[1].reason.startswith("not judged")
    assert len(server.requests) == 19 + times


def test_a_server_that_will_not_judge_many_texts_is_an_error_and_names_one(tmp_path):
    questions = [(f"text {n}", "anger") for n in range(16)]
    questions += [(f"furious {n}", "anger") for n in range(4)]
    with serving(furious((400, json.dumps(FILTERED)))) as server:
        for asked in (20, 4):  # what was answered is kept, what was not is asked again
            server.requests.clear()
            refused = pytest.raises(JudgeError, match="content filter; so it is with 4 of")
            with refused, journal(tmp_path / "j", "key"):
                judge_texts(HttpJudge(base_url=server.url), questions)
            assert len(server.requests) == asked


@pytest.mark.parametrize("profile", ["robust", "released"])
@pytest.mark.parametrize("named", [True, False])
def test_a_setting_that_the_server_refuses_is_left_out(profile, named):
    def picky(_, body):
        for name in ("temperature", "max_tokens"):
            if name in body:
                error = {"message": f"Unsupported: '{name}' is refused"}
                return 400, json.dumps({"error": {**error, **({"param": name} if named else {})}})
        return 200, completion(GOOD)

    with serving(picky) as server:
        judge = HttpJudge(base_url=server.url, profile=profile, workers=1)
        assert [v.match for v in judge.judge(["a", "b", "c"], ["anger"] * 3)] == [True] * 3
    refused = ["temperature"] if profile == "robust" else ["max_tokens", "temperature"]
    assert judge.describe()["refused_settings"] == refused
    assert "temperature" not in judge.describe()
    assert len(server.requests) == 3 + len(refused)


def test_an_answer_in_parts_is_read():
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": GOOD}]
    with serving((200, completion(parts))) as server:
        assert ask(server)[0].match


TRAP = "sk-trap-fedcba9876543210"
TRAPS = {
    "OPENAI_ADMIN_KEY": TRAP,
    "OPENAI_ORG_ID": TRAP,
    "OPENAI_PROJECT_ID": TRAP,
    "OPENAI_WEBHOOK_SECRET": TRAP,
    "OPENAI_BASE_URL": "http://127.0.0.1:9/trap",
    "OPENAI_CUSTOM_HEADERS": f"Authorization: {TRAP}\nHost: {TRAP}\nX-Own: {TRAP}\ncookie: {TRAP}",
    "OPENAI_LOG": "debug",
    "OPENAI_API_TYPE": "azure",
    "OPENAI_API_VERSION": TRAP,
    "AZURE_OPENAI_ENDPOINT": "http://127.0.0.1:9/trap",
    "AZURE_OPENAI_API_KEY": TRAP,
    "AZURE_OPENAI_AD_TOKEN": TRAP,
    "AWS_BEARER_TOKEN_BEDROCK": TRAP,
    "AWS_BEDROCK_BASE_URL": "http://127.0.0.1:9/trap",
    "GOOGLE_CLOUD_PROJECT": TRAP,
    "DEFER_PYDANTIC_BUILD": "false",
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "NO_PROXY": "",
    "SSL_CERT_FILE": "/nowhere/cert.pem",
    "SSL_CERT_DIR": "/nowhere",
    "SSLKEYLOGFILE": "{folder}/keys.log",
    "NETRC": "{folder}/netrc",
}
CODE = """
import sys
from circuits.judges import HttpJudge
judge = HttpJudge(base_url=sys.argv[1], attempts=1)
print(judge.judge(["How dare you!"], ["anger"]), judge, judge.describe())
"""


def in_a_process(server, tmp_path, **variables):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {TRAP}")
    env = {name: value.format(folder=tmp_path) for name, value in variables.items()}
    env |= {name.lower(): value for name, value in env.items() if name.endswith("_PROXY")}
    env |= {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", CODE, server.url]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=True)


@pytest.mark.parametrize("given", [KEY, None])
def test_no_variable_that_the_client_reads_has_an_effect_or_is_sent(tmp_path, given):
    with serving((200, completion(GOOD))) as server:
        key = {"OPENAI_API_KEY": given} if given else {}
        trapped = in_a_process(server, tmp_path, **key, **TRAPS)
    assert "[Verdict(match=True, label=None, reason='how dare')]" in trapped.stdout
    ((path, headers, _),) = server.requests
    assert (path, headers["Host"]) == ("/v1/chat/completions", server.url[7:-3])
    assert headers.get("Authorization") == (given and f"Bearer {given}")
    names = {"Host", "User-Agent", "Accept", "Accept-Encoding", "Content-Type", "Content-Length"}
    assert {*headers} == names | ({"Authorization"} if given else set())
    # Asked for, the client tells of its work, but of no address, key or text.
    assert [it for it in (KEY, "trap", "How dare") if it in trapped.stdout + trapped.stderr] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["netrc"]


def test_each_variable_that_the_client_reads_is_a_trap():
    import httpcore2
    import httpx2
    import openai

    read = set()
    for package, skipped in ((openai, ("cli", "types")), (httpx2, ()), (httpcore2, ())):
        folder = Path(package.__file__ or "").parent
        for path in folder.rglob("*.py"):
            if path.relative_to(folder).parts[0] not in skipped:
                code = path.read_text(encoding="utf-8")
                read |= {*re.findall(r"os\.environ(?:\.get\(|\[)\s*\"(\w+)\"", code)}
    cloud = {"AWS_REGION", "AWS_DEFAULT_REGION", "GOOGLE_CLOUD_LOCATION"}  # no secrets
    assert read - cloud - {"OPENAI_API_KEY"} <= {*TRAPS}


def test_a_proxy_hears_nothing_of_a_server_on_this_machine(monkeypatch):
    with serving((200, completion(GOOD))) as server, serving((200, completion(GOOD))) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        judge = HttpJudge(base_url=server.url)
        assert judge.judge(["x"], ["fear"])[0].match
        assert (proxy.requests, judge.sends_key_away) == ([], False)
        # Any other server is asked through it.
        assert HttpJudge(base_url="http://host.invalid/v1").judge(["x"], ["fear"])[0].match
    assert proxy.requests[0][1]["Host"] == "host.invalid"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://user:secret@host:1"),
        ("ALL_PROXY", "socks://host:1"),
        ("SSL_CERT_FILE", "/nowhere/cert.pem"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(monkeypatch, name, value):
    for other in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.delenv(other.lower(), raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(JudgeError, match=name) as refused:
        HttpJudge(base_url="https://host.invalid/v1").judge(["x"], ["fear"])
    assert "secret" not in str(refused.value)
    assert refused.value.__context__ is None


def test_a_proxy_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(JudgeError, match=r"connection failed .* through .* HTTP_PROXY"):
        HttpJudge(base_url="http://host.invalid/v1", attempts=1).judge(["x"], ["fear"])


def test_a_packed_answer_is_not_unpacked():
    def bomb(request, _):
        data = gzip.compress(completion(GOOD).encode() + b" " * 50_000_000)
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    with serving(bomb) as server, pytest.raises(JudgeError, match="no chat completion"):
        ask(server, attempts=1)


def test_after_a_failure_the_questions_left_are_not_asked():
    with serving((400, "")) as server, pytest.raises(JudgeError):
        ask(server, ["x"] * 200, workers=1)
    assert len(server.requests) < 20


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500])
def test_a_key_that_the_server_repeats_appears_nowhere(caplog, status):
    caplog.set_level(logging.DEBUG)

    def echo(request, _):
        return status, json.dumps({"error": {"message": str(dict(request.headers))}})

    with serving(echo) as server, pytest.raises(JudgeError) as refused:
        ask(server, attempts=2)
    error = refused.value
    assert "withheld" in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    for piece in (KEY, KEY[:12], KEY[-12:]):
        assert piece not in str(error) + repr(error) + caplog.text


def test_a_key_in_the_answer_itself_appears_nowhere():
    answers = (f"Your key is {KEY}", json.dumps({"match": 0, "reason": f"saw {KEY[:14]}"}))
    with serving(*((200, completion(answer)) for answer in answers)) as server:
        (verdict,) = ask(server)
    assert verdict.reason == "(withheld: it repeats the key)"


def asked_texts(server):
    return [json.loads(b["messages"][1]["content"])["text"] for _, _, b in server.requests]


@pytest.mark.trial("faults", "a paid judge fails in the middle of 40 texts, and is asked again")
def test_no_answer_is_paid_for_twice(tmp_path, trial):
    texts = [str(number) for number in range(40)]

    def until(text):
        def step(_, body):
            own = json.loads(body["messages"][1]["content"])["text"]
            return (401, "no") if own == text else (200, completion(GOOD))

        return step

    given, questions = [], [(text, "anger") for text in texts]
    for last in ("7", "23"):
        refused, kept = pytest.raises(JudgeError, match="item"), journal(tmp_path / "j", "key")
        with serving(until(last)) as server, refused, kept:
            judge_texts(HttpJudge(base_url=server.url), questions)
        given += [text for text in asked_texts(server) if text != last]
    with serving(until(None)) as server, journal(tmp_path / "j", "key"):
        assert len(judge_texts(HttpJudge(base_url=server.url), questions)) == 40
    given += asked_texts(server)
    assert sorted(given, key=int) == texts
    trial(times=2, outcome="every text is answered once and no answer is lost")


def test_a_judge_that_is_to_stop_asks_no_more_and_keeps_what_it_has_asked(tmp_path):
    def stopping(_, body):
        if json.loads(body["messages"][1]["content"])["text"] == "9":
            ask_to_stop()
        time.sleep(0.01)
        return 200, completion(GOOD)

    questions = [(str(number), "anger") for number in range(40)]
    with serving(stopping) as server:
        judge = HttpJudge(base_url=server.url)
        try:
            with pytest.raises(Stopped), journal(tmp_path / "j", "key") as kept:
                judge_texts(judge, questions)
        finally:
            go_on()
        first = asked_texts(server)
        assert kept.kept == f"{len(first)} finished parts are kept"
        assert len(first) < 20
        with journal(tmp_path / "j", "key"):
            assert len(judge_texts(judge, questions)) == 40
    assert sorted(asked_texts(server), key=int) == [text for text, _ in questions]
