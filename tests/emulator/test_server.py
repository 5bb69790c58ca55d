from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from airflow_provider_importprog.emulator import Emulator, EmulatorError
from tests.emulator.client import V1, V2, create, describe, get, post
from tests.emulator.fixtures import Clock

TOKEN = "root:s3cret"


@pytest.mark.parametrize(
    ("path", "body", "code", "message"),
    [
        (f"{V2}/describe", b"", 1801, "json"),
        (f"{V2}/describe", b"[]", 1801, "json"),
        (f"{V2}/describe", b"\xff", 1801, "json"),
        (f"{V2}/describe", b"{}", 1802, "jobId"),
        (f"{V2}/describe", b'{"jobId": 7}', 1801, "jobId"),
        (f"{V2}/describe", b'{"jobId": "7"}', 2100, "import job does not exist, jobID=7"),
        (f"{V2}/commit", b'{"jobId": "7"}', 2100, "import job does not exist, jobID=7"),
        (f"{V2}/describe", b'{"jobId": "job-7"}', 2100, "parse job id failed, err=%w strconv.ParseInt"),
        (f"{V2}/describe", b'{"jobId": "9223372036854775808"}', 2100, "out of range"),
        (f"{V2}/commit", b'{"jobId": "job-7"}', 1100, "strconv.ParseInt"),
        (f"{V2}/abort", b'{"jobId": ""}', 1802, "jobId"),
        (f"{V2}/abort", b'{"jobId": "None"}', 1100, "strconv.ParseInt"),
        (f"{V2}/create", b'{"files": [["a"]]}', 1802, "collectionName"),
        (f"{V2}/create", b'{"collectionName": "c"}', 1802, "files"),
        (f"{V2}/create", b'{"collectionName": "c", "files": ["a"]}', 1801, "list of lists"),
        (f"{V2}/create", b'{"collectionName": "c", "files": [[]]}', 1801, "list of lists"),
        (
            f"{V2}/create",
            b'{"collectionName": "c", "files": [["a"]], "options": {"auto_commit": false}}',
            1801,
            "options",
        ),
        (V1, b'{"collectionName": "c", "files": [["a"]]}', 1802, "objectUrl"),
        ("/emulator/outage", b"{}", 1100, "seconds"),
        ("/emulator/outage", b'{"seconds": 1, "kind": "flood"}', 1100, "flood"),
        ("/emulator/rate_limit", b"{}", 1100, "would never end"),
        ("/emulator/forget", b'{"jobId": "7"}', 2100, "does not exist"),
        ("/emulator/time_out", b'{"call": "guess"}', 1100, "guess"),
        ("/emulator/answer", b'{"call": "list", "code": 4, "status": 99}', 1100, "99"),
        ("/emulator/profile", b'{"profile": "milvus-1"}', 1100, "milvus-1"),
        ("/emulator/profile", b'{"colour": "red"}', 1100, "colour"),
        ("/emulator/profile", b'{"string_code": "yes"}', 1100, "string_code"),
        ("/emulator/profile", b'{"profile": 7}', 1100, "7"),
        ("/emulator/profile", b'{"dialects": [["v1"]]}', 1100, "dialects"),
        ("/emulator/collections", b'{"names": "articles"}', 1100, "names"),
    ],
)
def test_what_is_wrong_with_a_request(emulator: Emulator, path: str, body: bytes, code: int, message: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = requests.post(emulator.url + path, data=body, headers=headers, timeout=10)
    assert answer.status_code == 200
    assert answer.json()["code"] == code
    assert message in answer.json()["message"]


@pytest.mark.parametrize(
    ("query", "code"),
    [("get", 1802), ("get?jobId=7", 2100), ("list?pageSize=x", 1100), ("list?currentPage=0", 1100)],
)
def test_what_is_wrong_with_a_v1_request(emulator: Emulator, query: str, code: int) -> None:
    answer = get(emulator.url, f"{V1}/{query}")
    assert (answer.status_code, answer.json()["code"]) == (200, code)


@pytest.mark.parametrize("source", ["files", "objectUrls", "dataPaths"])
def test_every_source_of_files(emulator: Emulator, clock: Clock, source: str) -> None:
    body: dict[str, Any] = {"collectionName": "c", source: [["x.npy", "y.npy"]]}
    job_id = post(emulator.url, f"{V2}/create", **body).json()["data"]["jobId"]
    clock.pass_by(50)
    assert [file["fileName"] for file in describe(emulator.url, job_id)["details"]] == ["[x.npy y.npy]"]


def test_an_unknown_route_is_not_json(emulator: Emulator) -> None:
    for answer in (get(emulator.url, "/v3/import"), get(emulator.url, f"{V2}/describe")):
        assert answer.status_code == 404
        assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(("dialect", "v1", "v2"), [("v1", 200, 404), ("v2", 404, 200)])
def test_one_dialect_only(dialect: str, v1: int, v2: int) -> None:
    with Emulator(dialects=(dialect,), token=TOKEN) as emulator:
        assert get(emulator.url, f"{V1}/get", TOKEN, jobId="7").status_code == v1
        assert post(emulator.url, f"{V2}/describe", TOKEN, jobId="7").status_code == v2


def test_the_token_is_needed_everywhere() -> None:
    with Emulator(token=TOKEN) as emulator:
        assert TOKEN not in repr(emulator)
        for wrong in (None, "root:wrong", TOKEN + "x", "ü"):
            for answer in (
                get(emulator.url, f"{V1}/list", wrong and wrong.encode().decode("latin-1")),
                post(emulator.url, f"{V2}/list", wrong and wrong.encode().decode("latin-1")),
                get(emulator.url, "/emulator", wrong and wrong.encode().decode("latin-1")),
            ):
                assert answer.status_code == 401
                assert answer.json()["code"] == 1800
                assert "s3cret" not in answer.text
        assert get(emulator.url, f"{V1}/list", TOKEN).status_code == 200
        assert get(emulator.url, "/emulator", TOKEN).status_code == 200


def test_an_outage(emulator: Emulator, clock: Clock) -> None:
    emulator.outage(30)
    answer = post(emulator.url, f"{V2}/list")
    assert answer.status_code == 503
    clock.pass_by(30)
    assert post(emulator.url, f"{V2}/list").status_code == 200


def test_an_outage_behind_a_proxy(emulator: Emulator) -> None:
    emulator.outage(30, "html")
    answer = get(emulator.url, f"{V1}/list")
    assert answer.status_code == 502
    assert answer.headers["Content-Type"].startswith("text/html")
    emulator.restore()
    assert get(emulator.url, f"{V1}/list").status_code == 200


def test_an_outage_that_hangs_up(emulator: Emulator) -> None:
    post(emulator.url, "/emulator/outage", seconds=30, kind="drop")
    with pytest.raises(requests.ConnectionError):
        get(emulator.url, f"{V1}/list")
    assert get(emulator.url, "/emulator").status_code == 200
    assert post(emulator.url, "/emulator/restore").json()["code"] == 0
    assert get(emulator.url, f"{V1}/list").status_code == 200


def test_an_outage_that_is_silent_until_it_is_over(emulator: Emulator, clock: Clock) -> None:
    post(emulator.url, "/emulator/outage", seconds=30, kind="silent")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(create, emulator.url, "a.json")
        jobs: list[dict[str, str]] = []
        while not jobs:
            jobs = get(emulator.url, "/emulator").json()["data"]["jobs"]
            assert not answer.done()
        assert describe(emulator.url, jobs[0]["jobId"])["state"] == "Pending"
        clock.pass_by(30)
        assert [answer.result(10)] == [job["jobId"] for job in jobs]


def test_an_alias_is_created_and_then_altered(emulator: Emulator) -> None:
    emulator.set_collections(["old", "new"])

    def said(call: str, collection: str, **more: str) -> int:
        body = {"aliasName": "readers", "collectionName": collection, **more}
        return int(post(emulator.url, f"/v2/vectordb/aliases/{call}", **body).json()["code"])

    assert (said("alter", "new"), said("create", "old"), said("alter", "gone"), said("alter", "new")) == (
        1600,
        0,
        100,
        0,
    )
    assert said("create", "new", dbName="sales") == 800
    assert emulator.aliases == {"readers": "new"}


def test_a_rate_limit(emulator: Emulator, clock: Clock) -> None:
    emulator.rate_limit(requests=2, retry_after=3)
    answers = [get(emulator.url, f"{V1}/list") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "3"
    assert answers[0].json()["code"] == 1807
    post(emulator.url, "/emulator/rate_limit", seconds=5)
    assert get(emulator.url, f"{V1}/list").status_code == 429
    clock.pass_by(5)
    assert get(emulator.url, f"{V1}/list").status_code == 200


def test_controls_over_http(emulator: Emulator, clock: Clock) -> None:
    post(emulator.url, "/emulator/fail_file", pattern="*.csv", reason="no CSV here")
    job_id = create(emulator.url, "a.csv")
    clock.pass_by(100)
    shown = get(emulator.url, "/emulator").json()["data"]
    assert shown["backend"] == "simulated"
    assert shown["jobs"][0]["reason"].endswith("no CSV here")
    post(emulator.url, "/emulator/forget", jobId=job_id)
    assert get(emulator.url, "/emulator").json()["data"]["jobs"] == []


def test_nothing_is_left_behind() -> None:
    before = threading.active_count()
    emulator = Emulator()
    with emulator:
        url = emulator.url
        get(url, f"{V1}/list")
        with pytest.raises(RuntimeError, match="already running"):
            emulator.start()
    emulator.stop()
    with pytest.raises(requests.ConnectionError):
        get(url, f"{V1}/list")
    assert threading.active_count() == before


def test_it_can_start_again() -> None:
    emulator = Emulator()
    for _ in range(2):
        with emulator:
            assert get(emulator.url, f"{V1}/list").status_code == 200


def test_a_port_that_is_taken(emulator: Emulator) -> None:
    port = int(emulator.url.rsplit(":", 1)[1])
    with pytest.raises(EmulatorError, match=f"port {port}"), Emulator(port=port):
        pass
