"""Requests and answers as data, and what any answer of either dialect means."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_importprog.api.errors import (
    DialectNotServed,
    JobUnknown,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    Redirected,
    Refused,
    ServerDown,
    UnexpectedAnswer,
)

# Every sample of v1 shows 200, its prose says 0, and v2 answers 0.
_SUCCESS_CODES = {0, 200}
_NOT_AUTHENTICATED_CODES = {1400, 1800}
_NOT_PERMITTED_CODE = 1401
_RATE_LIMITED_CODES = {8, 1807}
# Seconds. A server that asks for more has lost its mind, and not to be asked in vain is worth a question.
_LONGEST_RETRY_AFTER = 3600.0
#: The headers of a response that mean something here, in lower case.
HEADERS_READ = ("location", "retry-after")
# How HTTP says that a path, or a method on it, is not there.
_NOT_SERVED_STATUSES = {404, 405, 410, 501}


@dataclass(frozen=True)
class Address:
    """Which part of a deployment a request is about. A part that is None is left out."""

    cluster_id: str | None = None
    project_id: str | None = None
    region_id: str | None = None
    db_name: str | None = None


@dataclass(frozen=True)
class NewImportJob:
    """What to import, and into what. Exactly one source: files, object_urls, or a volume with data_paths.

    :param files: paths in Milvus's own bucket; each entry is one file, or the set that makes up its columns.
    :param object_urls: URLs in object storage, in entries likewise; the keys and the token open it.
    :param data_paths: paths in the volume, in entries likewise.
    :param options: passed to the server as they are; every value is a string.
    :param idempotency_key: a server that knows it answers the same key with the same job; v2 only.
    """

    collection_name: str
    partition_name: str | None = None
    files: Sequence[Sequence[str]] | None = None
    object_urls: Sequence[Sequence[str]] | None = None
    volume_name: str | None = None
    data_paths: Sequence[Sequence[str]] | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    options: Mapping[str, str] | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Request:
    """One HTTP request, without the server's URL and the token.

    :param target: path and query, percent-encoded.
    :param headers: those that only this request needs.
    :param repeatable: whether sending it a second time does no harm.
    :param job_id: the import job that it asks about, or None.
    """

    method: str
    target: str
    body: bytes = field(default=b"", repr=False)  # a new job's body holds the keys of its storage
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    job_id: str | None = None


@dataclass(frozen=True)
class Response:
    """One HTTP response, its body whole and decompressed.

    :param headers: those of :data:`HEADERS_READ`, names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def read(request: Request, response: Response, redact: Callable[[str], str] = str) -> Any:
    """Return the ``data`` of a good answer.

    :param redact: takes secrets out of what a server said, before it is cut and could be cut in a secret.
    :raises ImportApiError: the subclass says what any other answer means.
    """
    status = response.status
    envelope = _envelope(response.body)
    code: int | None = envelope["code"] if envelope else None
    said = _quote(envelope.get("message"), redact) if envelope else ""

    if status == 401 or code in _NOT_AUTHENTICATED_CODES:
        raise NotAuthenticated(f"The server does not accept the token{said or '.'}")
    if status == 403 or code == _NOT_PERMITTED_CODE:
        raise NotPermitted(f"The token's owner is not permitted to do this{said or '.'}")
    if status == 429 or code in _RATE_LIMITED_CODES:
        raise RateLimited(f"The server limits the rate of requests{said or '.'}", _retry_after(response))
    good = 200 <= status < 300 and code in _SUCCESS_CODES
    if request.job_id is not None and envelope and not good and _names_no_job(status, envelope.get("message")):
        raise JobUnknown(f"The server has no record of import job {_shorten(request.job_id)}{said or '.'}")
    if status in _NOT_SERVED_STATUSES and not envelope:
        path = urlsplit(request.target).path
        raise DialectNotServed(f"The server does not serve {path} (HTTP {status}).")
    if 300 <= status < 400:
        raise Redirected(_describe_redirect(response))
    if status >= 500:
        raise ServerDown(
            f"The server, or something before it, is down: HTTP {status}{said or _glimpse(response.body, redact)}",
            _retry_after(response),
            in_doubt=status != 503,
        )
    if envelope is None or code is None:
        raise UnexpectedAnswer(f"HTTP {status} is not an answer of the import API{_glimpse(response.body, redact)}")
    if good:
        return envelope.get("data")
    raise Refused(
        f"The import API refused the request with code {_shorten(str(code), 20)} (HTTP {status}){said or '.'}", code
    )


def encode_json(body: Mapping[str, Any]) -> bytes:
    """Return a request's body, with the keys that hold None left out."""
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


def _envelope(body: bytes) -> dict[str, Any] | None:
    """Return the answer where it is this API's JSON: an object with a whole number as its code."""
    try:
        answer = json.loads(body)
    # A deeply nested answer is a RecursionError, one in no known encoding a ValueError.
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    code = answer.get("code")
    return answer if isinstance(code, int) and not isinstance(code, bool) else None


def _names_no_job(status: int, message: Any) -> bool:
    if not isinstance(message, str):
        return False
    lowered = message.lower()
    # A proxy's 502 may say "upstream not found": only the exact words count against a server in trouble.
    return "import job does not exist" in lowered or ("not found" in lowered and status < 500)


def _retry_after(response: Response) -> float | None:
    value = response.headers.get("retry-after", "").strip()
    try:
        if value.isdecimal():
            return min(float(value), _LONGEST_RETRY_AFTER)
        seconds = (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _describe_redirect(response: Response) -> str:
    try:
        target = urlsplit(response.headers.get("location", ""))
        host = target.hostname
    except ValueError:
        host = None
    origin = f"{target.scheme}://" if host and target.scheme else ""
    towards = f" to {origin}{_shorten(host, 200)}" if host else ""
    return (
        f"The server redirects{towards} (HTTP {response.status}). A redirect is not followed, because the "
        "token would follow it: put the final URL into the connection's host."
    )


def _quote(message: Any, redact: Callable[[str], str]) -> str:
    return f": {_shorten(redact(message))}" if isinstance(message, str) and message.strip() else ""


def _glimpse(body: bytes, redact: Callable[[str], str]) -> str:
    try:
        # Written anew, JSON hides no secret behind an escape.
        words = json.dumps(json.loads(body), ensure_ascii=False)
    except (ValueError, RecursionError):
        words = body.decode("utf-8", "replace")
    shown = _shorten(redact(words), 200)
    return f": it begins with «{shown}»" if shown else ": its body is empty."


def _shorten(words: str, limit: int = 500) -> str:
    line = " ".join(words.replace("\0", " ").encode("utf-8", "replace").decode().split())
    return line if len(line) <= limit else f"{line[:limit]}…"
