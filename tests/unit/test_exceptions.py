"""Which errors end a task for good, and what they carry."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowNotFoundException

from airflow_provider_importprog import exceptions
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState, errors
from airflow_provider_importprog.exceptions import (
    ImportApiRefused,
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportConnectionNotFound,
    ImportFilesFailed,
    ImportJobAmbiguous,
    ImportJobFailed,
    ImportJobUnknown,
    ImportProgressException,
    ImportRowsMissing,
    ImportSettingInvalid,
    from_api_error,
)

# A verdict that no retry can change; the rest follow the task's retries.
FINAL = (ImportJobFailed, ImportFilesFailed, ImportRowsMissing, ImportJobUnknown, ImportJobAmbiguous)
EVERY = [
    *FINAL, ImportApiUnauthorized, ImportApiUnreachable, ImportApiRefused, ImportSettingInvalid,
    ImportConnectionNotFound,
]  # fmt: skip
FILE = ImportFile("a", 1, ImportState.FAILED, 0.0, error_message="x")
JOB = ImportJob("1", "c", ImportState.FAILED, 3.0, files=(FILE,))
OF_THE_WIRE: dict[type[ImportProgressException], list[errors.ImportApiError]] = {
    ImportJobUnknown: [errors.JobUnknown("w")],
    ImportSettingInvalid: [errors.JobIdInvalid("w")],
    ImportApiUnauthorized: [errors.NotAuthenticated("w"), errors.NotPermitted("w")],
    ImportApiRefused: [errors.Refused("w", 1100), errors.TargetMissing("w", 100), errors.Unsupported("w")],
    ImportApiUnreachable: [
        errors.GaveUp("w"), errors.RateLimited("w", 5.0), errors.ServerDown("w", 5.0), errors.Unreachable("w"),
        errors.Redirected("w"), errors.UnexpectedAnswer("w"), errors.DialectNotServed("w"), errors.ImportApiError("w"),
    ],
}  # fmt: skip
MEANINGS = [(error, kind) for kind, each in OF_THE_WIRE.items() for error in each]


def kinds(module: Any, base: type[Exception]) -> set[type[Exception]]:
    return {value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base)}


def test_the_tables_name_every_exception() -> None:
    assert kinds(exceptions, ImportProgressException) == {ImportProgressException, *EVERY}
    assert kinds(errors, errors.ImportApiError) == {type(error) for error, _ in MEANINGS}


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_each_carries_its_message_and_the_job_wherever_it_is_sent(kind: type[ImportProgressException]) -> None:
    assert issubclass(kind, AirflowException)
    assert issubclass(kind, AirflowFailException) is (kind in FINAL)
    assert str(kind("why", job=JOB)) == "why"
    assert kind("why", JOB).job is JOB
    assert kind("why").job is kind().job is None
    again = pickle.loads(pickle.dumps(kind("why", job=JOB)))
    assert (type(again), str(again), again.job) == (kind, "why", JOB)
    path, args, kwargs = kind("why", job=JOB).serialize()  # type: ignore[no-untyped-call]
    assert path == f"{kind.__module__}.{kind.__qualname__}"
    assert str(kind(*args, **kwargs)) == "why"


def test_what_only_some_are_or_carry() -> None:
    assert issubclass(ImportSettingInvalid, ValueError)
    assert issubclass(ImportConnectionNotFound, ImportSettingInvalid)
    assert issubclass(ImportConnectionNotFound, AirflowNotFoundException)
    assert pickle.loads(pickle.dumps(ImportApiUnreachable("why", retry_after=3.0))).retry_after == 3.0


@pytest.mark.parametrize(("error", "kind"), MEANINGS, ids=lambda value: type(value).__name__)
def test_every_error_of_the_wire_has_its_meaning(
    error: errors.ImportApiError, kind: type[ImportProgressException]
) -> None:
    meant = from_api_error(error, "***")
    assert (type(meant), str(meant)) == (kind, "***")
    if isinstance(meant, ImportApiUnreachable):
        assert meant.retry_after == getattr(error, "retry_after", None)
