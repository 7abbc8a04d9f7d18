"""One question to a chat server: time limits, retries, and no word of the key in any message.

Kept apart from :mod:`circuits.judges.http` so that the network library is only loaded
when a question is asked.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any, Final

import httpx2

from circuits.errors import JudgeError
from circuits.journal import stopping
from circuits.judges.http import answer_text, messages, read_released, read_verdict
from circuits.judges.judge import EMPTY, Verdict

__all__ = [
    "Caller",
    "Patience",
    "answers",
    "open_client",
]

_AGAIN: Final = frozenset({408, 409, 425, 429})
_LARGEST_BODY: Final = 4_000_000
"""Bytes after which an answer is no answer; a server must not fill the memory."""
_WINDOW: Final = 8
"""A text that repeats this many characters of the key in a row is withheld."""
_SHOWN: Final = 80


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to ask again."""

    timeout: float
    attempts: int
    first_wait: float
    longest_wait: float
    sleep: Callable[[float], None] = field(repr=False)
    jitter: Callable[[], float] = field(repr=False)
    """A number from 0 to 1 that spreads the waits, so that clients do not come back together."""

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds to wait after ``attempt`` (from 0): doubling, never less than was asked."""
        doubled = self.first_wait * 2**attempt * (1.0 + self.jitter())
        return max(min(doubled, self.longest_wait), asked or 0.0)


@dataclass(frozen=True)
class _Outcome:
    """What one attempt brought: a verdict, or a trouble that may pass."""

    verdict: Verdict | None = None
    trouble: str = ""
    passing: bool = True
    retry_after: float | None = None


def open_client(timeout: float, workers: int) -> httpx2.Client:
    """A client for ``workers`` threads that follows no redirect: the key stays with one host."""
    return httpx2.Client(
        timeout=timeout,
        follow_redirects=False,
        limits=httpx2.Limits(max_connections=workers),
    )


@dataclass(frozen=True)
class Caller:
    """Asks one server; lives as long as one call of ``judge``."""

    client: httpx2.Client = field(repr=False)
    url: str
    model: str
    key: str | None = field(repr=False)
    key_variable: str
    patience: Patience
    settings: Mapping[str, Any]
    """Sampling settings sent along."""
    told: str = field(repr=False)
    """The system turn."""
    released: bool = False
    """Ask once, read nothing but bare JSON, and count every trouble as no match."""

    def ask(self, index: int, text: str, emotion: str) -> Verdict:
        """Ask about item ``index``, again and again while the trouble may pass.

        Raises:
            JudgeError: The server refuses, stays away, or never gives a readable answer.
        """
        payload = {
            "model": self.model,
            **self.settings,
            "messages": messages(text, emotion, self.told),
        }
        if self.released:
            once = self._attempt(payload)
            return once.verdict or Verdict(match=False, label=None, reason=f"error: {once.trouble}")
        outcome = _Outcome()
        for attempt in range(self.patience.attempts):
            outcome = self._attempt(payload)
            if outcome.verdict is not None:
                return outcome.verdict
            if not outcome.passing:
                break
            asked = outcome.retry_after
            if asked is not None and asked > self.patience.longest_wait:
                raise JudgeError(
                    f"item {index}: {self.url} asks to wait {asked:.0f} s, more than the allowed "
                    f"{self.patience.longest_wait:.0f} s. Come back later or use another judge."
                )
            if attempt + 1 < self.patience.attempts:
                self.patience.sleep(self.patience.wait(attempt, asked))
        tries = f" after {self.patience.attempts} attempts" if outcome.passing else ""
        raise JudgeError(f"item {index}: no judgement from {self.url}{tries}: {outcome.trouble}")

    def _attempt(self, payload: Mapping[str, Any]) -> _Outcome:
        try:
            status, body, wait = self._post(payload)
        except httpx2.InvalidURL:
            return _Outcome(trouble="that is not an address; check the base URL", passing=False)
        except httpx2.UnsupportedProtocol:
            return _Outcome(trouble="give an address with http:// or https://", passing=False)
        except httpx2.TimeoutException:
            return _Outcome(trouble=f"no answer within {self.patience.timeout:g} s")
        except (httpx2.RequestError, OSError) as error:
            return _Outcome(trouble=f"connection failed ({self._clean(type(error).__name__)})")
        if status != httpx2.codes.OK:
            return self._refused(status, body, wait)
        return self._read(body)

    def _post(self, payload: Mapping[str, Any]) -> tuple[int, str, float | None]:
        # The library's limit holds between two pieces of an answer; ours for the whole of it.
        deadline = time.monotonic() + self.patience.timeout
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        with self.client.stream("POST", self.url, json=payload, headers=headers) as response:
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("the answer is too slow")
                if len(body) > _LARGEST_BODY:
                    break
            wait = _retry_after(response.headers.get("Retry-After"))
            return response.status_code, body.decode("utf-8", errors="replace"), wait

    def _refused(self, status: int, body: str, wait: float | None) -> _Outcome:
        if status in _AGAIN or status >= httpx2.codes.INTERNAL_SERVER_ERROR:
            said = self._said(body)
            return _Outcome(trouble=f"status {status}{said}", retry_after=wait)
        advice = {
            400: f"the request for model {self.model!r} is not accepted",
            401: self._key_advice(),
            403: f"access denied; does the key in {self.key_variable} cover {self.model!r}?",
            **dict.fromkeys((301, 302, 303, 307, 308), "it redirects; give the final address"),
            404: f"nothing there, or no model {self.model!r}; the base URL often ends in /v1",
        }.get(status, "the server does not accept this request")
        return _Outcome(trouble=f"status {status}, {advice}{self._said(body)}", passing=False)

    def _key_advice(self) -> str:
        if self.key is None:
            return f"a key is needed; put it into the environment variable {self.key_variable}"
        return f"the key in {self.key_variable} is not accepted; check it"

    def _read(self, body: str) -> _Outcome:
        answer = answer_text(body)
        if answer is None:
            shown = self._shown(body)
            return _Outcome(trouble=f"the body is no chat completion: {shown}")
        verdict = read_released(answer) if self.released else read_verdict(answer)
        if verdict is None:
            shown = self._shown(answer)
            return _Outcome(trouble=f"the answer has no JSON with match 0 or 1: {shown}")
        return _Outcome(Verdict(verdict.match, verdict.label, self._clean(verdict.reason)))

    def _said(self, body: str) -> str:
        try:
            message = json.loads(body)["error"]["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            message = body
        return f"; it says: {self._shown(str(message))}" if str(message).strip() else ""

    def _shown(self, text: str) -> str:
        # Clean first: a cut through the key would hide it from the check and show a part of it.
        return repr(" ".join(self._clean(text).split())[:_SHOWN])

    def _clean(self, text: str) -> str:
        """Withhold a text that repeats the key or a piece of it."""
        if not self.key:
            return text
        size = min(_WINDOW, len(self.key))
        pieces = (self.key[at : at + size] for at in range(len(self.key) - size + 1))
        if any(piece in text for piece in pieces):
            return "(withheld: it repeats the key)"
        return text


def answers(
    caller: Caller, texts: Sequence[str], emotions: Sequence[str], workers: int
) -> Iterator[tuple[int, Verdict]]:
    """Ask about every text, ``workers`` at a time: place and verdict, as they are answered.

    If the work is asked to stop, nothing more is asked.

    Raises:
        JudgeError: One question failed. Those not yet asked are dropped; those under way are
            answered first.
    """
    ended = Event()

    def ask(index: int) -> Verdict | None:
        if ended.is_set() or stopping():
            return None
        if not texts[index].strip():
            return Verdict(match=False, label=None, reason=EMPTY)
        try:
            return caller.ask(index, texts[index], emotions[index])
        except JudgeError:
            # The questions not yet asked would only cost money.
            ended.set()
            raise

    pool, failed = ThreadPoolExecutor(workers), dict[int, BaseException]()
    try:
        asked = {pool.submit(ask, index): index for index in range(len(texts))}
        for future in as_completed(asked):
            error = future.exception()
            if error is not None:
                failed[asked[future]] = error
            elif (verdict := future.result()) is not None:
                yield asked[future], verdict
    finally:
        ended.set()
        pool.shutdown()
    if failed:
        raise failed[min(failed)]


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait by a ``Retry-After`` header: a number, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
