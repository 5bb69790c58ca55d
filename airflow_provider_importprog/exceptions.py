"""What ends a task of this provider, as Airflow exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
)

if TYPE_CHECKING:
    from airflow_provider_importprog.api.errors import ImportApiError
    from airflow_provider_importprog.api.model import ImportJob


class ImportProgressException(AirflowException):
    """Base of all below.

    :param job: the import job as last seen, or None where none was.
    """

    def __init__(self, message: str = "", job: ImportJob | None = None) -> None:
        super().__init__(message)
        self.job = job


class ImportJobFailed(ImportProgressException, AirflowFailException):
    """The import job failed. No retry of the task can change that."""


class ImportFilesFailed(ImportProgressException, AirflowFailException):
    """The import job completed, but not with every file. No retry of the task can change that."""


class ImportRowsMissing(ImportProgressException, AirflowFailException):
    """The import job completed with fewer rows than ``min_rows``. No retry of the task can change that."""


class ImportJobUnknown(ImportProgressException, AirflowFailException):
    """The server has no record of the import job, so how the import ended is not known."""


class ImportJobAmbiguous(ImportProgressException, AirflowFailException):
    """Several import jobs may be the one that an earlier try submitted. No retry of the task can tell."""


class ImportApiUnauthorized(ImportProgressException):
    """The token is not accepted, or its owner is not permitted to do this."""


class ImportApiUnreachable(ImportProgressException):
    """No good answer: no connection, a time-out, a rate limit, a redirect, HTTP 5xx, or no import API.

    :param retry_after: seconds the server asked to wait, or None where it did not say.
    :param in_doubt: whether the server may have done all the same what it was asked to do.
    :param nothing_done: whether the server said that it did nothing, and that the same request may do later.
    """

    def __init__(
        self,
        message: str = "",
        job: ImportJob | None = None,
        retry_after: float | None = None,
        in_doubt: bool = False,
        nothing_done: bool = False,
    ) -> None:
        super().__init__(message, job)
        self.retry_after = retry_after
        self.in_doubt = in_doubt
        self.nothing_done = nothing_done


class ImportApiRefused(ImportProgressException):
    """The API refused the request in its own words, or the dialect, or the server's release, has no such call."""


class ImportSettingInvalid(ImportProgressException, ValueError):
    """A parameter, or a field of the connection, holds what it must not."""


class ImportConnectionNotFound(ImportSettingInvalid, AirflowNotFoundException):
    """There is no connection of this id."""


def from_api_error(error: ImportApiError, message: str) -> ImportProgressException:
    """Say what an error of the import API means for a task that asked once.

    :param message: the error's own, without what must not be shown.
    """
    from airflow_provider_importprog.api import errors  # a DAG file that has a sensor needs none of them

    if isinstance(error, errors.JobUnknown):
        return ImportJobUnknown(message)
    if isinstance(error, errors.JobIdInvalid):
        return ImportSettingInvalid(message)
    if isinstance(error, (errors.NotAuthenticated, errors.NotPermitted)):
        return ImportApiUnauthorized(message)
    if isinstance(error, (errors.Refused, errors.Unsupported)):
        return ImportApiRefused(message)
    return ImportApiUnreachable(
        message, retry_after=error.retry_after, in_doubt=error.in_doubt, nothing_done=error.nothing_done
    )
