"""Requests and answers as data, and what any answer of either dialect means."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from airflow_provider_importprog.api.errors import (
    DialectNotServed,
    GaveUp,
    ImportApiError,
    JobIdInvalid,
    JobUnknown,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    Redirected,
    Refused,
    ServerDown,
    TargetMissing,
    UnexpectedAnswer,
)
from airflow_provider_importprog.api.model import ImportJob

# Every sample of v1 shows 200, its prose says 0, and v2 answers 0.
_SUCCESS_CODES = {0, 200}
# Zilliz Cloud: 21119 on v2, 80001 and 80002 on v1.
_NOT_AUTHENTICATED_CODES = {1400, 1800, 21119, 80001, 80002}
_NOT_PERMITTED_CODE = 1401
# Milvus's pkg/util/merr/errors.go names 4, 8 and 9; 1807 is the limiter of its REST server.
_RATE_LIMITED_CODES = {
    4: "The server has too many requests at once",
    8: "The server limits the rate of requests",
    9: "The server's quota is used up",
    1807: "The server limits the rate of requests",
}
_COLLECTION_MISSING_CODE, _DATABASE_MISSING_CODE = 100, 800
_DOWN_CODE = 1
_RAW_GRPC_CODE = 65535
_GAVE_UP_CODES = {2, 10000, 10001, _RAW_GRPC_CODE}
_GAVE_UP_STATUSES = {408, 499}
_IMPORT_FAILED_CODES = {2100, 2101}
_PARAMETER_CODE = 1100
# These mean the same whatever the words say, as do those of a token or a limit; any other may be an older server's own
# for a job that it does not know.
_CODES_WITH_ONE_MEANING = {
    _COLLECTION_MISSING_CODE,
    _DATABASE_MISSING_CODE,
    _DOWN_CODE,
    *(_GAVE_UP_CODES - {_RAW_GRPC_CODE}),
}
# The error codes of Milvus and Zilliz Cloud beside the few above. A gateway answers 404 with gRPC's 5 or HTTP's 404.
_LOWEST_CODE_OF_THE_API = 1000
_PERMISSION_DENIED = re.compile(r"permission\s*den|no privilege", re.IGNORECASE)
_JOB_LIMIT = re.compile(r"reached the limit", re.IGNORECASE)
# "import job does not exist, jobID=7"; between the two may be an id, and no other noun: "import task node not found".
_JOB_MISSING = re.compile(
    r"\bimport[ -]?(?:job|task)\b[\s:=]*(?:(?:with\s+)?(?:job\s?)?id\b[\s:=]*)?[\[\"'(]?(?:[\w-]*\d[\w-]*)?[\]\"')]?\s*"
    r"(?:does not exist|doesn't exist|not exist|(?:is |was )?not found)\b"
    r"|\b(?:no such|cannot find|can't find)\s+import[ -]?(?:job|task)\b(?!['’\s]*\w*\s*(?:node|collection|database))",
    re.IGNORECASE,
)
_ID_NOT_PARSED = re.compile(r"parse job ?id|strconv\.Parse", re.IGNORECASE)
_JOB_ID = re.compile(r"\bjob[ _-]?ids?\b|strconv\.Parse", re.IGNORECASE)
# Seconds. No server means more; to ask once an hour costs nothing.
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


class ListPage(NamedTuple):
    """One page of a list of import jobs, parsed.

    :param jobs: without their files.
    :param total: how many there are in all, or None where the server does not say.
    :param shows_progress: whether it says of any job how far it is. Zilliz Cloud's lists and those of v1 do not.
    """

    jobs: list[ImportJob]
    total: int | None
    shows_progress: bool


def read(request: Request, response: Response, redact: Callable[[str], str] = str) -> Any:
    """Return the ``data`` of a good answer.

    :param redact: takes secrets out of what a server said, before it is cut and could be cut within a secret.
    :raises ImportApiError: the subclass says what any other answer means; ``http_status`` is the answer's.
    """
    envelope = _envelope(response.body)
    if envelope and 200 <= response.status < 300 and envelope.code in _SUCCESS_CODES:
        return envelope.data
    error = _error(request, response, envelope, redact)
    error.http_status = response.status
    raise error


def _error(
    request: Request, response: Response, envelope: _Envelope | None, redact: Callable[[str], str]
) -> ImportApiError:
    """Say what an answer means that is not a good one: the table "Errors" of the API's facts, from the top."""
    status = response.status
    code, message = (envelope.code, envelope.message) if envelope else (None, "")
    said = f": {_shorten(redact(message))}" if message.strip() else ""

    if status == 401 or code in _NOT_AUTHENTICATED_CODES:
        return NotAuthenticated(_sentence("The server does not accept the token", said))
    if status == 403 or code == _NOT_PERMITTED_CODE or (code == _RAW_GRPC_CODE and _PERMISSION_DENIED.search(message)):
        return NotPermitted(_sentence("The token's owner is not permitted to do this", said, _other_database(request)))
    if status == 429 or code in _RATE_LIMITED_CODES:
        limit = _RATE_LIMITED_CODES.get(code or 0, "The server limits the rate of requests")
        return RateLimited(_sentence(limit, said), _retry_after(response))
    if code in _IMPORT_FAILED_CODES and _JOB_LIMIT.search(message):
        limit = "The server has as many import jobs as it takes at once"
        return RateLimited(_sentence(limit, said), _retry_after(response))
    if request.job_id is not None and envelope:
        if _says_that_job_is_missing(request, request.job_id, status, envelope):
            return JobUnknown(_sentence(f"The server has no record of import job {_shorten(request.job_id)}", said))
        if _says_that_id_is_invalid(request.job_id, envelope):
            return JobIdInvalid(_sentence(f"{_shorten(request.job_id)!r} is not the id of an import job", said))
    given = f"HTTP {status}" if code is None else f"code {_shorten(str(code), 20)}, HTTP {status}"
    if status in _GAVE_UP_STATUSES or code in _GAVE_UP_CODES:
        return GaveUp(_sentence(f"The server's own time limit was over ({given})", said))
    if code is not None and code in (_COLLECTION_MISSING_CODE, _DATABASE_MISSING_CODE):
        return _target_missing(request, code, said)
    of_the_api = code is not None and (status != 404 or code >= _LOWEST_CODE_OF_THE_API)
    if status in _NOT_SERVED_STATUSES and not of_the_api:
        return DialectNotServed(f"The server does not serve {urlsplit(request.target).path} (HTTP {status}).")
    if 300 <= status < 400:
        return Redirected(_describe_redirect(response))
    if status >= 500 or code == _DOWN_CODE:
        return ServerDown(
            f"The server, or something before it, is down: {given}{said or _beginning(response.body, redact)}",
            _retry_after(response),
            in_doubt=status != 503,
        )
    if code is None:
        return UnexpectedAnswer(f"HTTP {status} is not an answer of the import API{_beginning(response.body, redact)}")
    shown = _shorten(str(code), 20)
    return Refused(_sentence(f"The import API refused the request with code {shown} (HTTP {status})", said), code)


def encode_json(body: Mapping[str, Any]) -> bytes:
    """Return a request's body, with the keys that hold None left out."""
    return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


class _Envelope(NamedTuple):
    code: int
    message: str
    data: Any


def _envelope(body: bytes) -> _Envelope | None:
    """Return the answer where it is this API's JSON: an object with a whole number, or its digits, as its code."""
    try:
        answer = json.loads(body)
    # A deeply nested answer is a RecursionError, one in no known encoding a ValueError.
    except (ValueError, RecursionError):
        return None
    # Kubernetes answers {"kind": "Status", "code": 404}.
    if not isinstance(answer, dict) or "kind" in answer:
        return None
    code, message = answer.get("code"), answer.get("message")
    # Zilliz Cloud's schema, and one of its samples, show the code as a string.
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) < 20:
        code = int(code)
    if not isinstance(code, int) or isinstance(code, bool):
        return None
    return _Envelope(code, message if isinstance(message, str) else "", answer.get("data"))


def _says_that_job_is_missing(request: Request, job_id: str, status: int, envelope: _Envelope) -> bool:
    """Say whether an answer means that there is no such import job. It is a final verdict, so nothing is guessed."""
    if envelope.code in _CODES_WITH_ONE_MEANING:
        return False
    # With a digit in place of the id, which the pattern takes for one.
    if any(_JOB_MISSING.search(said) for said in (envelope.message, envelope.message.replace(job_id, "0"))):
        return True
    # A gateway that does not know the path may repeat it, and the id in it.
    names_path = urlsplit(request.target).path in envelope.message
    return status == 404 and not names_path and _names(job_id, envelope.message)


def _says_that_id_is_invalid(job_id: str, envelope: _Envelope) -> bool:
    if envelope.code in _IMPORT_FAILED_CODES:
        return _ID_NOT_PARSED.search(envelope.message) is not None
    if envelope.code != _PARAMETER_CODE:
        return False
    # Milvus parses every whole number: a message that holds one of them is about something else.
    named = not job_id.isdecimal() and _names(job_id, envelope.message)
    return named or _JOB_ID.search(envelope.message) is not None


def _names(job_id: str, message: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(job_id)}(?![\w/-])(?!\.\w)", message) is not None


def _database(request: Request) -> str | None:
    """Return the database that a request names; None on v1, which has none."""
    return request.headers.get("DB-Name", "default") if request.target.startswith("/v2/") else None


def _other_database(request: Request) -> str:
    if _database(request) is None or "DB-Name" in request.headers:
        return ""
    return (
        "No db_name is set, so this was asked in the database 'default': if the role of this user is for another one, "
        "set db_name in the connection's extra."
    )


def _target_missing(request: Request, code: int, said: str) -> TargetMissing:
    database = _database(request)
    where = "" if database is None else f" in database {database!r}"
    if code == _DATABASE_MISSING_CODE:
        named = "" if database is None else f" {database!r}"
        return TargetMissing(
            _sentence(
                f"The server has no database{named}", said, "Create it, or correct db_name in the connection's extra."
            ),
            code,
        )
    mend = "the collection's name" if database is None else "its name, or db_name in the connection's extra"
    return TargetMissing(
        _sentence(f"The server has no such collection{where}", said, f"Create it, or correct {mend}."), code
    )


def _sentence(statement: str, said: str, advice: str = "") -> str:
    """Return a statement, what the server said of it, and what to do."""
    if not advice:
        return f"{statement}{said or '.'}"
    return f"{statement}{said.rstrip('.')}. {advice}"


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


def _beginning(body: bytes, redact: Callable[[str], str]) -> str:
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
