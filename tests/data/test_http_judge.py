import json
import logging
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from circuits.errors import JudgeError, Stopped
from circuits.journal import ask_to_stop, go_on, journal
from circuits.judges import HttpJudge
from circuits.judges.replies import hear

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
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def waits():
    return []


@pytest.fixture
def ask(waits):
    def ask(server, texts=("How dare you!",), **options):
        judge = HttpJudge(base_url=server.url, sleep=waits.append, jitter=lambda: 0.0, **options)
        return judge.judge(list(texts), ["anger"] * len(texts))

    return ask


def test_the_question_holds_the_text_the_emotion_the_model_and_the_key(ask):
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


def test_without_a_key_in_the_environment_none_is_sent(ask, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving((200, completion(GOOD))) as server:
        ask(server)
    assert "Authorization" not in server.requests[0][1]


def test_the_key_is_read_from_the_named_variable_at_each_call_and_never_kept(monkeypatch):
    with serving((200, completion(GOOD))) as server:
        judge = HttpJudge(base_url=server.url, key_variable="OTHER_KEY")
        monkeypatch.setenv("OTHER_KEY", " other-key\n")
        judge.judge(["x"], ["fear"])
    assert server.requests[0][1]["Authorization"] == "Bearer other-key"
    assert "other-key" not in repr(judge) + str(vars(judge)) + json.dumps(judge.describe())


def test_verdicts_keep_the_order_of_the_texts_and_empty_ones_cost_no_call(ask):
    def echo(_, body):
        text = json.loads(body["messages"][1]["content"])["text"]
        time.sleep(0.05 if text == "0" else 0)
        return 200, completion(json.dumps({"match": int(text) % 2, "reason": text}))

    with serving(echo) as server:
        verdicts = ask(server, ["0", "1", " ", "3", "4", "5", "6", "7"])
    assert [v.reason for v in verdicts] == ["0", "1", "empty text", "3", "4", "5", "6", "7"]
    assert [v.match for v in verdicts] == [False, True, False, True, False, True, False, True]
    assert len(server.requests) == 7


def test_no_more_than_the_allowed_workers_ask_at_once(ask):
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


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503])
def test_a_passing_trouble_is_retried_with_doubling_waits(ask, waits, status):
    with serving((status, "no"), (status, "no"), (200, completion(GOOD))) as server:
        assert ask(server)[0].match
    assert waits == [1.0, 2.0]


def test_the_jitter_spreads_the_waits_and_they_have_a_limit(waits):
    with serving(*[(500, "")] * 4, (200, completion(GOOD))) as server:
        judge = HttpJudge(
            base_url=server.url, sleep=waits.append, jitter=lambda: 0.5, longest_wait=5.0
        )
        judge.judge(["x"], ["fear"])
    assert waits == [1.5, 3.0, 5.0, 5.0]


def test_retry_after_is_honoured_in_seconds_and_as_a_date(ask, waits):
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    with serving(
        (429, "", ("Retry-After", "7")),
        (503, "", ("Retry-After", past)),
        (503, "", ("Retry-After", "soon")),
        (200, completion(GOOD)),
    ) as server:
        assert ask(server)[0].match
    assert waits == [7.0, 2.0, 4.0]


def test_a_retry_after_beyond_the_limit_ends_the_waiting(ask, waits):
    with (
        serving((429, "", ("Retry-After", "86400"))) as server,
        pytest.raises(JudgeError, match="item 0: .* asks to wait 86400 s, more than .* 60 s"),
    ):
        ask(server)
    assert waits == []


def silent(*_):
    time.sleep(0.3)


def trickling(request, _):
    request.send_response(200)
    request.end_headers()
    for _ in range(20):
        request.wfile.write(b" ")
        time.sleep(0.02)


@pytest.mark.parametrize("step", [silent, trickling])
def test_a_slow_server_runs_into_the_time_limit(ask, step):
    no_answer = r"after 2 attempts: no answer within 0\.1 s"
    with serving(step) as server, pytest.raises(JudgeError, match=no_answer):
        ask(server, timeout=0.1, attempts=2)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "request for model 'gpt-4o-mini' is not accepted"),
        (401, "the key in OPENAI_API_KEY is not accepted"),
        (403, "access denied"),
        (404, "base URL often ends in /v1"),
        (307, "it redirects"),
        (418, "does not accept"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_do(ask, waits, status, advice):
    body = json.dumps({"error": {"message": "bad luck"}})
    with (
        serving((status, body)) as server,
        pytest.raises(JudgeError, match=f"item 0: .*status {status}, .*{advice}.*'bad luck'"),
    ):
        ask(server)
    assert (len(server.requests), waits) == (1, [])


def test_a_refusal_without_a_key_names_the_variable_to_set(ask, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with (
        serving((401, "")) as server,
        pytest.raises(JudgeError, match="a key is needed; .* OPENAI_API_KEY"),
    ):
        ask(server)


@pytest.mark.parametrize(
    "step",
    [
        lambda *_: None,
        (200, "<html><body>Gateway</body></html>"),
        (200, '{"choices": [{"mess'),
        (200, '{"choices": []}'),
        (200, "[]"),
    ],
)
def test_a_closed_connection_or_a_body_that_is_no_completion_is_retried(ask, step):
    with serving(step, (200, completion(GOOD))) as server:
        assert ask(server)[0].match


def test_an_unreadable_answer_is_retried_then_named_with_its_first_80_characters(ask, waits):
    def second_only(_, body):
        text = json.loads(body["messages"][1]["content"])["text"]
        return 200, completion(GOOD if text == "fine" else "I would say " + "x" * 99)

    with serving(second_only) as server, pytest.raises(JudgeError) as refused:
        ask(server, ["fine", "odd"], attempts=2)
    message = str(refused.value)
    assert message.startswith("item 1: ")
    assert repr("I would say " + "x" * 68) in message
    assert waits == [1.0]


def test_after_a_failure_the_questions_left_are_not_asked(ask):
    with serving((400, "")) as server, pytest.raises(JudgeError):
        ask(server, ["x"] * 200, workers=1)
    assert len(server.requests) < 20


@pytest.mark.parametrize("status", [200, 400, 401, 403, 500])
def test_a_key_that_the_server_repeats_appears_nowhere(ask, caplog, status):
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


def test_a_key_in_the_answer_itself_appears_nowhere(ask):
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
            hear(HttpJudge(base_url=server.url), questions)
        given += [text for text in asked_texts(server) if text != last]
    with serving(until(None)) as server, journal(tmp_path / "j", "key"):
        assert len(hear(HttpJudge(base_url=server.url), questions)) == 40
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
                hear(judge, questions)
        finally:
            go_on()
        first = asked_texts(server)
        assert kept.kept == f"{len(first)} finished parts are kept"
        assert len(first) < 20
        with journal(tmp_path / "j", "key"):
            assert len(hear(judge, questions)) == 40
    assert sorted(asked_texts(server), key=int) == [text for text, _ in questions]
