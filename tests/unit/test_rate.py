"""The rate of requests and the pauses of a server, on a clock that stands still, and what else both clients share."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_importprog._async_client import AsyncClient
from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._http import RateReservation, common_headers
from airflow_provider_importprog.api.client import Progress
from airflow_provider_importprog.exceptions import ImportApiUnreachable
from tests.unit.helpers import Clock, FakeTime

RATE = 40


def settings(**extra: Any) -> ImportConnection:
    connection = Connection(conn_id="c", conn_type="importprog", host="h", extra=json.dumps(extra))
    return ImportConnection.read(connection)


class Session:
    """A server behind aiohttp's session: keeps when it was asked, and for which job.

    :param pause: seconds that it asks of the gate that sends the fiftieth request.
    """

    def __init__(self, pause: float = 0) -> None:
        self.at: list[float] = []
        self.of: list[str] = []
        self._pause = str(pause)

    @asynccontextmanager
    async def request(self, method: str, url: Any, data: bytes, **_: Any) -> AsyncIterator[Any]:
        self.at.append(asyncio.get_running_loop().time())
        self.of.append(json.loads(data)["jobId"])
        busy = len(self.at) == 50

        async def read() -> bytes:
            return b'{"code": 0, "data": {"state": "Importing"}}'

        yield SimpleNamespace(status=503 if busy else 200, headers={"retry-after": self._pause}, read=read)

    def serve(self, jobs: int, interval: float | None, seconds: float, *cancelled: int, first_at: float = 0) -> None:
        """Let gates poll, each at an interval, or once where that is None; and cancel some while they wait.

        :param first_at: when the first one begins; all others begin at once.
        """

        async def gate(client: AsyncClient, number: int) -> None:
            if not number:
                await asyncio.sleep(first_at)
            while True:
                with suppress(ImportApiUnreachable):
                    await client.run(Progress(str(number)))
                if interval is None:
                    break
                await asyncio.sleep(interval)

        async def story() -> None:
            client = AsyncClient(settings(api_version="v2", max_requests_per_second=RATE))
            client._session = self  # type: ignore[assignment]
            client._rate = RateReservation(RATE, asyncio.get_running_loop().time)
            gates = [asyncio.create_task(gate(client, number)) for number in range(jobs)]
            await asyncio.sleep(seconds)
            for number in cancelled or range(jobs):
                gates[number].cancel()
            await asyncio.gather(*gates, return_exceptions=True)

        with closing(FakeTime()) as loop:
            loop.run_until_complete(story())


@pytest.mark.parametrize("pause", [0, 3])
def test_no_second_sees_more_than_the_rate_no_gate_starves_and_all_keep_a_pause(pause: float) -> None:
    server = Session(pause)
    server.serve(jobs=120, interval=0.2, seconds=30)
    times = server.at
    assert RATE - 2 <= max(sum(start <= one < start + 1 for one in times) for start in times) <= RATE
    assert times[50] - times[49] == pytest.approx(pause or 1.05 / RATE)
    asked = Counter(server.of)
    assert len(asked) == 120
    assert max(asked.values()) - min(asked.values()) <= 1


def test_first_come_first_served_and_one_that_gives_up_holds_up_nobody() -> None:
    server, slot = Session(), 1.05 / RATE
    server.serve(7, None, 1.5 * slot, 3, 5, first_at=slot)  # 3 is the next one; 0 comes when 2 may be sent
    assert server.of == ["1", "2", "4", "6", "0"]
    assert [after - before for before, after in pairwise(server.at)] == pytest.approx([slot] * 4)


def test_those_that_were_held_up_together_do_not_go_together() -> None:
    clock = Clock(0)
    rate = RateReservation(10, clock)
    assert rate.reserve() == 0
    assert rate.reserve() == pytest.approx(0.105)
    clock.sleep(5)
    assert (rate.reserve(), rate.pause_left) == (0, 0)
    assert rate.reserve() == pytest.approx(0.105)
    rate.pause(9)
    rate.pause(5)  # the longer one counts
    assert rate.pause_left == rate.reserve() == 9


@pytest.mark.parametrize(("timeout", "told"), [(30, "30"), (0.3, "1"), (7.01, "8")])
def test_the_server_is_told_how_long_an_answer_is_waited_for(timeout: float, told: str) -> None:
    assert common_headers(settings(timeout=timeout))["Request-Timeout"] == told
