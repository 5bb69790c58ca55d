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
from functools import cached_property
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError, NewConnectionError, ResponseError
from urllib3.util import Retry

from airflow_provider_importprog import __version__
from airflow_provider_importprog.api import ImportApi, Request, Response
from airflow_provider_importprog.api.errors import Unreachable
from airflow_provider_importprog.connection import ImportConnection

if TYPE_CHECKING:
    import aiohttp
    from aiolimiter import AsyncLimiter
    from typing_extensions import Self

# Of one event loop to one server, however many gates it watches.
_CONNECTIONS = 32


class BlockingClient:
    """One requests session to one server.

    A request that is safe to repeat is repeated a few times where no answer came, or one that says to try
    later. Any other is repeated only where no connection came about, and so nothing was sent.
    """

    def __init__(self, settings: ImportConnection) -> None:
        self.api = ImportApi(settings.address, settings.api_version, settings.redact)
        self._settings = settings
        self._next_request_at = 0.0
        self._repeating = HTTPAdapter(
            max_retries=_Retry(total=3, connect=2, read=1, status_forcelist=(429, 502, 503, 504), allowed_methods=None)
        )

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
                    headers=_headers(request),
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

    With it they share one limit of the rate, and what is known of the server's dialects. Nothing is repeated:
    who waits in an event loop asks again anyway.
    """

    _shared: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[ImportConnection, AsyncClient]]] = (
        WeakKeyDictionary()
    )

    def __init__(self, settings: ImportConnection) -> None:
        self.api = ImportApi(settings.address, settings.api_version, settings.redact)
        self._settings = settings
        self._users = 0
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._limiter: AsyncLimiter | None = None
        self._proxy: str | None = None

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

    async def send(self, request: Request) -> Response:
        """Send a request and wait for the response.

        :raises Unreachable: none came.
        """
        # aiohttp takes 90 ms to import, which no DAG file should pay.
        import aiohttp
        from yarl import URL

        settings = self._settings
        headers = _headers(request)
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token}"
        try:
            session, limiter = await self._open()
            await limiter.acquire()
            async with session.request(
                request.method,
                URL(settings.base_url + request.target, encoded=True),
                data=request.body or None,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise _unreachable(settings, error) from error
        return _response(response.status, response.headers, body)

    async def _open(self) -> tuple[aiohttp.ClientSession, AsyncLimiter]:
        async with self._opening:
            if self._session is None or self._limiter is None:
                import aiohttp
                from aiolimiter import AsyncLimiter

                settings = self._settings
                # Reading certificates and the environment's proxies touches files.
                secure = settings.base_url.startswith("https://")
                tls = await asyncio.to_thread(settings.tls_context) if secure else True
                self._proxy = await asyncio.to_thread(_environment_proxy, settings.base_url)
                # One at a time, not twenty at once: no window of a second sees more than the rate.
                self._limiter = AsyncLimiter(1, 1 / settings.max_requests_per_second)
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=tls),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(
                        total=settings.connect_timeout + settings.read_timeout,
                        sock_connect=settings.connect_timeout,
                        sock_read=settings.read_timeout,
                    ),
                )
            return self._session, self._limiter

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()


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

    _LONGEST_RETRY_AFTER = 10.0

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
        if response is not None and (self.get_retry_after(response) or 0) > self._LONGEST_RETRY_AFTER:
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


def _headers(request: Request) -> dict[str, str]:
    from airflow import __version__ as airflow_version

    return {
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        # The seed's call sends it with a GET too.
        "Content-Type": "application/json",
        "User-Agent": f"airflow-provider-importprog/{__version__} apache-airflow/{airflow_version}",
        **request.headers,
    }


def _response(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    # Bytes that are no UTF-8 reach us as halves of surrogate pairs, which no log can hold.
    clean = {name.lower(): value.encode("utf-8", "replace").decode() for name, value in headers.items()}
    return Response(status, clean, body)


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
