from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_importprog.emulator import ApiError, Emulator
from tests.emulator.client import V1, V2, create, describe, get, post, v1_progress
from tests.emulator.fixtures import Clock


def test_a_job_walks_through_its_states(emulator: Emulator, clock: Clock) -> None:
    job_id = create(emulator.url, "a.json", "b.json")
    seen = []
    for _ in range(11):
        job = describe(emulator.url, job_id)
        seen.append((job["state"], job["progress"], job["importedRows"]))
        clock.pass_by(10)
    assert [state for state, _, _ in seen] == (["Pending"] + ["Importing"] * 9 + ["Completed"])
    assert [progress for _, progress, _ in seen] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    rows = [count for _, _, count in seen]
    assert rows == sorted(rows)
    assert rows[-1] == job["totalRows"] == sum(file["totalRows"] for file in job["details"])


def test_files_go_one_after_another(emulator: Emulator, clock: Clock) -> None:
    job_id = create(emulator.url, "a.json", "b.json")
    clock.pass_by(40)
    states = [file["state"] for file in describe(emulator.url, job_id)["details"]]
    assert states == ["InProgress", "Pending"]
    clock.pass_by(55)
    states = [file["state"] for file in describe(emulator.url, job_id)["details"]]
    assert states == ["Completed", "InProgress"]


def test_answers_have_the_shape_of_v2(emulator: Emulator, clock: Clock) -> None:
    job_id = create(emulator.url, "a.json")
    clock.pass_by(200)
    job = describe(emulator.url, job_id)
    assert set(job) == {
        *("jobId", "collectionName", "fileSize", "state", "progress", "completeTime"),
        *("importedRows", "totalRows", "details"),
    }
    assert job["details"][0]["fileName"] == "[a.json]"
    assert job["completeTime"].endswith("Z")
    listed = post(emulator.url, f"{V2}/list", pageSize=10, currentPage=7).json()
    assert listed == {
        "code": 0,
        "data": {"records": [{"jobId": job_id, "collectionName": "articles", "state": "Completed", "progress": 100}]},
    }
    assert post(emulator.url, f"{V2}/list", collectionName="other").json()["data"] == {"records": []}


@pytest.mark.parametrize("name", ["describe", "get_progress", "getProgress"])
def test_every_name_of_describe(emulator: Emulator, name: str) -> None:
    job_id = create(emulator.url, "a.json")
    assert post(emulator.url, f"{V2}/{name}", jobId=job_id).json()["data"]["state"] == "Pending"


def test_answers_have_the_shape_of_v1(emulator: Emulator, clock: Clock) -> None:
    answer = post(emulator.url, V1, clusterId="in01", collectionName="articles", objectUrl="s3://b/1.parquet")
    assert answer.json()["code"] == 200
    job_id = answer.json()["data"]["jobId"]
    clock.pass_by(50)
    job = v1_progress(emulator.url, job_id)
    assert job["completeTime"] is None
    assert job["errorMessage"] is None
    assert job["readyPercentage"] == 50
    assert job["fileName"] == job["details"][0]["fileName"] == "s3://b/1.parquet"
    clock.pass_by(50)
    job = v1_progress(emulator.url, job_id)
    assert job["completeTime"] == job["details"][0]["completeTime"] is not None
    assert set(job) == {
        *("collectionName", "fileName", "fileSize", "readyPercentage", "completeTime"),
        *("errorMessage", "jobId", "details"),
    }


def test_v1_lists_in_pages(emulator: Emulator, clock: Clock) -> None:
    first = create(emulator.url, "a.json")
    clock.pass_by(100)
    second = create(emulator.url, "b.json")
    page = get(emulator.url, f"{V1}/list", pageSize=1, currentPage=2).json()["data"]
    assert page == {
        "tasks": [{"collectionName": "articles", "jobId": second, "state": "ImportRunning"}],
        "count": 2,
        "currentPage": 2,
        "pageSize": 1,
    }
    page = get(emulator.url, f"{V1}/list").json()["data"]
    assert [(task["jobId"], task["state"]) for task in page["tasks"]] == [
        (first, "ImportCompleted"),
        (second, "ImportRunning"),
    ]


def test_a_failing_file_fails_its_job(emulator: Emulator, clock: Clock) -> None:
    emulator.fail_file("*bad*", "row 7 has no vector")
    job_id = create(emulator.url, "in/good.json", "in/bad.json", "in/never.json")
    clock.pass_by(1000)
    job = describe(emulator.url, job_id)
    reason = "import of file 'in/bad.json' failed: row 7 has no vector"
    assert (job["state"], job["reason"], job["completeTime"]) == ("Failed", reason, "")
    assert (job["progress"], job["importedRows"], job["totalRows"]) == (0, 0, 0)
    # Milvus gives each file that is not completed the job's reason, also the one that was never read.
    assert [(file["state"], file.get("reason")) for file in job["details"]] == [
        ("Completed", None),
        ("Failed", reason),
        ("Failed", reason),
    ]
    old = v1_progress(emulator.url, job_id)
    assert old["errorMessage"] == old["details"][1]["errorMessage"] == reason
    assert old["completeTime"] is None


def test_a_job_can_complete_with_a_file_in_error(clock: Clock) -> None:
    with Emulator(duration=10, clock=clock, fail_files={"bad*": ""}, partial_success=True) as emulator:
        job_id = create(emulator.url, "good.json", "bad.json", "also_good.json")
        clock.pass_by(10)
        job = describe(emulator.url, job_id)
    assert job["state"] == "Completed"
    assert [file["state"] for file in job["details"]] == ["Completed", "Failed", "Completed"]
    assert job["importedRows"] == job["details"][0]["totalRows"] + job["details"][2]["totalRows"]


def test_two_phase_commit(emulator: Emulator, clock: Clock) -> None:
    job_id = create(emulator.url, "a.json", options={"auto_commit": "false"})
    early = post(emulator.url, f"{V2}/commit", jobId=job_id).json()
    assert early["code"] != 0
    clock.pass_by(100)
    job = describe(emulator.url, job_id)
    assert (job["state"], job["progress"], job["completeTime"]) == ("Uncommitted", 99, "")
    assert v1_progress(emulator.url, job_id)["completeTime"] is None
    for state in ("Committing", "Committing", "Completed"):
        assert post(emulator.url, f"{V2}/commit", jobId=job_id).json() == {"code": 0, "data": {}}
        assert describe(emulator.url, job_id)["state"] == state
        clock.pass_by(5)
    assert describe(emulator.url, job_id)["progress"] == 100
    assert post(emulator.url, f"{V2}/abort", jobId=job_id).json()["code"] != 0


def test_two_phase_abort(emulator: Emulator, clock: Clock) -> None:
    job_id = create(emulator.url, "a.json", options={"auto_commit": "false"})
    clock.pass_by(100)
    for _ in range(2):
        assert post(emulator.url, f"{V2}/abort", jobId=job_id).json() == {"code": 0, "data": {}}
        job = describe(emulator.url, job_id)
        assert job["state"] == "Failed"
        assert job["reason"] == "aborted by user"
        assert job["importedRows"] == 0
    assert post(emulator.url, f"{V2}/commit", jobId=job_id).json()["code"] != 0


def test_others_commit_and_abort_past_the_api(emulator: Emulator, clock: Clock) -> None:
    job_id = create(emulator.url, "a.json", options={"auto_commit": "false"})
    clock.pass_by(100)
    emulator.commit(job_id)
    assert describe(emulator.url, job_id)["state"] == "Committing"
    with pytest.raises(ApiError, match="cannot abort"):
        emulator.abort(job_id)


def test_a_record_expires(emulator: Emulator, clock: Clock) -> None:
    job_id = create(emulator.url, "a.json")
    emulator.forget(job_id)
    answer = post(emulator.url, f"{V2}/describe", jobId=job_id)
    assert answer.status_code == 200
    assert f"import job does not exist, jobID={job_id}" in answer.json()["message"]


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({}, 48 * 3600), ({"profile": "milvus-2.4"}, 3 * 3600), ({"retention": 60}, 60), ({"retention": None}, None)],
)
def test_records_are_kept_for_the_retention(clock: Clock, settings: dict[str, Any], seconds: float | None) -> None:
    with Emulator(duration=10, clock=clock, **settings) as emulator:
        job_id = create(emulator.url, "a.json")
        clock.pass_by(10 + (seconds or 10**9) - 1)
        assert post(emulator.url, f"{V2}/get_progress", jobId=job_id).json()["data"]["state"] == "Completed"
        clock.pass_by(1)
        assert len(post(emulator.url, f"{V2}/list").json()["data"]["records"]) == (seconds is None)
        answer = post(emulator.url, f"{V2}/get_progress", jobId=job_id).json()
        assert answer["code"] == (2100 if seconds else 0)


def test_rows_that_are_lost(emulator: Emulator, clock: Clock) -> None:
    post(emulator.url, "/emulator/lose_rows", pattern="*short*", rows=10)
    job_id = create(emulator.url, "a.json", "short.json")
    clock.pass_by(100)
    job = describe(emulator.url, job_id)
    assert job["state"] == "Completed"
    assert [file["totalRows"] - file["importedRows"] for file in job["details"]] == [0, 10]
    assert job["importedRows"] == job["totalRows"] - 10


def test_details_are_empty_while_a_job_is_pending(emulator: Emulator) -> None:
    job = describe(emulator.url, create(emulator.url, "a.json"))
    assert (job["state"], job["details"], job["totalRows"]) == ("Pending", [], 0)


def test_true_sizes_of_files_that_are_there(emulator: Emulator, clock: Clock, rows_file: Callable[..., str]) -> None:
    path = rows_file("a b.json", 3)
    job_id = create(emulator.url, path, Path(path).as_uri())
    clock.pass_by(50)
    assert [file["fileSize"] for file in describe(emulator.url, job_id)["details"]] == [Path(path).stat().st_size] * 2


def test_a_duration_of_nothing(clock: Clock) -> None:
    with Emulator(duration=0, clock=clock) as emulator:
        job = describe(emulator.url, create(emulator.url, "a.json"))
    assert (job["state"], job["progress"]) == ("Completed", 100)
