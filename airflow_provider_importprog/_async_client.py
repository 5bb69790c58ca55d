"""Carries requests to a server and responses back in an event loop: aiohttp.

It sends the same bytes as the blocking client, and follows no redirect, stores no cookie, and reads no netrc file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from requests.utils import get_environ_proxies, select_proxy

from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._http import LONGEST_RETRY_AFTER, common_headers, for_a_task, to_response, unreachable
from airflow_provider_importprog._shared_list import Poller, SharedList
from airflow_provider_importprog.api import ImportApi, ImportJob, Request, Response
from airflow_provider_importprog.api.client import Call, Done, advance
from airflow_provider_importprog.api.errors import ImportApiError, RateLimited, Unreachable
from airflow_provider_importprog.api.model import Brief

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

T = TypeVar("T")

# Of one event loop to one server, however many gates poll it.
_CONNECTIONS = 32
# Requests are this much further apart than the rate asks for: on their way some are held up, and those behind them
# are not, and no second of the server's may see more than the rate.
_SPACING = 1.05
_LARGE = 64 * 1024  # bytes of an answer, some 350 files
# Seconds.
_PAUSE = 1.0  # after a 429 that does not say for how long
_LONGEST_PAUSE = 300.0  # that one answer can make all others wait


class AsyncClient:
    """One aiohttp session to one server, shared by all hooks of a connection in an event loop.

    With it they share one limit of the rate, the server's wishes to be left alone, what is known of its dialects,
    and lists of its import jobs. Nothing is repeated: who waits in an event loop asks again anyway.
    """

    _shared: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[ImportConnection, AsyncClient]]] = (
        WeakKeyDictionary()
    )

    def __init__(self, settings: ImportConnection) -> None:
        from aiolimiter import AsyncLimiter

        self.api = ImportApi(settings.address, settings.api_version, settings.redact, settings.redact_job)
        self._settings = settings
        self._lists: dict[tuple[str | None, bool], SharedList] = {}
        self._users = 0
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None
        # A request waits for one of these here and not within aiohttp, where its time-out would run meanwhile.
        self._places = asyncio.Semaphore(_CONNECTIONS)
        # The limiter lets a newcomer in before one that has just been woken; the lock keeps the order.
        self._turns = asyncio.Lock()
        self._limiter = AsyncLimiter(1, _SPACING / settings.max_requests_per_second)
        self._resume_at = 0.0

    @classmethod
    @asynccontextmanager
    async def shared(cls, settings: ImportConnection) -> AsyncIterator[AsyncClient]:
        """Lend the client of this event loop; the last one to give it back closes it."""
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
    def poller(self, job_id: str, cluster_id: str | None, interval: float, two_phase: bool) -> Iterator[Poller]:
        """Look at an import job every so often, along with all others that look at the same place.

        :param interval: seconds between two looks.
        :param two_phase: look in a dialect that shows whether the job awaits its commit.
        """
        two_phase = two_phase and not self.api.settled  # else it makes no difference, and all share one list

        async def ask_for_list(max_pages: int) -> tuple[list[ImportJob], bool]:
            jobs = await self.carry(lambda api: api.list_import_jobs(None, cluster_id, max_pages, two_phase))
            return jobs, self.api.list_shows_progress(two_phase)

        async def ask_for_job(brief: Brief) -> ImportJob:
            return await self.carry(lambda api: api.get_import_progress(job_id, cluster_id, brief, two_phase))

        shared = self._lists.setdefault((cluster_id, two_phase), SharedList(ask_for_list))
        with Poller(shared, job_id, interval, ask_for_job) as poller:
            yield poller

    async def carry(self, start: Callable[[ImportApi], Call[T]]) -> T:
        """Carry a call's requests to the server and the responses back, until it has its result.

        :raises ImportProgressException: the call ended otherwise.
        """
        call = start(self.api)
        answer: Response | ImportApiError | None = None
        try:
            while isinstance(step := await _advance(call, answer), Request):
                try:
                    answer = await self.send(step)
                except (Unreachable, RateLimited) as error:
                    answer = error
            return step.result
        except ImportApiError as error:
            retry_after = getattr(error, "retry_after", None)
            if isinstance(error, RateLimited) or retry_after is not None:
                self._slow_down(retry_after)
            raise for_a_task(error, self._settings) from None

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the response.

        :raises Unreachable: none came.
        :raises RateLimited: nothing was sent, because the server has asked to be left alone for long.
        """
        # aiohttp takes 90 ms to import, which no DAG file should pay.
        import aiohttp

        try:
            session = self._session or await self._open()
            async with self._places:
                await self._turn()
                async with session.request(
                    request.method,
                    _url(self._settings.base_url + request.target),
                    data=request.body or None,
                    headers=request.headers or None,
                    allow_redirects=False,
                    proxy=self._proxy,
                ) as response:
                    body = await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise unreachable(self._settings, error) from error
        return to_response(response.status, response.headers, body)

    def _slow_down(self, retry_after: float | None) -> None:
        """Leave the server alone: it limits the rate of one of its users, who are all of us.

        :param retry_after: seconds the server asks to wait, or None where it does not say.
        """
        pause = _PAUSE if retry_after is None else min(retry_after, _LONGEST_PAUSE)
        self._resume_at = max(self._resume_at, time.monotonic() + pause)

    async def _turn(self) -> None:
        """Wait until one more request is within the rate."""
        async with self._turns:
            while (left := self._resume_at - time.monotonic()) > 0:
                if left > LONGEST_RETRY_AFTER:
                    raise RateLimited(
                        f"{self._settings.base_url} limits the rate of requests and asked to be left alone for another "
                        f"{left:.0f} s.",
                        left,
                    )
                await asyncio.sleep(left)
            await self._limiter.acquire()

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                import aiohttp

                settings = self._settings
                # Reading certificates and the environment's proxies touches files.
                secure = settings.base_url.startswith("https://")
                tls = await asyncio.to_thread(settings.tls_context) if secure else True
                self._proxy = await asyncio.to_thread(_environment_proxy, settings.base_url)
                token = {} if settings.token is None else {"Authorization": f"Bearer {settings.token}"}
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=tls),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers={**common_headers(), **token},
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


async def _advance(call: Call[T], answer: Response | ImportApiError | None) -> Request | Done[T]:
    """Advance a call, and a large answer in a thread: a job of 10,000 files would hold the event loop for 50 ms."""
    if isinstance(answer, Response) and len(answer.body) > _LARGE:
        return await asyncio.to_thread(advance, call, answer)
    return advance(call, answer)


# The requests of v2 go to the same few addresses, and what aiohttp asks of a URL is worked out once for each object.
@lru_cache(maxsize=64)
def _url(address: str) -> URL:
    from yarl import URL

    return URL(address, encoded=True)


def _environment_proxy(url: str) -> str | None:
    """Return the proxy that requests would take from the environment for this URL."""
    proxy = select_proxy(url, get_environ_proxies(url))
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
