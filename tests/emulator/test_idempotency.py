"""The header `Idempotency-Key`, with which a client may ask twice and import once."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import requests

from airflow_provider_importprog.emulator import Emulator
from tests.emulator.client import V1, V2, get


def create(
    emulator: Emulator, key: str | bytes, path: str = f"{V2}/create", timeout: float = 30, **body: Any
) -> dict[str, Any]:
    body = {"collectionName": "articles", "files": [["a.json"]], **body}
    answer = requests.post(emulator.url + path, json=body, headers={"Idempotency-Key": key}, timeout=timeout)
    found: dict[str, Any] = answer.json()
    return found


def test_the_same_key_gives_the_same_job(emulator: Emulator) -> None:
    first = create(emulator, "k")
    # Milvus does not compare the two requests.
    assert create(emulator, "k") == create(emulator, "k", files=[["b.json"]]) == first
    shown = get(emulator.url, "/emulator").json()["data"]
    assert shown["createRequests"] == 3
    assert [job["jobId"] for job in shown["jobs"]] == [first["data"]["jobId"]]


def test_a_key_is_scoped_to_its_collection(emulator: Emulator) -> None:
    answers = [create(emulator, "k"), create(emulator, "l"), create(emulator, "k", collectionName="other")]
    answers += [create(emulator, "k", dbName="other"), create(emulator, ""), create(emulator, "")]
    assert len({answer["data"]["jobId"] for answer in answers}) == 6


def test_a_key_outlives_its_job(emulator: Emulator) -> None:
    job_id = create(emulator, "k")["data"]["jobId"]
    emulator.abort(job_id)
    assert create(emulator, "k")["data"]["jobId"] == job_id
    emulator.forget(job_id)
    assert create(emulator, "k")["data"]["jobId"] == job_id


@pytest.mark.parametrize("key", ["k" * 257, "a\tb", "schlüssel".encode(), "schlüssel".encode("latin-1")])
def test_a_key_that_milvus_refuses(emulator: Emulator, key: str | bytes) -> None:
    answer = create(emulator, key)
    assert answer["code"] == 1100
    assert "printable ASCII" in answer["message"]
    assert get(emulator.url, "/emulator").json()["data"]["jobs"] == []
    assert create(emulator, "k" * 256)["code"] == 0


def test_an_older_server_ignores_keys() -> None:
    with Emulator(idempotency=False) as emulator:
        answers = [create(emulator, key) for key in ("k", "k", "k" * 257)]
        assert len({answer["data"]["jobId"] for answer in answers}) == 3
        assert get(emulator.url, "/emulator").json()["data"]["idempotency"] is False


def test_v1_ignores_keys(emulator: Emulator) -> None:
    answers = [create(emulator, "k", path=V1, objectUrl="s3://bucket/a.json") for _ in range(2)]
    assert len({answer["data"]["jobId"] for answer in answers}) == 2


def test_an_answer_that_comes_too_late(emulator: Emulator) -> None:
    emulator.outage(30, "silent")
    with pytest.raises(requests.ReadTimeout):
        create(emulator, "k", timeout=0.2)
    jobs: list[dict[str, str]] = []
    while not jobs:
        jobs = get(emulator.url, "/emulator").json()["data"]["jobs"]
    emulator.restore()
    assert [create(emulator, "k")["data"]["jobId"]] == [job["jobId"] for job in jobs]


def test_an_answer_that_never_comes_is_not_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    with Emulator() as emulator:
        emulator.outage(30, "silent")
        with pytest.raises(requests.ReadTimeout):
            create(emulator, "k", timeout=0.2)
        while not get(emulator.url, "/emulator").json()["data"]["jobs"]:
            pass
    gc.collect()
    assert "Task was destroyed" not in caplog.text
