"""The v1 dialect, which never says in what state a job is."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_importprog.api import ImportJob, v1
from airflow_provider_importprog.api.errors import UnexpectedAnswer

WHEN = "2024-05-18T03:00:22Z"


def parse(job_id: str = "1", **data: Any) -> ImportJob:
    return v1.parse_progress(data, job_id)


STATES = [
    pytest.param({"completeTime": None, "errorMessage": None}, "importing", id="null and null goes on"),
    pytest.param({"completeTime": WHEN, "errorMessage": None}, "completed", id="a time completes"),
    pytest.param({"completeTime": WHEN}, "completed", id="a time completes without the other key"),
    pytest.param({"completeTime": None, "errorMessage": "bad row"}, "failed", id="an error fails"),
    pytest.param({"completeTime": WHEN, "errorMessage": "bad row"}, "failed", id="an error beats a time"),
    pytest.param({"errorMessage": "bad row", "readyPercentage": 100}, "failed", id="an error beats a percentage"),
    pytest.param(
        {"completeTime": "Unknown type", "errorMessage": "Unknown type", "readyPercentage": 100},
        "importing",
        id="Unknown type stands for null",
    ),
    pytest.param({"completeTime": WHEN, "errorMessage": "Unknown type"}, "completed", id="Unknown type is no error"),
    pytest.param({"completeTime": "unknown TYPE "}, "importing", id="Unknown type in other letters"),
    pytest.param({"completeTime": WHEN, "errorMessage": ""}, "completed", id="an empty error is none"),
    pytest.param({"completeTime": "", "readyPercentage": 100}, "importing", id="an empty time is none"),
    pytest.param({"completeTime": None, "readyPercentage": 100}, "importing", id="100 % and null goes on"),
    pytest.param({"completeTime": None, "readyPercentage": 1}, "importing", id="1 and null goes on"),
    pytest.param({"readyPercentage": 100}, "completed", id="100 % without the key completes"),
    pytest.param({"readyPercentage": "100"}, "completed", id="100 % in a string without the key completes"),
    pytest.param({"readyPercentage": 99.9}, "importing", id="99.9 % without the key goes on"),
    pytest.param({"readyPercentage": 1}, "importing", id="1 without the key proves nothing"),
    pytest.param({"readyPercentage": None}, "importing", id="nothing known goes on"),
    pytest.param({}, "importing", id="no key at all goes on"),
]


@pytest.mark.parametrize(("entry", "state"), STATES)
def test_the_state_of_a_job_is_inferred(entry: dict[str, Any], state: str) -> None:
    assert parse(**entry).state.value == state


@pytest.mark.parametrize(("entry", "state"), STATES)
def test_the_state_of_a_file_is_inferred_alike_and_leaves_the_job_alone(entry: dict[str, Any], state: str) -> None:
    job = parse(completeTime=None, details=[entry])
    assert job.files[0].state.value == state
    assert job.files[0].failed is (state == "failed")
    assert job.state.value == "importing"


def test_a_job_may_complete_with_a_failed_file() -> None:
    job = parse(
        completeTime=WHEN,
        details=[
            {"fileName": "a", "completeTime": WHEN, "errorMessage": None},
            {"fileName": "b", "completeTime": None, "errorMessage": "bad row"},
        ],
    )
    assert job.state.value == "completed"
    assert [file.file_name for file in job.failed_files] == ["b"]
    assert job.failed_files[0].error_message == "bad row"


@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        pytest.param([(None, 42.5)], [42.5], id="a percentage as it is"),
        pytest.param([(None, 0.5)], [0.5], id="a half may be half a percent"),
        pytest.param([(None, 1)], [1.0], id="1 proves nothing while going on"),
        pytest.param([(WHEN, 1), (None, 0.5)], [100.0, 50.0], id="a completed 1 proves the scale"),
        pytest.param([(WHEN, 1), (None, 0.5), (None, 42)], [100.0, 0.5, 42.0], id="a larger number disproves it"),
        pytest.param([(WHEN, 0.99), (None, 0.5)], [100.0, 0.5], id="a completed 0.99 proves nothing"),
        pytest.param([(WHEN, 0)], [100.0], id="a completed file reports 100"),
        pytest.param([(None, -3), (None, 250)], [0.0, 100.0], id="clamped"),
        pytest.param(
            [(None, "12.5"), (None, "x"), (None, None), (None, True), (None, [])], [12.5, 0, 0, 0, 0], id="odd"
        ),
        pytest.param([(None, float("nan")), (None, float("inf")), (None, 10**400)], [0.0, 0.0, 100.0], id="endless"),
    ],
)
def test_the_scale_of_the_percentage(entries: list[tuple[str | None, Any]], shown: list[float]) -> None:
    details = [{"completeTime": when, "readyPercentage": percent} for when, percent in entries]
    job = parse(completeTime=None, details=details)
    assert [file.progress for file in job.files] == shown


def test_the_jobs_own_number_counts_for_the_scale_of_its_files() -> None:
    job = parse(completeTime=WHEN, readyPercentage=1, details=[{"readyPercentage": 0.25, "completeTime": None}])
    assert (job.progress, job.files[0].progress) == (100.0, 25.0)


def test_a_failed_job_keeps_the_progress_it_made() -> None:
    assert parse(errorMessage="bad", readyPercentage=40, completeTime=None).progress == 40.0


@pytest.mark.parametrize("details", [None, []], ids=["null", "empty"])
def test_an_answer_without_details_names_its_one_file_on_the_job(details: Any) -> None:
    job = parse(fileName="a.json", fileSize=5, errorMessage="bad", completeTime=WHEN, details=details)
    (file,) = job.files
    assert (file.file_name, file.file_size, file.state.value, file.error_message) == ("a.json", 5, "failed", "bad")


def test_details_stand_for_themselves_where_the_job_names_a_file_too() -> None:
    job = parse(fileName="a.json", details=[{"fileName": "b.json"}])
    assert [file.file_name for file in job.files] == ["b.json"]


def test_a_time_is_kept_with_its_zone_in_utc() -> None:
    job = parse(completeTime="2024-05-18T05:00:22+02:00", details=[{"completeTime": "2024-05-18T03:00:22"}])
    expected = datetime(2024, 5, 18, 3, 0, 22, tzinfo=timezone.utc)
    assert job.complete_time == job.files[0].complete_time == expected
    assert job.complete_time is not None
    assert job.complete_time.utcoffset() == timedelta(0)


@pytest.mark.parametrize("entry", [{}, {"jobId": None}, {"jobId": ""}], ids=["absent", "null", "empty"])
def test_an_answer_without_an_id_is_about_the_job_asked_for(entry: dict[str, Any]) -> None:
    assert parse("1", **entry).job_id == "1"


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        pytest.param({"jobId": "2"}, "'2'.*'1' was asked for", id="another job"),
        pytest.param({"jobId": 1.0}, "'jobId' should be a string and is 1.0", id="id a fraction"),
        pytest.param({"jobId": True}, "'jobId' should be", id="id a bool"),
        pytest.param({"completeTime": "yesterday"}, "'completeTime' should be a time", id="time no time"),
        pytest.param({"completeTime": 1716001222}, "'completeTime' should be a string", id="time a number"),
        pytest.param({"completeTime": False}, "'completeTime'", id="time a bool"),
        pytest.param({"completeTime": "0001-01-01T00:00:00+23:59"}, "'completeTime'", id="time before all times"),
        pytest.param({"errorMessage": 5}, "'errorMessage' should be a string and is 5", id="error a number"),
        pytest.param({"errorMessage": {"code": 1}}, "'errorMessage'", id="error an object"),
        pytest.param({"collectionName": 5}, "'collectionName'", id="name a number"),
        pytest.param({"details": {}}, "'details' should be a list", id="details an object"),
        pytest.param({"details": "x"}, "'details'", id="details a string"),
        pytest.param({"details": [{}, 5]}, r"'details\[1\]' should be an object and is 5", id="a file a number"),
        pytest.param({"details": [{"completeTime": "x"}]}, "'completeTime'", id="a file's time no time"),
        pytest.param({"details": [{"errorMessage": 5}]}, "'errorMessage'", id="a file's error a number"),
    ],
)
def test_what_decides_a_verdict_is_read_strictly(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=named):
        parse("1", **entry)


@pytest.mark.parametrize("data", [None, [], "x", 5, True])
def test_data_that_is_no_object_is_not_what_the_api_promises(data: Any) -> None:
    with pytest.raises(UnexpectedAnswer, match="'data' should be an object"):
        v1.parse_progress(data, "1")
    with pytest.raises(UnexpectedAnswer, match="'data' should be an object"):
        v1.parse_list(data)


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("ImportPending", "pending"),
        ("ImportRunning", "importing"),
        ("ImportCompleted", "completed"),
        ("ImportFailed", "failed"),
        ("ImportFailedAndCleaned", "failed"),
        ("ImportSomethingNew", "importing"),
        (None, "importing"),
    ],
)
def test_a_record_of_the_list_names_its_state(state: str | None, meaning: str) -> None:
    (job,), _, shows_progress = v1.parse_list({"records": [{"jobId": "1", "state": state}]})
    assert not shows_progress
    assert job.state.value == meaning


@pytest.mark.parametrize(
    "data", [{"tasks": 5}, {"tasks": [5]}, {"tasks": [{}]}, {"tasks": [{"jobId": "1", "state": 5}]}]
)
def test_a_list_is_read_strictly(data: Any) -> None:
    with pytest.raises(UnexpectedAnswer):
        v1.parse_list(data)


@pytest.mark.parametrize("complete_time", [None, WHEN], ids=["going on", "completed"])
def test_a_job_is_made_anew_from_its_summary(complete_time: str | None) -> None:
    job = parse(completeTime=complete_time, fileSize=5, collectionName="c", readyPercentage=3, errorMessage=None)
    assert ImportJob.from_summary(json.loads(json.dumps(job.summary()))) == job
