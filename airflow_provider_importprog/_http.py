"""What both clients share: headers, secrets, the rate of requests, and what an error of a library means."""

from __future__ import annotations

import math
import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import NewConnectionError

from airflow_provider_importprog import __version__
from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._redaction import Redactor, Secrets
from airflow_provider_importprog.api import Response
from airflow_provider_importprog.api.errors import ImportApiError, Unreachable
from airflow_provider_importprog.api.protocol import HEADERS_READ
from airflow_provider_importprog.exceptions import ImportProgressException, from_api_error

# Requests are this much further apart than the rate asks for: on their way some are held up, and those behind them
# are not, and no second of the server's may see more than the rate.
_SPACING = 1.05


def common_headers(settings: ImportConnection) -> dict[str, str]:
    """Return the headers that every request has, but for the token."""
    from airflow import __version__ as airflow_version

    return {
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        # v1's examples send it with a GET too.
        "Content-Type": "application/json",
        # Milvus goes on for 30 s unless told otherwise, and may do what nobody waits for any more.
        "Request-Timeout": str(math.ceil(settings.read_timeout)),
        "User-Agent": f"airflow-provider-importprog/{__version__} apache-airflow/{airflow_version}",
    }


def redactor_for(settings: ImportConnection) -> Redactor:
    """Return what redacts a connection's token: all of it, and in messages its password alone too."""
    return Redactor(Secrets.of((settings.token,), ((settings.token or "").partition(":")[2],)))


def environment_proxy(url: str) -> str | None:
    """Return the proxy that requests takes from the environment for this URL."""
    proxy = select_proxy(url, get_environ_proxies(url))
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def proxy_secrets(proxy: str | None) -> Secrets:
    """Return the credentials in a proxy's URL, as they stand there and as a request carries them."""
    credentials = urlsplit(proxy or "").netloc.rpartition("@")[0]
    if not credentials:
        return Secrets()
    plain = unquote(credentials)
    passwords = (credentials.partition(":")[2], plain.partition(":")[2])
    return Secrets.of((credentials, plain, b64encode(plain.encode()).decode(), *passwords))


def for_a_task(error: ImportApiError, redactor: Redactor) -> ImportProgressException:
    """Return what an error means for a task. It is not chained to it: its words may hold secrets."""
    return from_api_error(error, redactor(str(error)))


def to_response(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    # Bytes that are no UTF-8 reach us as halves of surrogate pairs, which no log can hold.
    read = {name: headers[name].encode("utf-8", "replace").decode() for name in HEADERS_READ if name in headers}
    return Response(status, read, body)


# Of the innermost errors, those that come before a byte of the request is sent.
_NOT_SENT = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError, NewConnectionError)


def timed_out(settings: ImportConnection, connecting: bool) -> Unreachable:
    """Return the error of a request that took too long.

    :param connecting: whether no connection came about, and so nothing was sent.
    """
    return Unreachable(f"{settings.base_url} did not answer in time.", in_doubt=not connecting)


def unreachable(settings: ImportConnection, redactor: Redactor, error: Exception) -> Unreachable:
    """Return the error of a request that a library could not carry to its end."""
    # The outer errors of requests repeat the URL and the pool; the innermost says what happened.
    cause: BaseException = error
    while (inner := _inner(cause)) is not None:
        cause = inner
    # A proxy's URL is shown with its credentials, which each library escapes in its own way.
    said = re.sub(r"(?<=://)[^/@\s]+(?=@)", "***", str(cause).encode("utf-8", "replace").decode())
    said = re.sub(r"^\w*Connection\w*\(.*?\): ", "", redactor(said)[:500])
    return Unreachable(
        f"{settings.base_url} cannot be reached: {type(cause).__name__}: {said}.", not isinstance(cause, _NOT_SENT)
    )


def _inner(error: BaseException) -> BaseException | None:
    candidates = (getattr(error, "reason", None), *error.args)
    return next((inner for inner in candidates if isinstance(inner, BaseException)), None)


class RateReservation:
    """Says when requests may be sent: evenly spaced, and none during a pause. It sleeps nowhere.

    Spacing counts from when a request is really sent, so that those that were held up do not go together.

    :param per_second: the most requests in any second.
    :param clock: seconds that never jump.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = _SPACING / per_second
        self._clock = clock
        self._free_at = -math.inf
        self._paused_until = -math.inf

    def reserve(self) -> float:
        """Return 0 where a request may be sent, and is; else the seconds to wait before this is asked again."""
        now = self._clock()
        seconds = max(self._free_at, self._paused_until) - now
        if seconds > 0:
            return seconds
        self._free_at = now + self._interval
        return 0.0

    def pause(self, seconds: float) -> None:
        """Let no request be sent for so long, those that wait already included."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    @property
    def pause_left(self) -> float:
        """Seconds until a pause ends; 0 where there is none."""
        return max(self._paused_until - self._clock(), 0.0)
