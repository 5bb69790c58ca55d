"""What can go wrong between a request and an import job, as exceptions.

Each is a sentence about one answer. What it means for a waiting gate is decided in
:mod:`airflow_provider_importprog._gate`, what it means for a task in
:mod:`airflow_provider_importprog.exceptions`.
"""

from __future__ import annotations


class ImportApiError(Exception):
    """The import API gave no good answer."""

    #: Whether the server may have done all the same what it was asked to do.
    in_doubt = False
    #: Whether the server says that it did nothing, and that the same request may do later.
    nothing_done = False
    #: Seconds that the server asks to wait, or None where it does not say.
    retry_after: float | None = None
    #: The HTTP status of the answer that it was made of; None where there was none.
    http_status: int | None = None


class NotAuthenticated(ImportApiError):
    """The token is missing or wrong: HTTP 401, code 1800 or 1400, Zilliz Cloud's 21119, 80001 and 80002."""


class NotPermitted(ImportApiError):
    """The token's owner may not do this: HTTP 403, code 1401, or 65535 with "PermissionDenied"."""


class JobUnknown(ImportApiError):
    """The server has no record of the import job: not submitted yet, or expired."""


class JobIdInvalid(ImportApiError):
    """The server cannot read the id: it is not that of any import job."""


class RateLimited(ImportApiError):
    """Too many requests, or too many import jobs: HTTP 429, code 4, 8, 9 or 1807, or the limit of jobs.

    :param retry_after: seconds the server asks to wait, or None where it does not say.
    """

    nothing_done = True

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(ImportApiError):
    """No answer came: no connection, a connection cut off, a time-out. Raised by the hooks.

    :param in_doubt: whether the request may have reached the server.
    """

    def __init__(self, message: str, in_doubt: bool = True) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt


class ServerDown(ImportApiError):
    """HTTP 5xx, or code 1: the server, or something before it, is down.

    :param retry_after: seconds the server asks to wait, or None where it does not say.
    :param in_doubt: False where the status says that the request was not taken. A proxy's does not.
    """

    def __init__(self, message: str, retry_after: float | None = None, in_doubt: bool = True) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.in_doubt = in_doubt
        self.nothing_done = not in_doubt and retry_after is not None


class GaveUp(ImportApiError):
    """The server's own time limit was over: HTTP 408, code 10001, 10000, 2 or 65535. It may go on all the same."""

    in_doubt = True


class Redirected(ImportApiError):
    """HTTP 3xx. It is not followed, because the token would follow it too."""


class UnexpectedAnswer(ImportApiError):
    """The answer is not what the API promises."""

    in_doubt = True


class DialectNotServed(UnexpectedAnswer):
    """The server does not know the path: it serves another dialect, or is no import API."""

    in_doubt = False


class Refused(ImportApiError):
    """The API's own error, in its own words, where no class above says it better.

    :param code: the API's error code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class TargetMissing(Refused):
    """There is no such database (code 800) or collection (100). It may be made a moment later."""


class Unsupported(ImportApiError):
    """The dialect, or this release of the server, has no such call. Nothing was done."""
