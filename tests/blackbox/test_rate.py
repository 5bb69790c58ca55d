"""All gates of a connection keep to one rate, as the server sees it, in trouble too."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox.driver import Connect
from tests.blackbox.server import V2_DESCRIBE, Answer, Asked, ScriptedServer, v2_job
from tests.blackbox.world import run

RATE = 40
GATES = 120
INTERVAL = 0.2


class Arrivals:
    """When requests came, in seconds of the monotonic clock, and for how long this machine held them up."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.of: list[str] = []
        self.held = 0.0
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def note(self, asked: Asked) -> None:
        self.at.append(time.monotonic())
        self.of.append(asked.json["jobId"])

    def stop(self) -> None:
        self._stop.set()

    @property
    def most_in_a_second(self) -> int:
        """The most requests in any window of a second, shortened by what the machine may have held up.

        A server that does not run for a while finds all that came meanwhile at once.
        """
        window = 1.0 - self.held
        return max((sum(start <= at < start + window for at in self.at) for start in self.at), default=0)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(0.005):
            now = time.monotonic()
            self.held = max(self.held, now - last - 0.005)
            last = now


@pytest.fixture
def arrivals() -> Iterator[Arrivals]:
    one = Arrivals()
    yield one
    one.stop()


def gates(number: int = GATES, **kwargs: Any) -> list[ImportProgressTrigger]:
    kwargs = {"poke_interval": INTERVAL, "unknown_job_grace": 0, **kwargs}
    return [ImportProgressTrigger(f"job-{n}", **kwargs) for n in range(number)]


async def cancel_after(seconds: float, tasks: Sequence[asyncio.Task[Any]]) -> None:
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()


def test_no_second_sees_more_than_the_rate_and_no_gate_starves(
    server: ScriptedServer, connect: Connect, arrivals: Arrivals
) -> None:
    connect({"api_version": "v2", "max_requests_per_second": RATE})

    def describe(asked: Asked) -> Answer:
        arrivals.note(asked)
        return v2_job(jobId=asked.json["jobId"])

    server.v2(describe)
    run(*gates(), then=lambda tasks: cancel_after(5, tasks))
    assert arrivals.most_in_a_second <= RATE
    asked = Counter(arrivals.of)
    assert len(asked) == GATES
    assert max(asked.values()) - min(asked.values()) <= 1
    assert server.connections <= 32


def test_gates_that_lost_the_server_together_do_not_come_back_together(
    server: ScriptedServer, connect: Connect, arrivals: Arrivals
) -> None:
    connect({"api_version": "v2", "max_requests_per_second": RATE})
    began = time.monotonic()

    def describe(asked: Asked) -> Answer:
        arrivals.note(asked)
        return Answer(how="close") if 1 < time.monotonic() - began < 2.5 else v2_job(jobId=asked.json["jobId"])

    server.v2(describe)
    events = run(*gates(outage_tolerance=60), then=lambda tasks: cancel_after(5, tasks))
    assert events == [None] * GATES  # none gave up
    assert arrivals.most_in_a_second <= RATE


@pytest.mark.parametrize("status", [429, 503])
def test_what_a_server_asks_of_one_gate_all_of_them_do(
    status: int, server: ScriptedServer, connect: Connect, arrivals: Arrivals
) -> None:
    connect({"api_version": "v2"})
    busy = Answer({"code": 1807, "message": "request is rejected by limiter"}, status, {"Retry-After": "3"})
    told: list[float] = []

    def describe(asked: Asked) -> Answer:
        arrivals.note(asked)
        if len(arrivals.at) == 50:
            told.append(time.monotonic())
            return busy
        return v2_job(jobId=asked.json["jobId"])

    server.v2(describe)
    run(*gates(30), then=lambda tasks: cancel_after(5, tasks))
    # What was on its way is let pass, though this machine be slow.
    assert [at for at in arrivals.at if told[0] + 1.5 < at < told[0] + 3.0] == []
    assert [at for at in arrivals.at if at > told[0] + 3.0]


def test_a_server_that_wants_to_be_left_alone_for_long_is(server: ScriptedServer, connect: Connect) -> None:
    """The gates do not wait in silence for it: each ends by its own tolerance."""
    connect({"api_version": "v2"})
    server.v2(Answer({"code": 1807, "message": "request is rejected by limiter"}, 429, {"Retry-After": "120"}))
    events = run(*gates(20, outage_tolerance=0.5))
    assert {event["verdict"] for event in events} == {"unreachable"}
    assert len(server.to(V2_DESCRIBE)) < 20
    assert any("asked to be left alone for another" in event["message"] for event in events)
