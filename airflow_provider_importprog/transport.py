"""Carries requests to a server and responses back: once blocking, once in an event loop.

Both send the same bytes. Neither follows a redirect, stores a cookie, or reads a netrc file.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property, lru_cache
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError, NewConnectionError, ResponseError
from urllib3.util import Retry

from airflow_provider_importprog import __version__
from airflow_provider_importprog.api import ImportApi, ImportJob, Request, Response
from airflow_provider_importprog.api.client import Call, Done, advance
from airflow_provider_importprog.api.errors import ImportApiError, RateLimited, Unreachable
from airflow_provider_importprog.api.model import Brief
from airflow_provider_importprog.api.wire import HEADERS_READ
from airflow_provider_importprog.connection import ImportConnection
from airflow_provider_importprog.exceptions import ImportProgressException, from_api_error
from airflow_provider_importprog.sharing import SharedList, Watch

if TYPE_CHECKING:
    import aiohttp
    from typing_extensions import Self
    from yarl import URL

T = TypeVar("T")

# Of one event loop to one server, however many gates it watches.
_CONNECTIONS = 32
# Requests are this much further apart than the rate asks for: on their way some are held up, and those behind them
# are not, and no second of the server's may see more than the rate.
_SPACING = 1.05
_LARGE = 64 * 1024  # bytes of an answer, some 350 files
# Seconds.
_PAUSE = 1.0  # after a 429 that does not say for how long
_LONGEST_PAUSE = 300.0  # that one answer can make all others wait
_LONGEST_RETRY_AFTER = 10.0  # that is sat out here; a longer one is left to the caller


class BlockingClient:
    """One requests session to one server.

    A request that is safe to repeat is repeated a few times where no answer came, or one that says to try
    later. Any other is repeated only where no connection came about, and so nothing was sent.
    """

    def __init__(self, settings: ImportConnection) -> None:
        self.api = ImportApi(settings.address, settings.api_version, settings.redact, settings.redact_job)
        self._settings = settings
        self._next_request_at = 0.0
        self._repeating = HTTPAdapter(
            max_retries=_Retry(total=3, connect=2, read=1, status_forcelist=(429, 502, 503, 504), allowed_methods=None)
        )

    def carry(self, start: Callable[[ImportApi], Call[T]]) -> T:
        """Carry a call's requests to the server and the responses back, until it has its result.

        :raises ImportProgressException: the call ended otherwise.
        """
        call = start(self.api)
        answer: Response | ImportApiError | None = None
        try:
            while isinstance(step := advance(call, answer), Request):
                try:
                    answer = self.send(step)
                except Unreachable as error:
                    answer = error
            return step.result
        except ImportApiError as error:
            raise _for_a_task(error, self._settings) from None

    def send(self, request: Request) -> Response:
        """Send a request and wait for the response.

        :raises Unreachable: none came.
        """
        settings = self._settings
        url = settings.base_url + request.target
        if request.repeatable:
            self.session.mount(url.partition("?")[0], self._repeating)
        self._keep_rate()
        timeout = (settings.connect_timeout, settings.read_timeout)
        try:
            with (
                self.session.request(
                    request.method,
                    url,
                    data=request.body or None,
                    headers=dict(request.headers),
                    timeout=timeout,
                    # Not the session's own: REQUESTS_CA_BUNDLE would win over it.
                    verify=settings.verify,
                    cert=settings.cert,
                    allow_redirects=False,
                    stream=True,
                ) as response,
                # The read time-out starts anew with each byte; an answer that trickles is cut off.
                _cut_off(response, settings.read_timeout),
            ):
                body = response.content
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            raise _unreachable(settings, error) from error
        return _response(response.status_code, response.headers, body)

    @cached_property
    def session(self) -> requests.Session:
        """The session that every request goes through."""
        session = requests.Session()
        session.headers.clear()
        session.headers.update(_headers())
        session.auth = _Bearer(self._settings.token)
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for prefix in ("http://", "https://"):
            session.mount(prefix, HTTPAdapter(max_retries=_Retry(total=2, read=0, status=0, other=0)))
        return session

    def _keep_rate(self) -> None:
        now = time.monotonic()
        time.sleep(max(self._next_request_at - now, 0))
        self._next_request_at = max(self._next_request_at, now) + 1 / self._settings.max_requests_per_second


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
    def watch(self, job_id: str, cluster_id: str | None, interval: float, two_phase: bool) -> Iterator[Watch]:
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
        with Watch(shared, job_id, interval, ask_for_job) as watch:
            yield watch

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
            raise _for_a_task(error, self._settings) from None

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
            raise _unreachable(self._settings, error) from error
        return _response(response.status, response.headers, body)

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
                if left > _LONGEST_RETRY_AFTER:
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
                    headers={**_headers(), **token},
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


def _for_a_task(error: ImportApiError, settings: ImportConnection) -> ImportProgressException:
    # The error itself is not chained to it: its words may hold what is blotted out here.
    return from_api_error(error, settings.redact(str(error)))


class _Bearer(AuthBase):
    """Sets the token; as requests' own auth, so that no netrc entry takes its place."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Retry(Retry):
    """urllib3's retry, after 0, 0.4 and 0.8 s, that leaves a long ``Retry-After`` to the caller."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs = {"redirect": False, "backoff_factor": 0.2, "raise_on_status": False, **kwargs}
        super().__init__(*args, **kwargs)

    def get_retry_after(self, response: Any) -> float | None:
        try:
            return super().get_retry_after(response)
        except (InvalidHeader, ValueError, OverflowError):
            return None

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: Any = None,
        error: Exception | None = None,
        _pool: Any = None,
        _stacktrace: Any = None,
    ) -> Self:
        if response is not None and (self.get_retry_after(response) or 0) > _LONGEST_RETRY_AFTER:
            # urllib3 then hands the response on, as it does when no retries are left.
            raise MaxRetryError(_pool, url or "", ResponseError("the server asks for a long wait"))
        return super().increment(method, url, response, error, _pool, _stacktrace)


@contextmanager
def _cut_off(response: requests.Response, seconds: float) -> Iterator[None]:
    """End a response that is not read within so many seconds."""
    # urllib3 before 2.3 cannot do it from another thread.
    shutdown: Callable[[], None] = getattr(response.raw, "shutdown", lambda: None)
    timer = threading.Timer(seconds, shutdown)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# The requests of v2 go to the same few addresses, and what aiohttp asks of a URL is worked out once for each object.
@lru_cache(maxsize=64)
def _url(address: str) -> URL:
    from yarl import URL

    return URL(address, encoded=True)


def _headers() -> dict[str, str]:
    """Return the headers that every request has."""
    from airflow import __version__ as airflow_version

    return {
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        # The seed's call sends it with a GET too.
        "Content-Type": "application/json",
        "User-Agent": f"airflow-provider-importprog/{__version__} apache-airflow/{airflow_version}",
    }


def _response(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    # Bytes that are no UTF-8 reach us as halves of surrogate pairs, which no log can hold.
    read = {name: headers[name].encode("utf-8", "replace").decode() for name in HEADERS_READ if name in headers}
    return Response(status, read, body)


# Of the innermost errors, those that come before a byte of the request is sent.
_NOT_SENT = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError, NewConnectionError)


def _unreachable(settings: ImportConnection, error: Exception) -> Unreachable:
    if isinstance(error, (requests.Timeout, asyncio.TimeoutError)):
        in_doubt = not isinstance(error, requests.ConnectTimeout)
        return Unreachable(f"{settings.base_url} did not answer in time.", in_doubt)
    # The outer errors of requests repeat the URL and the pool; the innermost says what happened.
    cause: BaseException = error
    while (inner := _inner(cause)) is not None:
        cause = inner
    said = str(cause).encode("utf-8", "replace").decode()[:500]
    said = re.sub(r"^\w*Connection\w*\(.*?\): ", "", said)
    return Unreachable(
        f"{settings.base_url} cannot be reached: {type(cause).__name__}: {said}.", not isinstance(cause, _NOT_SENT)
    )


def _inner(error: BaseException) -> BaseException | None:
    candidates = (getattr(error, "reason", None), *error.args)
    return next((inner for inner in candidates if isinstance(inner, BaseException)), None)


def _environment_proxy(url: str) -> str | None:
    """Return the proxy that requests would take from the environment for this URL."""
    proxy = select_proxy(url, get_environ_proxies(url))
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
