"""Carries requests to a server and responses back in an event loop: aiohttp.

It sends the same bytes as the blocking client, and follows no redirect, stores no cookie, and reads no netrc file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._http import (
    RateReservation,
    common_headers,
    environment_proxy,
    for_a_task,
    proxy_secrets,
    redactor_for,
    timed_out,
    to_response,
    unreachable,
)
from airflow_provider_importprog._shared_list import SharedList
from airflow_provider_importprog.api import ImportApi, Request, Response
from airflow_provider_importprog.api.client import Call, JobList, ListJobs, advance
from airflow_provider_importprog.api.errors import ImportApiError, RateLimited, Unreachable
from airflow_provider_importprog.exceptions import ImportProgressException

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

T = TypeVar("T")

# Of one event loop to one server, however many gates poll it.
_CONNECTIONS = 32
_LARGE = 64 * 1024  # bytes of an answer, some 350 files
# Seconds.
_PAUSE = 1.0  # after a 429 that does not say for how long
_LONGEST_PAUSE = 300.0  # that one answer can make all others wait
_LONGEST_SILENT_PAUSE = 10.0  # a longer one is left to each gate, which says what it waits for


class AsyncClient:
    """One aiohttp session to one server, shared by all hooks of a connection in an event loop.

    With it they share one rate of requests, the pauses that the server asks for, what is known of its dialects, lists
    of its import jobs, and one redactor. Nothing is repeated: who waits in an event loop asks again anyway.
    """

    _shared: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[ImportConnection, AsyncClient]]] = (
        WeakKeyDictionary()
    )

    def __init__(self, settings: ImportConnection) -> None:
        self.settings = settings
        self.redactor = redactor_for(settings)
        self.api = ImportApi(settings.address, settings.api_version, self.redactor)
        self._cannot_redact = 0  # gates whose storage keys cannot be read
        self._lists: dict[tuple[str | None, bool], SharedList] = {}
        self._users = 0
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None
        # A request waits for one of these here and not within aiohttp, where its time-out would run meanwhile.
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._rate = RateReservation(settings.max_requests_per_second)
        self._turn = asyncio.Lock()  # first come, first served

    @classmethod
    @asynccontextmanager
    async def shared(cls, settings: ImportConnection) -> AsyncIterator[AsyncClient]:
        """Share the client of this event loop; the last one to leave closes it."""
        clients = cls._shared.setdefault(asyncio.get_running_loop(), {})
        client = clients.get(settings)
        if client is None:
            client = clients[settings] = cls(settings)
        client._users += 1
        try:
            yield client
        finally:
            client._users -= 1
            if not client._users:
                del clients[settings]
                await client._close()

    @contextmanager
    def cannot_redact(self) -> Iterator[None]:
        """Know meanwhile that what the server says of many jobs may hold keys that this client does not know."""
        self._cannot_redact += 1
        try:
            yield
        finally:
            self._cannot_redact -= 1

    def shared_list(self, cluster_id: str | None, two_phase: bool) -> SharedList:
        """Return the list of import jobs that all share who poll a cluster.

        :param two_phase: it shows whether a job awaits its commit. Where every list does, all share one.
        """
        two_phase = two_phase and not all(dialect.TWO_PHASE for dialect in self.api.dialects)

        async def ask(max_pages: int) -> JobList:
            try:
                return await self.run(ListJobs(max_pages=max_pages, cluster_id=cluster_id, two_phase=two_phase))
            except ImportProgressException as error:
                if self._cannot_redact:
                    error.args = (f"{type(error).__name__}; what the server said may hold keys of a storage.",)
                raise

        return self._lists.setdefault((cluster_id, two_phase), SharedList(ask))

    async def run(self, call: Call[T]) -> T:
        """Carry a call's requests to the server and the responses back, until it has its result.

        :raises ImportProgressException: the call ended otherwise.
        """
        steps = call.steps(self.api)
        try:
            step = advance(steps)
            while isinstance(step, Request):
                try:
                    answer: Response | ImportApiError = await self.send(step)
                except (Unreachable, RateLimited) as error:
                    answer = error
                if isinstance(answer, Response) and len(answer.body) > _LARGE:
                    # A job of 10,000 files would hold the event loop for 50 ms.
                    step = await asyncio.to_thread(advance, steps, answer)
                else:
                    step = advance(steps, answer)
            return step.result
        except ImportApiError as error:
            if isinstance(error, RateLimited) or error.retry_after is not None:
                # The server limits the rate of one of its users, who are all of us.
                self._rate.pause(_PAUSE if error.retry_after is None else min(error.retry_after, _LONGEST_PAUSE))
            raise for_a_task(error, self.redactor) from None

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the response.

        :raises Unreachable: none came.
        :raises RateLimited: nothing was sent, because the server has asked for a long pause.
        """
        # aiohttp takes 90 ms to import, which would slow each DAG file.
        import aiohttp

        try:
            session = self._session or await self._open()
            async with self._connections:
                if self._turn.locked() or self._rate.reserve():
                    await self._wait_for_rate()
                async with session.request(
                    request.method,
                    _url(self.settings.base_url + request.target),
                    data=request.body or None,
                    headers=request.headers or None,
                    allow_redirects=False,
                    proxy=self._proxy,
                ) as response:
                    body = await response.read()
        except asyncio.TimeoutError as error:
            raise timed_out(self.settings, isinstance(error, aiohttp.ConnectionTimeoutError)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unreachable(self.settings, self.redactor, error) from error
        return to_response(response.status, response.headers, body)

    async def _wait_for_rate(self) -> None:
        async with self._turn:
            while seconds := self._rate.reserve():
                if (left := self._rate.pause_left) > _LONGEST_SILENT_PAUSE:
                    raise RateLimited(
                        f"{self.settings.base_url} limits the rate of requests and asked for a pause, of which "
                        f"{left:.0f} s are left.",
                        left,
                    )
                await asyncio.sleep(seconds)

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                import aiohttp

                settings = self.settings
                # Reading certificates and the environment's proxies touches files.
                secure = settings.base_url.startswith("https://")
                tls = await asyncio.to_thread(settings.tls_context) if secure else True
                self._proxy = await asyncio.to_thread(environment_proxy, settings.base_url)
                self.redactor.add(proxy_secrets(self._proxy))
                token = {} if settings.token is None else {"Authorization": f"Bearer {settings.token}"}
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=tls),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={**common_headers(settings), **token},
                    # In all, and not from one byte to the next: that would be a timer more at every poll.
                    timeout=aiohttp.ClientTimeout(
                        total=max(settings.connect_timeout, settings.read_timeout),
                        sock_connect=settings.connect_timeout,
                    ),
                )
            return self._session

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()


# The requests of v2 go to the same few addresses, and what aiohttp asks of a URL is worked out once for each object.
@lru_cache(maxsize=64)
def _url(address: str) -> URL:
    from yarl import URL

    return URL(address, encoded=True)
