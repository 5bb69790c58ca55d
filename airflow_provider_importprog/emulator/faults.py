"""Trouble on the way to the import API, on request: outages and rate limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

OutageKind = Literal["unavailable", "html", "drop", "silent"]
"""An outage answers 503 with a JSON error, 502 with a proxy's HTML page, or drops the connection. Or it
creates, commits and aborts what it is asked to, and answers only when it is over; questions it answers as ever."""

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


class Faults:
    """Says of each request whether it meets trouble. Safe to change from another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._outage_until = float("-inf")
        self._outage_kind: OutageKind = "unavailable"
        self._limit: RateLimit | None = None

    def outage(self, seconds: float, kind: OutageKind = "unavailable") -> None:
        """Be out of order for so many seconds from now."""
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

    def restore(self) -> None:
        """End every outage and rate limit now."""
        with self._lock:
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
