"""Faults on request: outages, rate limits, and answers that were asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from airflow_provider_importprog.emulator.backend import TIMED_OUT

OutageKind = Literal["unavailable", "html", "drop", "silent"]
"""An outage answers 503 with a JSON error, 502 with a proxy's HTML page, or drops the connection. Or it
creates, commits and aborts what it is asked to, and answers only when it is over; other calls it answers at once."""

OUTAGE_KINDS: tuple[str, ...] = get_args(OutageKind)


@dataclass
class RateLimit:
    """A rate limit that was asked for."""

    until: float
    """The clock's reading when the limit ends, seconds."""
    requests: float
    """Requests still to be refused."""
    retry_after: int
    """What the `Retry-After` header says, seconds."""


CALLS = ("get", "describe", "list", "create", "commit", "abort", "refresh_load")
"""The calls of the API by name: ``get`` is v1's progress, and ``describe`` v2's by whichever path."""


@dataclass
class Answer:
    """An answer that was asked for, in place of the true one."""

    code: int
    message: str
    status: int
    """The HTTP status."""
    requests: float
    """Requests still to be answered so."""
    done: bool
    """What was requested is done all the same."""
    delay: float
    """Seconds between the answer and the doing."""
    retry_after: int | None
    """What the `Retry-After` header says, seconds."""


class Faults:
    """Says which fault each request meets. Safe to change from another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._outage_until = float("-inf")
        self._outage_kind: OutageKind = "unavailable"
        self._limit: RateLimit | None = None
        self._answers: dict[str, Answer] = {}

    def outage(self, seconds: float, kind: OutageKind = "unavailable") -> None:
        """Have an outage for so many seconds from now. Of which kinds: see ``Emulator.outage``."""
        if kind not in OUTAGE_KINDS:
            raise ValueError(f"An outage is one of {', '.join(OUTAGE_KINDS)}, not {kind!r}.")
        with self._lock:
            self._outage_until = self._clock() + seconds
            self._outage_kind = kind

    def rate_limit(self, seconds: float | None = None, requests: int | None = None, retry_after: int = 1) -> None:
        """Refuse requests with 429 for so many seconds, or so many requests, whichever ends first."""
        if seconds is None and requests is None:
            raise ValueError("A rate limit needs seconds or requests, or it would never end.")
        with self._lock:
            until = float("inf") if seconds is None else self._clock() + seconds
            self._limit = RateLimit(until, float("inf") if requests is None else requests, retry_after)

    def answer(
        self,
        call: str,
        code: int,
        message: str,
        *,
        status: int = 200,
        requests: int | None = 1,
        done: bool = False,
        delay: float = 0.0,
        retry_after: int | None = None,
    ) -> None:
        """Answer the next requests to one call with this."""
        if call not in CALLS:
            raise ValueError(f"A call is one of {', '.join(CALLS)}, not {call!r}.")
        if not 200 <= status <= 599:
            raise ValueError(f"An HTTP status is a number from 200 to 599, not {status!r}.")
        count = float("inf") if requests is None else requests
        with self._lock:
            self._answers[call] = Answer(code, message, status, count, done, delay, retry_after)

    def time_out(self, call: str = "create", *, status: int = 408, requests: int = 1, delay: float = 0.0) -> None:
        """Do what the next requests to one call ask for, and answer that the time was up."""
        self.answer(call, TIMED_OUT, "request timeout", status=status, requests=requests, done=True, delay=delay)

    def restore(self) -> None:
        """End all of it now."""
        with self._lock:
            self._answers.clear()
            self._outage_until = float("-inf")
            self._limit = None

    def next_outage(self) -> OutageKind | None:
        """Return the outage that the request at hand meets."""
        with self._lock:
            return self._outage_kind if self._clock() < self._outage_until else None

    def next_retry_after(self) -> int | None:
        """Seconds that the request at hand is told to wait, if it is refused; counts it."""
        with self._lock:
            limit = self._limit
            if limit is None or limit.requests <= 0 or self._clock() >= limit.until:
                return None
            limit.requests -= 1
            return limit.retry_after

    def next_answer(self, call: str) -> Answer | None:
        """Return the answer that the request at hand gets, if one was asked for; counts it."""
        with self._lock:
            answer = self._answers.get(call)
            if answer is None or answer.requests <= 0:
                return None
            answer.requests -= 1
            return answer

    def now(self) -> float:
        """Return the clock's reading, seconds."""
        return self._clock()
