"""The v2 dialect, whose job says itself in what state it is."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_importprog.api import ImportJob, v2
from airflow_provider_importprog.api.errors import UnexpectedAnswer

STATES = [
    ("Pending", "pending"),
    ("PreImporting", "importing"),
    ("Importing", "importing"),
    ("Uncommitted", "uncommitted"),
    ("Committing", "committing"),
    ("Completed", "completed"),
    ("Failed", "failed"),
    ("InProgress", "importing"),
    ("completed", "importing"),
    ("Completed ", "importing"),
]


def parse(job_id: str = "1", **data: Any) -> ImportJob:
    return v2.parse_progress({"state": "Importing", **data}, job_id)


@pytest.mark.parametrize(("given", "meaning"), STATES)
def test_a_state_that_is_not_known_means_going_on(given: str, meaning: str) -> None:
    assert parse(state=given).state.value == meaning
    (listed,), _, _ = v2.parse_list({"records": [{"jobId": "1", "state": given}]})
    assert listed.state.value == meaning


@pytest.mark.parametrize(("given", "meaning"), [*STATES, (None, "importing")])
def test_a_files_state_is_its_own(given: str | None, meaning: str) -> None:
    job = parse(details=[{"state": given}])
    assert job.files[0].state.value == meaning
    assert job.state.value == "importing"


@pytest.mark.parametrize(
    ("state", "reason", "failed"), [("Failed", "", True), ("Completed", "x", True), ("Completed", "", False)]
)
def test_a_file_failed_where_its_state_or_its_reason_says_so(state: str, reason: str, failed: bool) -> None:
    job = parse(state="Completed", details=[{"fileName": "a", "state": state, "reason": reason}])
    assert bool(job.failed_files) is failed


@pytest.mark.parametrize("name", ["[a.parquet]", "[id.npy vector.npy]", "[]", "a.json", "[x], [y]", "文件.json"])
def test_a_file_is_named_as_the_server_names_it(name: str) -> None:
    assert parse(details=[{"fileName": name}]).files[0].file_name == name


@pytest.mark.parametrize(
    ("state", "progress", "shown"),
    [
        ("Importing", 80, 80.0),
        ("Importing", "80", 80.0),
        ("Importing", 1, 1.0),
        ("Importing", None, 0.0),
        ("Importing", -1, 0.0),
        ("Importing", 101, 100.0),
        ("Importing", float("nan"), 0.0),
        ("Uncommitted", 99, 99.0),
        ("Completed", 0, 100.0),
        ("Completed", None, 100.0),
        ("Failed", 30, 30.0),
    ],
)
def test_progress_is_a_percentage_and_100_once_completed(state: str, progress: Any, shown: float) -> None:
    entry = {"state": state, "progress": progress}
    job = parse(**entry, details=[entry])
    assert job.progress == job.files[0].progress == shown


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (0, 0),
        (7, 7),
        ("7", 7),
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        (-1, None),
        ("x", None),
        ([], None),
        (True, None),
    ],
)
def test_rows_and_sizes_are_decoration(rows: Any, kept: int | None) -> None:
    entry = {"importedRows": rows, "totalRows": rows, "fileSize": rows}
    job = parse(**entry, details=[entry])
    for found in (job, job.files[0]):
        assert (found.imported_rows, found.total_rows, found.file_size) == (kept, kept, kept)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        pytest.param({"state": None}, "'state' should be a string and is None", id="state null"),
        pytest.param({"state": ""}, "'state' should be a string and is ''", id="state empty"),
        pytest.param({"state": 5}, "'state'", id="state a number"),
        pytest.param({"state": ["Completed"]}, "'state'", id="state a list"),
        pytest.param({"jobId": "2"}, "'2'.*'1' was asked for", id="another job"),
        pytest.param({"jobId": ["1"]}, "'jobId'", id="id a list"),
        pytest.param({"reason": 5}, "'reason' should be a string and is 5", id="reason a number"),
        pytest.param({"completeTime": "yesterday"}, "'completeTime'", id="time no time"),
        pytest.param({"details": {}}, "'details' should be a list", id="details an object"),
        pytest.param({"details": [None]}, r"'details\[0\]' should be an object and is None", id="a file null"),
        pytest.param({"details": [{"state": 5}]}, "'state'", id="a file's state a number"),
        pytest.param({"details": [{"reason": []}]}, "'reason'", id="a file's reason a list"),
    ],
)
def test_what_decides_a_verdict_is_read_strictly(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=named):
        parse("1", **entry)


@pytest.mark.parametrize("data", [None, [], {"records": 5}, {"records": [5]}, {"records": [{"state": "Importing"}]}])
def test_a_list_is_read_strictly(data: Any) -> None:
    with pytest.raises(UnexpectedAnswer):
        v2.parse_list(data)


@pytest.mark.parametrize("data", [{}, {"records": None}, {"records": []}], ids=["absent", "null", "empty"])
def test_a_list_may_be_empty(data: Any) -> None:
    assert v2.parse_list(data) == ([], None, False)


def test_a_text_that_no_database_can_hold_is_made_to_fit() -> None:
    job = parse(state="Failed", reason="nul \0, half \ud800", collectionName="\0")
    assert job.error_message == "nul \ufffd, half ?"
    assert job.collection_name == "\ufffd"


@pytest.mark.parametrize(("count", "found"), [(7, 7), ("7", 7), (None, None), (-1, None), ([], None), (True, None)])
def test_a_list_may_say_how_many_there_are_in_all(count: Any, found: int | None) -> None:
    assert v2.parse_list({"count": count, "records": []}).total == found


@pytest.mark.parametrize(("progress", "shown"), [({}, False), ({"progress": None}, False), ({"progress": 0}, True)])
def test_a_list_says_itself_whether_it_shows_progress(progress: dict[str, Any], shown: bool) -> None:
    records = [{"jobId": "1", "state": "InProgress"}, {"jobId": "2", "state": "InProgress", **progress}]
    assert v2.parse_list({"records": records}).shows_progress is shown
