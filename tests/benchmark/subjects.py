"""What is measured. Each subject lends a function that makes one gate: a coroutine that returns the gate's event.

Airflow is imported when a subject starts: that is in a process, and in an Airflow home, of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.triggers.base import TriggerEvent

Gate = Callable[[str], Coroutine[Any, Any, Any]]

_CONN_ID = "benchmark"
_CONNECTIONS = 32  # as many as the provider opens
_LOGIN, _PASSWORD = "root", "Milvus-of-the-benchmark"


@dataclass(frozen=True)
class Target:
    """What the gates of a run ask.

    :param poke_interval: seconds.
    :param rate: requests a second at most; 0 for the connection's default.
    """

    url: str
    poke_interval: float
    rate: float

    def connect(self, conn_type: str, path: str = "", **fields: Any) -> str:
        """Define the connection that a trigger reads, and return its id."""
        connection = {"conn_type": conn_type, "host": self.url + path, **fields}
        os.environ[f"AIRFLOW_CONN_{_CONN_ID.upper()}"] = json.dumps(connection)
        return _CONN_ID


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    :param start: lends the function that makes one gate.
    :param listed: whether the server lets it ask for the list of all jobs.
    :param most_gates: how many it is measured with at most.
    """

    start: Callable[[Target], AbstractAsyncContextManager[Gate]]
    listed: bool = True
    most_gates: int = field(default=1_000_000)


@asynccontextmanager
async def _floor(target: Target) -> AsyncIterator[Gate]:
    """Send the provider's requests with bare aiohttp, read the answers, and log the same line as the provider."""
    import aiohttp
    from airflow.triggers.base import BaseTrigger
    from yarl import URL

    from airflow_provider_importprog import __version__

    url = URL(f"{target.url}/v2/vectordb/jobs/import/describe")
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "Content-Type": "application/json",
        "Request-Timeout": "30",
        "User-Agent": f"airflow-provider-importprog/{__version__} apache-airflow/3.3.2",
        "Authorization": f"Bearer {_LOGIN}:{_PASSWORD}",
    }
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    log = type("Floor", (BaseTrigger,), {"serialize": None, "run": None})().log  # type: ignore[abstract,no-untyped-call]
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def gate(job_id: str) -> Any:
            body = json.dumps({"jobId": job_id}).encode()
            began, shown = time.monotonic(), ""
            while True:
                await asyncio.sleep(target.poke_interval)
                async with session.post(url, data=body, headers=headers) as response:
                    job = json.loads(await response.read())["data"]
                if job["state"] in ("Completed", "Failed"):
                    return job["state"]
                percent, rows, of_all = job["progress"], job["importedRows"], job["totalRows"]
                done = sum([file["state"] == "Completed" for file in job["details"]])
                said = f"{percent:.0f} %, {done} of {len(job['details'])} files done, {rows:,} of {of_all:,} rows"
                if said != shown:
                    left = (100 - percent) * (time.monotonic() - began) / (percent or 1)
                    log.info("Import job %s: %s", job_id, f"importing, {said}, about {left:.1f} s left")
                    shown = said

        yield gate


@asynccontextmanager
async def _trigger(target: Target) -> AsyncIterator[Gate]:
    """Run the provider's own trigger."""
    from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger

    conn_id = connect(target)

    def gate(job_id: str) -> Coroutine[Any, Any, Any]:
        trigger = ImportProgressTrigger(
            job_id=job_id, cluster_id=None, importprog_conn_id=conn_id, poke_interval=target.poke_interval
        )
        return first(trigger.run())

    yield gate


@asynccontextmanager
async def _http(target: Target) -> AsyncIterator[Gate]:
    """Run the trigger of apache-airflow-providers-http, which waits for as long as it is answered 404."""
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    conn_id = target.connect("http", login=_LOGIN, password=_PASSWORD)

    def gate(job_id: str) -> Coroutine[Any, Any, Any]:
        trigger = HttpSensorTrigger(f"ready/{job_id}", conn_id, poke_interval=target.poke_interval)
        return first(trigger.run())

    yield gate


def connect(target: Target) -> str:
    """Define the connection that the provider's triggers read, and return its id."""
    extra: dict[str, Any] = {"api_version": "v2"}
    if target.rate:
        extra["max_requests_per_second"] = target.rate
    return target.connect("importprog", login=_LOGIN, password=_PASSWORD, extra=extra)


async def first(events: AsyncIterator[TriggerEvent]) -> Any:
    """Return what the one event of a trigger holds. To its end, as the triggerer does."""
    (event,) = [event async for event in events]
    return event.payload


#: By the name that the tables show. Where the list is refused, gates have to ask for themselves.
SUBJECTS = {
    "floor": Subject(_floor),
    "separate": Subject(_trigger, listed=False),
    "sharing": Subject(_trigger),
    "http": Subject(_http, most_gates=200),
}
