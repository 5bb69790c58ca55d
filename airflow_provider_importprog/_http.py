"""What both clients share: headers, how an answer is read, and what an error of a library means."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping

import requests
from urllib3.exceptions import NewConnectionError

from airflow_provider_importprog import __version__
from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog.api import Response
from airflow_provider_importprog.api.errors import ImportApiError, Unreachable
from airflow_provider_importprog.api.protocol import HEADERS_READ
from airflow_provider_importprog.exceptions import ImportProgressException, from_api_error

# Seconds. A longer ``Retry-After`` is left to the caller.
LONGEST_RETRY_AFTER = 10.0


def for_a_task(error: ImportApiError, settings: ImportConnection) -> ImportProgressException:
    # The error itself is not chained to it: its words may hold what is blotted out here.
    return from_api_error(error, settings.redact(str(error)))


def common_headers() -> dict[str, str]:
    """Return the headers that every request has."""
    from airflow import __version__ as airflow_version

    return {
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        # The seed's call sends it with a GET too.
        "Content-Type": "application/json",
        "User-Agent": f"airflow-provider-importprog/{__version__} apache-airflow/{airflow_version}",
    }


def to_response(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    # Bytes that are no UTF-8 reach us as halves of surrogate pairs, which no log can hold.
    read = {name: headers[name].encode("utf-8", "replace").decode() for name in HEADERS_READ if name in headers}
    return Response(status, read, body)


# Of the innermost errors, those that come before a byte of the request is sent.
_NOT_SENT = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError, NewConnectionError)


def unreachable(settings: ImportConnection, error: Exception) -> Unreachable:
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
