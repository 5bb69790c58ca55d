"""Both clients without a network: the rate on a clock that stands still, and what is shared in an event loop."""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_importprog._async_client import AsyncClient
from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._http import RateReservation, common_headers
from airflow_provider_importprog.api import ImportJob
from airflow_provider_importprog.api.client import Progress
from airflow_provider_importprog.exceptions import ImportApiUnreachable, ImportProgressException
from airflow_provider_importprog.hooks import import_progress
from tests.unit.helpers import Clock

RATE = 40
OK = json.dumps({"code": 0, "data": {"state": "Importing"}}).encode()
SETTINGS = ImportConnection.read(
    Connection(
        conn_id="milvus",
        conn_type="importprog",
        host="http://127.0.0.1:1",
        extra=json.dumps({"api_version": "v2", "max_requests_per_second": RATE}),
    )
)


class FakeTime(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while all sleep, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                events = super().select(0)
                if not events and timeout:
                    loop.now += timeout
                return events

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


def run(story: Coroutine[Any, Any, Any]) -> None:
    with closing(FakeTime()) as loop:
        loop.run_until_complete(story)


class FakeSession:
    """A server behind aiohttp's session: notes when requests come, and from whom.

    :param answer: status and headers of an answer, by the number of the request.
    :param takes: seconds for an answer.
    """

    def __init__(self, answer: Callable[[int], tuple[int, dict[str, str]]] = lambda _: (200, {}), takes: float = 0):
        self.at: list[float] = []
        self.of: list[str] = []
        self.open = self.most_open = 0
        self._answer, self._takes = answer, takes

    @asynccontextmanager
    async def request(self, method: str, url: Any, data: bytes, **_: Any) -> AsyncIterator[Any]:
        status, headers = self._answer(len(self.at))
        self.at.append(asyncio.get_running_loop().time())
        self.of.append(json.loads(data)["jobId"])
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        await asyncio.sleep(self._takes)
        self.open -= 1

        async def read() -> bytes:
            return OK if status == 200 else b""

        yield SimpleNamespace(status=status, headers=headers, read=read)

    async def close(self) -> None:
        pass


@asynccontextmanager
async def client(session: FakeSession, settings: ImportConnection = SETTINGS) -> AsyncIterator[AsyncClient]:
    async with AsyncClient.shared(settings) as one:
        one._session = session  # type: ignore[assignment]
        one._rate = RateReservation(settings.max_requests_per_second, asyncio.get_running_loop().time)
        yield one


async def poll_for_ever(one: AsyncClient, job_id: str, interval: float = 0.2) -> None:
    while True:
        with suppress(ImportProgressException):
            await one.run(Progress(job_id))
        await asyncio.sleep(interval)


async def gates(one: AsyncClient, number: int, seconds: float) -> None:
    polls = [asyncio.create_task(poll_for_ever(one, f"job-{n}")) for n in range(number)]
    await asyncio.sleep(seconds)
    for poll in polls:
        poll.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


def most_in_a_second(at: list[float]) -> int:
    return max(sum(start <= one < start + 1 for one in at) for start in at)


class TestRate:
    def test_no_second_sees_more_than_the_rate_and_no_gate_starves(self) -> None:
        async def story() -> None:
            session = FakeSession()
            async with client(session) as one:
                await gates(one, 120, 30)
            assert RATE - 2 <= most_in_a_second(session.at) <= RATE
            asked = Counter(session.of)
            assert len(asked) == 120
            assert max(asked.values()) - min(asked.values()) <= 1

        run(story())

    def test_a_slow_server_has_so_many_connections_and_no_more(self) -> None:
        async def story() -> None:
            session = FakeSession(takes=2)
            async with client(session) as one:
                await gates(one, 120, 10)
            assert session.most_open == 32

        run(story())

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_pause_that_the_server_asks_of_one_gate_is_kept_by_all(self, status: int) -> None:
        async def story() -> None:
            session = FakeSession(lambda n: (status, {"retry-after": "3"}) if n == 50 else (200, {}))
            async with client(session) as one:
                await gates(one, 120, 10)
            told = session.at[50]
            assert [at for at in session.at if told < at < told + 3] == []
            assert session.at[51] == pytest.approx(told + 3)
            assert most_in_a_second(session.at) <= RATE

        run(story())

    def test_a_long_pause_is_not_waited_out_in_silence(self) -> None:
        async def story() -> None:
            session = FakeSession(lambda _: (429, {"retry-after": "120"}))
            async with client(session) as one:
                for words in ("limits the rate", "asked for a pause, of which 120 s are left"):
                    with pytest.raises(ImportApiUnreachable, match=words) as raised:
                        await one.run(Progress("1"))
                    assert raised.value.retry_after == 120
                    assert raised.value.nothing_done
            assert len(session.at) == 1

        run(story())

    def test_those_that_were_held_up_together_do_not_go_together(self) -> None:
        clock = Clock(0)
        rate = RateReservation(10, clock)
        assert rate.reserve() == 0  # at once
        assert rate.reserve() == pytest.approx(0.105)
        clock.sleep(5)
        assert rate.reserve() == 0
        assert rate.reserve() == pytest.approx(0.105)
        rate.pause(9)
        assert rate.pause_left == rate.reserve() == 9

    def test_first_come_first_served_and_one_that_gives_up_holds_up_nobody(self) -> None:
        async def story() -> None:
            session = FakeSession()
            async with client(session) as one:
                polls = [asyncio.create_task(one.run(Progress(f"job-{n}"))) for n in range(6)]
                await asyncio.sleep(1.5 * 1.05 / RATE)
                polls[2].cancel()  # the next one
                polls[4].cancel()
                await asyncio.gather(*polls, return_exceptions=True)
            assert session.of == ["job-0", "job-1", "job-3", "job-5"]
            assert [after - before for before, after in pairwise(session.at)] == pytest.approx([1.05 / RATE] * 3)

        run(story())

    def test_the_blocking_client_keeps_the_same_rate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from airflow_provider_importprog import _blocking_client
        from airflow_provider_importprog.api import Request

        clock = Clock(0)
        monkeypatch.setattr(_blocking_client.time, "sleep", clock.sleep)
        one = _blocking_client.BlockingClient(SETTINGS)
        one._rate = RateReservation(RATE, clock)
        sent: list[float] = []

        def request(*_: Any, **__: Any) -> Any:
            sent.append(clock())
            raise OSError

        monkeypatch.setattr(one.session, "request", request)
        for _ in range(3):
            with suppress(Exception):
                one.send(Request("GET", "/x"))
        assert [after - before for before, after in pairwise(sent)] == pytest.approx([1.05 / RATE] * 2)


@pytest.mark.parametrize(("timeout", "told"), [(30.0, "30"), (0.3, "1"), (7.01, "8")])
def test_the_server_is_told_how_long_an_answer_is_waited_for(timeout: float, told: str) -> None:
    assert common_headers(replace(SETTINGS, read_timeout=timeout))["Request-Timeout"] == told


def test_a_large_answer_is_parsed_off_the_event_loop() -> None:
    threads: list[bool] = []

    def brief(job: ImportJob) -> bool:
        threads.append(threading.current_thread() is threading.main_thread())
        return True

    async def story() -> None:
        session = FakeSession()
        async with client(session) as one:
            for size in (0, 100_000):
                body = json.dumps({"code": 0, "data": {"state": "Importing", "collectionName": "x" * size}}).encode()
                globals()["OK"] = body
                await one.run(Progress("1", brief))

    small = OK
    try:
        asyncio.run(story())
    finally:
        globals()["OK"] = small
    assert threads == [True, False]


def test_the_last_one_to_leave_closes_the_session() -> None:
    async def story() -> None:
        async with AsyncClient.shared(SETTINGS) as first:
            async with AsyncClient.shared(SETTINGS) as second:
                assert second is first
                session = await first._open()
            assert not session.closed
        assert session.closed
        async with AsyncClient.shared(SETTINGS) as third:
            assert third is not first

    asyncio.run(story())


def test_a_server_that_takes_no_connection_is_given_up_early_and_was_sent_nothing() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Its queue is full with the first of them, and all others wait.
        queue = [socket.socket() for _ in range(4)]
        for one in queue:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        settings = replace(
            SETTINGS, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout=0.2, read_timeout=60
        )

        async def story() -> None:
            async with AsyncClient.shared(settings) as client:
                with pytest.raises(ImportApiUnreachable, match="did not answer in time") as raised:
                    await asyncio.wait_for(client.run(Progress("1")), 20)
                assert not raised.value.in_doubt

        asyncio.run(story())
        for one in queue:
            one.close()


def test_one_that_is_cancelled_while_a_connection_is_read_leaves_it_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = asyncio.Event()
    reads = 0

    async def get(conn_id: str) -> Connection:
        nonlocal reads
        reads += 1
        await read.wait()
        return Connection(conn_id=conn_id, conn_type="importprog", host="http://h")

    monkeypatch.setattr("airflow.providers.common.compat.connection.get_async_connection", get)

    async def story() -> None:
        first, second = (asyncio.create_task(import_progress._load("milvus")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        read.set()
        assert (await second).base_url == "http://h"
        assert reads == 1

    asyncio.run(story())
