"""A proxy between Airflow and the emulator that keeps a record, and steps in where a test told it to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from airflow_provider_importprog.emulator import listener_on

T = TypeVar("T")

#: The cluster whose gates may ask for a list of all jobs, and so share it. The others each ask for their own job,
#: which is when a rule steps in.
LISTED = "in01-listed"
_FORWARDED = {"authorization", "content-type", "db-name", "accept"}


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    path: str
    job_id: str
    cluster_id: str
    authorized: str


@dataclass
class _Rule:
    after: int
    action: Callable[[], Any] | None = None
    hold: bool = False
    fired: bool = False


class Wire:
    """Forwards every request to an emulator, in a background thread while its ``with`` block runs.

    :param upstream: the emulator's URL.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._rules: dict[str, _Rule] = {}
        self._released: dict[str, asyncio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._port = 0

    def __enter__(self) -> Wire:
        self._thread.start()
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._do(self._close_session())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Listen, again on the same port."""
        self._do(self._listen())

    def down(self) -> None:
        """Refuse every connection, and cut those that are open."""
        self._do(self._close())

    def asked(self, job_id: str | None = None) -> list[Asked]:
        """Return the requests so far, for one job or all."""
        with self._lock:
            return [each for each in self._asked if job_id is None or each.job_id == job_id]

    def then(self, job_id: str, action: Callable[[], Any], after: int = 2) -> None:
        """Do something once so many requests for a job have come, before the next one is answered."""
        with self._lock:
            self._rules[job_id] = _Rule(after, action=action)

    def hold(self, job_id: str, after: int) -> None:
        """Let requests for a job hang, once so many have come, until `release`."""
        with self._lock:
            self._rules[job_id] = _Rule(after, hold=True)

    def release(self, job_id: str) -> None:
        """Let the requests for a job go on that hang, and those to come."""
        with self._lock:
            self._rules.pop(job_id, None)

        async def let_go() -> None:
            self._released.setdefault(job_id, asyncio.Event()).set()

        self._do(let_go())

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        values: dict[str, Any] = dict(request.query)
        if body:
            values.update(json.loads(body))
        job_id = str(values.get("jobId") or "")
        with self._lock:
            before = sum(each.job_id == job_id for each in self._asked)
            self._asked.append(
                Asked(
                    request.path,
                    job_id,
                    str(values.get("clusterId") or ""),
                    request.headers.get("Authorization", ""),
                )
            )
            rule = self._rules.get(job_id)
            if rule is not None and before < rule.after:
                rule = None
            act = rule is not None and rule.action is not None and not rule.fired
            if rule is not None:
                rule.fired = True
        if rule is not None and rule.hold:
            await self._released.setdefault(job_id, asyncio.Event()).wait()
        elif rule is not None and rule.action is not None and act:
            await asyncio.to_thread(rule.action)
        shared = request.path.endswith("/list") and not values.get("collectionName")
        if shared and values.get("clusterId") != LISTED:
            return web.json_response({"code": 1401, "message": "no privilege to list"}, status=403)
        headers = {name: value for name, value in request.headers.items() if name.lower() in _FORWARDED}
        assert self._session is not None
        try:
            async with self._session.request(
                request.method, self._upstream + request.path_qs, data=body or None, headers=headers
            ) as response:
                return web.Response(
                    status=response.status, body=await response.read(), content_type=response.content_type
                )
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=f"<html>{type(error).__name__}</html>", content_type="text/html")

    async def _listen(self) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        listener = listener_on("127.0.0.1", self._port)
        self._port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener).start()

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)
