"""Which errors end a task for good, and what they carry."""

from __future__ import annotations

import pickle

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

FINAL = [ImportJobFailed, ImportFilesFailed, ImportRowsMissing, ImportJobUnknown, ImportJobAmbiguous]
RETRIED = [
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportApiRefused,
    ImportSettingInvalid,
    ImportConnectionNotFound,
]
EVERY = [*FINAL, *RETRIED]
JOB = ImportJob(
    "1", "c", ImportState.FAILED, 3.0, files=(ImportFile("a", 1, ImportState.FAILED, 0.0, error_message="x"),)
)


def test_the_tables_below_name_every_exception() -> None:
    public = {value for value in vars(exceptions).values() if isinstance(value, type)}
    ours = {value for value in public if issubclass(value, ImportProgressException)}
    assert ours == {ImportProgressException, *EVERY}


@pytest.mark.parametrize("kind", FINAL)
def test_a_verdict_that_no_retry_can_change_fails_for_good(kind: type[ImportProgressException]) -> None:
    assert issubclass(kind, AirflowFailException)


@pytest.mark.parametrize("kind", RETRIED)
def test_the_rest_follow_the_tasks_retries(kind: type[ImportProgressException]) -> None:
    assert issubclass(kind, AirflowException)
    assert not issubclass(kind, AirflowFailException)


@pytest.mark.parametrize("kind", EVERY)
class TestEach:
    def test_carries_its_message_and_the_job(self, kind: type[ImportProgressException]) -> None:
        assert str(kind("why", job=JOB)) == "why"
        assert kind("why", JOB).job is JOB
        assert kind("why").job is None
        assert kind().job is None

    def test_survives_pickling(self, kind: type[ImportProgressException]) -> None:
        again = pickle.loads(pickle.dumps(kind("why", job=JOB)))
        assert type(again) is kind
        assert str(again) == "why"
        assert again.job == JOB

    def test_survives_airflows_own_serialization(self, kind: type[ImportProgressException]) -> None:
        path, args, kwargs = kind("why", job=JOB).serialize()  # type: ignore[no-untyped-call]
        assert path == f"{kind.__module__}.{kind.__qualname__}"
        assert str(kind(*args, **kwargs)) == "why"


def test_a_wait_that_the_server_asked_for_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(ImportApiUnreachable("why", retry_after=3.0))).retry_after == 3.0


def test_a_wrong_setting_is_a_value_error_too() -> None:
    assert issubclass(ImportSettingInvalid, ValueError)


def test_a_connection_that_is_not_there_is_what_airflow_calls_one() -> None:
    assert issubclass(ImportConnectionNotFound, ImportSettingInvalid)
    assert issubclass(ImportConnectionNotFound, AirflowNotFoundException)


MEANINGS = [
    (errors.JobUnknown("w"), ImportJobUnknown),
    (errors.NotAuthenticated("w"), ImportApiUnauthorized),
    (errors.NotPermitted("w"), ImportApiUnauthorized),
    (errors.JobIdInvalid("w"), ImportSettingInvalid),
    (errors.Refused("w", 1100), ImportApiRefused),
    (errors.TargetMissing("w", 100), ImportApiRefused),
    (errors.GaveUp("w"), ImportApiUnreachable),
    (errors.Unsupported("w"), ImportApiRefused),
    (errors.RateLimited("w", 5.0), ImportApiUnreachable),
    (errors.ServerDown("w", 5.0), ImportApiUnreachable),
    (errors.Unreachable("w"), ImportApiUnreachable),
    (errors.Redirected("w"), ImportApiUnreachable),
    (errors.UnexpectedAnswer("w"), ImportApiUnreachable),
    (errors.DialectNotServed("w"), ImportApiUnreachable),
    (errors.ImportApiError("w"), ImportApiUnreachable),
]


@pytest.mark.parametrize(
    ("error", "kind"), MEANINGS, ids=lambda value: "" if isinstance(value, type) else type(value).__name__
)
def test_every_error_of_the_wire_has_its_meaning(
    error: errors.ImportApiError, kind: type[ImportProgressException]
) -> None:
    meant = from_api_error(error, "***")
    assert type(meant) is kind
    assert str(meant) == "***"
    if isinstance(meant, ImportApiUnreachable):
        assert meant.retry_after == getattr(error, "retry_after", None)


def test_the_table_of_meanings_names_every_error() -> None:
    assert {type(error) for error, _ in MEANINGS} == {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.ImportApiError)
    }
