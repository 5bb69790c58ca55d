"""What real servers differ in, and what goes wrong on them: each as a user's test would ask for it."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from airflow_provider_importprog.emulator import PROFILES, Emulator, ServerProfile
from tests.emulator.client import V1, V2, create, describe, get, post, v1_progress
from tests.emulator.fixtures import Clock

TWO_PHASE = {"auto_commit": "false"}
REFRESH_LOAD = "/v2/vectordb/collections/refresh_load"
LIMIT = "The number of jobs has reached the limit"


def jobs_of(emulator: Emulator) -> list[str]:
    return [job["jobId"] for job in get(emulator.url, "/emulator").json()["data"]["jobs"]]


@pytest.mark.parametrize(
    ("profile", "served"),
    [
        ("milvus-2.4", {"get_progress"}),
        ("milvus-2.6", {"describe", "get_progress", "refresh_load"}),
        ("milvus-3.0", {"describe", "get_progress", "refresh_load", "commit", "abort"}),
        ("zilliz-cloud", {"v1", "describe", "get_progress"}),
        ("all", {"v1", "describe", "get_progress", "refresh_load", "commit", "abort"}),
    ],
)
def test_the_routes_of_each_server(profile: str, served: set[str]) -> None:
    if profile == "milvus-2.4":
        served = served | {"refresh_load"}
    with Emulator(profile=profile) as emulator:
        answers = {name: post(emulator.url, f"{V2}/{name}", jobId="7") for name in ("describe", "get_progress")}
        answers |= {name: post(emulator.url, f"{V2}/{name}", jobId="7") for name in ("commit", "abort")}
        answers["refresh_load"] = post(emulator.url, REFRESH_LOAD, collectionName="articles")
        answers["v1"] = get(emulator.url, f"{V1}/list")
        assert {name for name, answer in answers.items() if answer.status_code == 200} == served
        for answer in answers.values():
            if answer.status_code != 200:
                assert (answer.status_code, answer.headers["Content-Type"][:10]) == (404, "text/plain")


def test_a_server_becomes_another(emulator: Emulator) -> None:
    post(emulator.url, "/emulator/profile", profile="milvus-2.4", string_code=True)
    assert emulator.profile == ServerProfile(**{**vars(PROFILES["milvus-2.4"]), "string_code": True})
    assert post(emulator.url, f"{V2}/list").json()["code"] == "0"
    assert post(emulator.url, f"{V2}/create").json()["code"] == "1802"
    emulator.use_profile(string_code=False)
    assert post(emulator.url, f"{V2}/list").json()["code"] == 0
    assert post(emulator.url, f"{V2}/describe", jobId="7").status_code == 404


@pytest.mark.parametrize("settings", [{"colour": "red"}, {"profile": "milvus-9"}, {"job_limit": -1}, {"dialects": ()}])
def test_settings_that_no_server_has(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"colour|milvus-9|job_limit|dialects"):
        Emulator(**settings)


@pytest.mark.parametrize(("call", "delay"), [("create", 0.0), ("create", 20.0), ("commit", 0.0), ("abort", 0.0)])
def test_it_times_out_and_does_it_all_the_same(emulator: Emulator, clock: Clock, call: str, delay: float) -> None:
    job_id = create(emulator.url, "a.json", options=TWO_PHASE)
    clock.pass_by(100)
    body: dict[str, Any] = {"jobId": job_id}
    if call == "create":
        body = {"collectionName": "late", "files": [["late.json"]]}
    post(emulator.url, "/emulator/time_out", call=call, **({"delay": delay} if delay else {}))
    answer = post(emulator.url, f"{V2}/{call}", **body)
    assert (answer.status_code, answer.json()) == (408, {"code": 10001, "message": "request timeout"})
    if delay:
        assert jobs_of(emulator) == [job_id]
        clock.pass_by(delay)
        while len(jobs_of(emulator)) < 2:
            pass
    if call == "create":
        assert len(jobs_of(emulator)) == 2
    else:
        assert describe(emulator.url, job_id)["state"] == {"commit": "Committing", "abort": "Failed"}[call]
    emulator.time_out(call, status=200)
    answer = post(emulator.url, f"{V2}/{call}", **body)
    assert (answer.status_code, answer.json()["code"]) == (200, 10001)
    assert post(emulator.url, f"{V2}/{call}", **body).json()["code"] == 0


def test_answers_that_are_asked_for(emulator: Emulator) -> None:
    emulator.answer("create", 9, "quota exceeded", status=503, requests=2, retry_after=7)
    body: dict[str, Any] = {"collectionName": "c", "files": [["a.json"]]}
    answers = [post(emulator.url, f"{V2}/create", **body) for _ in range(3)]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(503, 9), (503, 9), (200, 0)]
    assert answers[0].headers["Retry-After"] == "7"
    assert len(jobs_of(emulator)) == 1
    emulator.answer("list", 65535, "node offline", requests=None)
    assert [post(emulator.url, f"{V2}/list").json()["code"] for _ in range(3)] == [65535] * 3
    emulator.restore()
    assert post(emulator.url, f"{V2}/list").json()["code"] == 0


@pytest.mark.parametrize(("system_code", "code"), [(False, 2100), (True, 2101)])
def test_the_limit_of_jobs(clock: Clock, system_code: bool, code: int) -> None:
    with Emulator(duration=10, clock=clock, job_limit=1, system_code=system_code) as emulator:
        body: dict[str, Any] = {"collectionName": "c", "files": [["a.json"]]}

        def created() -> dict[str, Any]:
            headers = {"Idempotency-Key": "k"}
            answer: dict[str, Any] = requests.post(
                f"{emulator.url}{V2}/create", json=body, headers=headers, timeout=10
            ).json()
            return answer

        first = created()
        refused = created()  # also with the key of a job that is there
        assert refused["code"] == code
        assert LIMIT in refused["message"]
        assert ("on server side" in refused["message"]) is system_code
        assert len(jobs_of(emulator)) == 1
        clock.pass_by(10)
        assert created() == first
        assert post(emulator.url, f"{V2}/describe", jobId="7").json()["code"] == code


def test_a_list_without_progress_in_pages(emulator: Emulator, clock: Clock) -> None:
    emulator.use_profile(list_progress=False)
    emulator.fail_file("bad*")
    ended = [create(emulator.url, "a.json"), create(emulator.url, "bad.json")]
    clock.pass_by(100)
    going = create(emulator.url, "b.json")
    clock.pass_by(40)
    pending = create(emulator.url, "c.json")
    states = ["Completed", "Failed", "InProgress", "Pending"]
    records = [
        {"collectionName": "articles", "jobId": job_id, "state": state}
        for job_id, state in zip([*ended, going, pending], states, strict=True)
    ]
    whole = post(emulator.url, f"{V2}/list").json()["data"]
    assert whole == {"count": 4, "currentPage": 1, "pageSize": 10, "records": records}
    page = post(emulator.url, f"{V2}/list", pageSize=3, currentPage=2).json()["data"]
    assert page == {"count": 4, "currentPage": 2, "pageSize": 3, "records": records[3:]}


def test_a_job_that_commits_by_itself_is_neither_committed_nor_aborted(emulator: Emulator, clock: Clock) -> None:
    job_id = create(emulator.url, "a.json")
    for call in ("commit", "abort"):
        answer = post(emulator.url, f"{V2}/{call}", jobId=job_id).json()
        assert answer["code"] == 2100
        assert "auto_commit" in answer["message"]
    clock.pass_by(100)
    assert describe(emulator.url, job_id)["state"] == "Completed"


def test_a_second_abort_is_refused(emulator: Emulator) -> None:
    emulator.use_profile(second_abort=False)
    job_id = create(emulator.url, "a.json", options=TWO_PHASE)
    assert [post(emulator.url, f"{V2}/abort", jobId=job_id).json()["code"] for _ in range(2)] == [0, 2100]


def test_an_old_server_does_not_know_two_phases(clock: Clock) -> None:
    with Emulator(profile="milvus-2.6", duration=10, clock=clock) as emulator:
        job_id = create(emulator.url, "a.json", options=TWO_PHASE)
        clock.pass_by(10)
        assert describe(emulator.url, job_id)["state"] == "Completed"


def test_a_job_tells_when_it_was_created(emulator: Emulator) -> None:
    emulator.use_profile(create_time=True)
    assert describe(emulator.url, create(emulator.url, "a.json"))["createTime"].endswith("Z")


@pytest.mark.parametrize(
    ("file_names", "shown"),
    [
        ("sent", "in/a%20b.json"),
        ("bare", "a%20b.json"),
        ("bucket", "a-bucket/in/a%20b.json"),
        ("decoded", "in/a b.json"),
    ],
)
def test_how_names_are_shown(emulator: Emulator, clock: Clock, file_names: str, shown: str) -> None:
    emulator.use_profile(file_names=file_names)
    job_id = create(emulator.url, "in/a%20b.json")
    clock.pass_by(50)
    assert describe(emulator.url, job_id)["details"][0]["fileName"] == f"[{shown}]"
    assert v1_progress(emulator.url, job_id)["fileName"] == shown


def test_errors_with_standard_statuses(emulator: Emulator) -> None:
    emulator.use_profile(standard_statuses=True)
    answer = post(emulator.url, f"{V2}/describe", jobId="7")
    assert (answer.status_code, answer.json()["code"]) == (400, 2100)


def test_zilliz_ids_need_not_be_numbers() -> None:
    with Emulator(profile="zilliz-cloud") as emulator:
        answer = post(emulator.url, f"{V2}/describe", jobId="job-7").json()
        assert "does not exist" in answer["message"]


def test_databases_and_collections_that_do_not_exist() -> None:
    with Emulator(collections=["articles", "archive.articles"]) as emulator:

        def code(path: str, database: str = "", **body: Any) -> int:
            headers = {"DB-Name": database}
            return int(requests.post(emulator.url + path, json=body, headers=headers, timeout=10).json()["code"])

        body: dict[str, Any] = {"files": [["a.json"]], "collectionName": "articles"}
        assert code(f"{V2}/create", **body) == code(f"{V2}/create", "archive", **body) == 0
        assert code(f"{V2}/create", "nowhere", **body) == code(f"{V2}/create", dbName="nowhere", **body) == 800
        assert code(f"{V2}/create", **{**body, "collectionName": "books"}) == 100
        assert code(f"{V2}/list", "nowhere") == 800
        assert code(f"{V2}/list", collectionName="books") == code(REFRESH_LOAD, collectionName="books") == 100
        post(emulator.url, "/emulator/collections", names=["books"])
        assert code(f"{V2}/create", **body) == 100
        emulator.set_collections(None)
        assert code(f"{V2}/create", "nowhere", **body) == 0


def test_refresh_load(emulator: Emulator) -> None:
    assert post(emulator.url, REFRESH_LOAD, collectionName="articles").json() == {"code": 0, "data": {}}
    post(emulator.url, REFRESH_LOAD, collectionName="articles", dbName="archive")
    emulator.answer("refresh_load", 101, "collection not loaded[collection=articles]")
    assert post(emulator.url, REFRESH_LOAD, collectionName="articles").json()["code"] == 101
    emulator.use_profile(refresh_load=False)
    assert post(emulator.url, REFRESH_LOAD, collectionName="articles").status_code == 404
    assert emulator.refresh_loads == ["articles", "archive.articles"]
    assert emulator.requests[REFRESH_LOAD] == 4
    assert get(emulator.url, "/emulator").json()["data"]["refreshLoads"] == emulator.refresh_loads


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({}, 415),
        ({"Content-Type": "application/json", "Host": "evil.example"}, 403),
        ({"Content-Type": "application/json", "Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Content-Type": "application/json", "Host": "10.1.2.3"}, 403),
        ({"Content-Type": "application/json; charset=utf-8", "Host": "localhost:1"}, 200),
        ({"Content-Type": "application/json", "Host": "[::1]:1"}, 200),
    ],
)
def test_no_web_page_drives_it(emulator: Emulator, headers: dict[str, str], status: int) -> None:
    answer = requests.post(f"{emulator.url}/emulator/outage", data=b'{"seconds": 9}', headers=headers, timeout=10)
    assert answer.status_code == status
    assert post(emulator.url, f"{V2}/list").status_code == (503 if status == 200 else 200)


def test_no_web_page_reads_it(emulator: Emulator) -> None:
    assert requests.get(f"{emulator.url}/emulator", headers={"Host": "evil.example"}, timeout=10).status_code == 403
