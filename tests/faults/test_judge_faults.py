"""A chat server that fails in every way: asked again or refused by name, and never the key."""

import json
import logging
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from circuits.errors import JudgeError
from circuits.judges import HttpJudge

KEY = "sk-test-0123456789abcdef"
ANSWER = json.dumps({"choices": [{"message": {"content": '{"match": 1, "reason": "so"}'}}]})


def page(status: str, body: str = "", *headers: str, kind: str = "application/json") -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body.encode())}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", body]).encode()


Step = bytes | Callable[[socket.socket], None]


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silence(connection: socket.socket) -> None:
    time.sleep(0.6)


def drip_body(connection: socket.socket) -> None:
    head, body = page("200 OK", ANSWER).split(b"\r\n\r\n")
    connection.sendall(head + b"\r\n\r\n")
    for letter in body:
        connection.sendall(bytes([letter]))
        time.sleep(0.01)


def giant(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
    block = b" " * (1 << 20)
    for _ in range(64):
        connection.sendall(block)


class Server:
    """Plays one step per connection, the last one for ever."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.steps, self.asked = steps, list[bytes]()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.asked.append(self._request(connection))
            step = self.steps[min(len(self.asked), len(self.steps)) - 1]
            step(connection) if callable(step) else connection.sendall(step)

    @staticmethod
    def _request(connection: socket.socket) -> bytes:
        read = b""
        while b"\r\n\r\n" not in read:
            read += connection.recv(65536)
        head, body = read.split(b"\r\n\r\n", 1)
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if b"-length:" in line)
        while len(body) < length:
            body += connection.recv(65536)
        return read


@contextmanager
def serving(*steps: Step) -> Iterator[Server]:
    server = Server(steps)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.socket.shutdown(socket.SHUT_RDWR)
        server.socket.close()
        thread.join(3)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


def judge(server: Server, **options: Any) -> HttpJudge:
    return HttpJudge(base_url=server.url, workers=1, **{"timeout": 0.3, "attempts": 3, **options})


HTML = "<!doctype html><html><body>Bad gateway</body></html>"
PASSING: dict[str, Step] = {
    "does not answer in time": silence,
    "sends the body letter by letter": drip_body,
    "resets the connection": reset,
    "closes the connection": b"",
    "answers 429 with Retry-After": page("429 Too Many Requests", "", "Retry-After: 0"),
    "answers 500": page("500 Internal Server Error", f"no {KEY}"),
    "answers 503 with HTML": page("503 Service Unavailable", HTML, kind="text/html"),
    "answers half a JSON": page("200 OK", ANSWER[: len(ANSWER) // 2]),
    "promises more than it sends": page("200 OK", ANSWER).replace(b"Length: ", b"Length: 9"),
    "answers with bytes that are no text": page("200 OK", "\x00\ufffd\x01"),
    "answers with a deeply nested JSON": page("200 OK", "[" * 100_000),
    "answers with gigabytes": giant,
    "speaks no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
}
FINAL: dict[str, tuple[bytes, str]] = {
    "does not accept the key": (
        page("401 Unauthorized", json.dumps({"error": {"message": f"bad key {KEY}"}})),
        "OPENAI_API_KEY is not accepted",
    ),
    "denies access": (page("403 Forbidden", HTML), "access denied"),
    "is not there": (page("404 Not Found", HTML, kind="text/html"), "nothing there"),
    "finds the request too long": (page("413 Payload Too Large"), "does not accept this request"),
}


def refused(server: Server, caplog: Any, **options: Any) -> str:
    """What the error says; the key is neither there, nor in the traceback, nor in any log."""
    with caplog.at_level(logging.DEBUG), pytest.raises(JudgeError) as caught:
        judge(server, **options).judge(["How dare you!"], ["anger"])
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    for start in range(len(KEY) - 7):
        assert KEY[start : start + 8] not in told
    return str(caught.value)


@pytest.mark.trial("faults", "the judge {trouble}, and then answers, or not")
@pytest.mark.parametrize("trouble", PASSING)
def test_a_trouble_that_passes_is_asked_through_and_one_that_stays_is_named(trial, caplog, trouble):
    with serving(PASSING[trouble], page("200 OK", ANSWER)) as server:
        (verdict,) = judge(server).judge(["How dare you!"], ["anger"])
    assert verdict.match
    assert len(server.asked) == 2
    with serving(PASSING[trouble]) as server:
        said = refused(server, caplog, attempts=2)
    assert server.url in said
    assert "after 2 attempts" in said
    assert len(server.asked) == 2
    trial(times=3, outcome="asked again until it answers, or JudgeError; the key nowhere")


@pytest.mark.trial("faults", "the judge {trouble}")
@pytest.mark.parametrize("trouble", FINAL)
def test_a_refusal_is_not_asked_again(trial, caplog, trouble):
    answer, message = FINAL[trouble]
    with serving(answer) as server:
        assert message in refused(server, caplog)
    assert len(server.asked) == 1
    trial(times=1, outcome="JudgeError at once; the key nowhere")


@pytest.mark.trial("faults", "the judge asks to come back in an hour")
def test_a_wait_beyond_the_limit_ends_the_waiting(trial, caplog):
    with serving(page("429 Too Many Requests", "", "Retry-After: 3600")) as server:
        assert "asks to wait 3600 s" in refused(server, caplog)
    assert len(server.asked) == 1
    trial(times=1, outcome="JudgeError at once")


@pytest.mark.trial("faults", "the judge redirects to another host ({status})")
@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_is_not_followed_and_the_key_stays_here(trial, caplog, status):
    with (
        serving(page("200 OK", ANSWER)) as other,
        serving(page(f"{status} Elsewhere", "", f"Location: {other.url}")) as server,
    ):
        assert "it redirects; give the final address" in refused(server, caplog)
        assert KEY.encode() in server.asked[0]
    assert other.asked == []
    trial(times=1, outcome="refused; the other host is never asked")


@pytest.mark.trial("faults", "nobody listens where the judge should be")
def test_a_server_that_is_not_there_is_named(trial, caplog):
    with serving(b"") as server:
        pass
    assert "connection failed" in refused(server, caplog, attempts=2)
    trial(times=2, outcome="JudgeError; the key nowhere")
