"""The few requests that the emulator's tests make."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import requests

V1 = "/v1/vector/collections/import"
V2 = "/v2/vectordb/jobs/import"
TIMEOUT = 30


def get(url: str, path: str, token: str | None = None, **params: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(url + path, params=params, headers=headers, timeout=TIMEOUT)


def post(url: str, path: str, token: str | None = None, **body: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.post(url + path, json=body, headers=headers, timeout=TIMEOUT)


def create(url: str, *files: str, collection: str = "articles", **more: Any) -> str:
    answer = post(url, f"{V2}/create", collectionName=collection, files=[[file] for file in files], **more)
    assert answer.json()["code"] == 0, answer.text
    job_id = answer.json()["data"]["jobId"]
    assert isinstance(job_id, str)
    return job_id


def describe(url: str, job_id: str) -> dict[str, Any]:
    answer = post(url, f"{V2}/describe", jobId=job_id).json()
    assert answer["code"] == 0, answer
    data: dict[str, Any] = answer["data"]
    return data


def v1_progress(url: str, job_id: str) -> dict[str, Any]:
    answer = get(url, f"{V1}/get", jobId=job_id).json()
    assert answer["code"] == 200, answer
    data: dict[str, Any] = answer["data"]
    return data


def count(url: str, collection: str) -> int:
    """Rows that a query sees (lite)."""
    answer = post(url, "/v2/vectordb/entities/query", collectionName=collection, outputFields=["count(*)"]).json()
    assert answer["code"] == 0, answer
    return int(answer["data"][0]["count(*)"])


def wait(
    url: str, job_id: str, seconds: float = 60, states: Collection[str] = ("Completed", "Failed")
) -> dict[str, Any]:
    """The job once it has ended, or is in one of some states."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = describe(url, job_id)
        if job["state"] in states:
            return job
        time.sleep(0.05)
    raise AssertionError(f"job {job_id} was not {states} in {seconds} s")
