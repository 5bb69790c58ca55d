"""Carries requests to a server and responses back, and waits for each: requests.

It follows no redirect, stores no cookie, and reads no netrc file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError, ResponseError
from urllib3.util import Retry

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
from airflow_provider_importprog.api import ImportApi, Request, Response
from airflow_provider_importprog.api.client import Call, advance
from airflow_provider_importprog.api.errors import ImportApiError, Unreachable

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

# Seconds. A longer ``Retry-After`` is left to the caller, who can say what it waits for.
_LONGEST_SILENT_PAUSE = 1.0


class BlockingClient:
    """One requests session to one server.

    A request that is safe to repeat is repeated a few times where no answer came, or one that says to try
    later. Any other is repeated only where no connection came about, and so nothing was sent.
    """

    def __init__(self, settings: ImportConnection) -> None:
        self.settings = settings
        self.redactor = redactor_for(settings)
        self.redactor.add(proxy_secrets(environment_proxy(settings.base_url)))
        self.api = ImportApi(settings.address, settings.api_version, self.redactor)
        self._rate = RateReservation(settings.max_requests_per_second)
        self._repeating = HTTPAdapter(
            max_retries=_Retry(total=3, connect=2, read=1, status_forcelist=(429, 502, 503, 504), allowed_methods=None)
        )

    def run(self, call: Call[T]) -> T:
        """Carry a call's requests to the server and the responses back, until it has its result.

        :raises ImportProgressException: the call ended otherwise.
        """
        steps = call.steps(self.api)
        try:
            step = advance(steps)
            while isinstance(step, Request):
                try:
                    answer: Response | ImportApiError = self.send(step)
                except Unreachable as error:
                    answer = error
                step = advance(steps, answer)
            return step.result
        except ImportApiError as error:
            raise for_a_task(error, self.redactor) from None

    def send(self, request: Request) -> Response:
        """Send a request and wait for the response.

        :raises Unreachable: none came.
        """
        settings = self.settings
        url = settings.base_url + request.target
        if request.repeatable:
            self.session.mount(url.partition("?")[0], self._repeating)
        while seconds := self._rate.reserve():
            time.sleep(seconds)
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
        except (requests.Timeout, TimeoutError) as error:
            raise timed_out(settings, connecting=isinstance(error, requests.ConnectTimeout)) from error
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            raise unreachable(settings, self.redactor, error) from error
        return to_response(response.status_code, response.headers, body)

    @cached_property
    def session(self) -> requests.Session:
        """The session that every request goes through."""
        session = requests.Session()
        session.headers.clear()
        session.headers.update(common_headers(self.settings))
        session.auth = _Bearer(self.settings.token)
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for prefix in ("http://", "https://"):
            session.mount(prefix, HTTPAdapter(max_retries=_Retry(total=2, read=0, status=0, other=0)))
        return session


class _Bearer(AuthBase):
    """Sets the token; as requests' own auth, so that no netrc entry is sent instead."""

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
        if response is not None and (self.get_retry_after(response) or 0) > _LONGEST_SILENT_PAUSE:
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
