"""Whatever a server answers: an import job, or one of the provider's own errors, and nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook, ImportProgressHook
from tests.blackbox.server import DONE_AT, JOB, V1_GET, V2_DESCRIBE, Answer, ScriptedServer

FEW = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=8)
    | st.sampled_from([10**30, 2**63, "Unknown type", "\0", "\ud800", "9" * 5000, JOB, DONE_AT, "0001-01-01T00:00+23"])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
STATES = ["Pending", "PreImporting", "Importing", "Uncommitted", "Committing", "Completed", "Failed", "Else"]
COUNTS = ("fileSize", "readyPercentage", "progress", "importedRows", "totalRows")
OPTIONAL = dict.fromkeys(("collectionName", "fileName", "reason", *COUNTS), JSON)
TIME = st.sampled_from([None, DONE_AT, "Unknown type", "", "2024-05-18T03:00:22+25:00"]) | JSON
FILE = st.fixed_dictionaries(
    {}, optional={**OPTIONAL, "completeTime": TIME, "errorMessage": TIME, "state": st.sampled_from(STATES) | JSON}
)
DATA = st.fixed_dictionaries(
    {},
    optional={
        **OPTIONAL,
        "jobId": st.just(JOB) | JSON,
        "state": st.sampled_from(STATES) | JSON,
        "completeTime": TIME,
        "errorMessage": TIME,
        "details": st.lists(FILE, max_size=2) | JSON,
    },
)
BODY = st.fixed_dictionaries(
    {"code": st.sampled_from([0, 200]) | JSON}, optional={"data": DATA | JSON, "message": JSON}
).map(lambda body: json.dumps(body).encode()) | JSON.map(lambda body: json.dumps(body).encode())
STATUS = st.sampled_from([200] * 6 + [201, 204, 302, 304, 400, 401, 403, 404, 409, 500, 501])


@pytest.fixture(scope="module")
def anything() -> Iterator[ScriptedServer]:
    one = ScriptedServer()
    logging.disable(logging.WARNING)
    yield one
    logging.disable(logging.NOTSET)
    one.close()


def null(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "null", "unknown type"))


def oracle(version: str, body: bytes) -> str | None:
    """Say from the page of facts alone whether this answer may read as completed."""
    data = json.loads(body)["data"]
    if version == "v2":
        return "completed" if data["state"] == "Completed" else None
    if not null(data.get("errorMessage")):
        return None
    if "completeTime" in data:
        return None if null(data["completeTime"]) else "completed"
    ready = data.get("readyPercentage")
    return "completed" if float(ready) >= 100 else None


def check(version: str, body: bytes, ask: Any) -> None:
    try:
        job = ask()
    except AirflowException as error:
        str(error).encode()
        return
    plain = job.to_dict()
    text = json.dumps(plain, allow_nan=False, ensure_ascii=False)
    text.encode()
    assert "\\u0000" not in text
    _check_numbers(plain)
    assert job.job_id == JOB
    assert 0 <= job.progress <= 100
    if job.state == "completed":
        assert oracle(version, body) == "completed"


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            _check_numbers(one)
    if isinstance(value, int):
        assert abs(value) < 2**63


def hooks(version: str, server: ScriptedServer) -> None:
    extra = {"api_version": version, "max_requests_per_second": 100000, "timeout": 5}
    connection = {"conn_type": "importprog", "host": server.url, "extra": extra}
    os.environ["AIRFLOW_CONN_ANYTHING"] = json.dumps(connection)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_any_answer_blocking(anything: ScriptedServer, version: str) -> None:
    hooks(version, anything)
    hook = ImportProgressHook("anything")

    @FEW
    @given(BODY | st.binary(max_size=20), STATUS)
    def ask(body: bytes, status: int) -> None:
        if status in (204, 304):
            body = b""
        anything.on(V1_GET, Answer(body, status)).on(V2_DESCRIBE, Answer(body, status))
        check(version, body, lambda: hook.get_import_progress(JOB))

    ask()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_any_answer_async(anything: ScriptedServer, version: str) -> None:
    hooks(version, anything)
    loop = asyncio.new_event_loop()
    hook = ImportProgressAsyncHook("anything")
    loop.run_until_complete(hook.__aenter__())

    @FEW
    @given(BODY | st.binary(max_size=20), STATUS)
    def ask(body: bytes, status: int) -> None:
        if status in (204, 304):
            body = b""
        anything.on(V1_GET, Answer(body, status)).on(V2_DESCRIBE, Answer(body, status))
        check(version, body, lambda: loop.run_until_complete(hook.get_import_progress(JOB)))

    try:
        ask()
    finally:
        loop.run_until_complete(hook.__aexit__(None, None, None))
        loop.close()
        del os.environ["AIRFLOW_CONN_ANYTHING"]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "value", ["-1", "0.5", "junk", "", "Fri, 99 Foo", "(", '"', "\xff", "1" * 500, "Mon, 1 Jan 0000 00:00:00 +9999"]
)
def test_any_retry_after(anything: ScriptedServer, kind: str, value: str) -> None:
    hooks("v2", anything)
    anything.on(V2_DESCRIBE, Answer(b"{}", 500, {"Retry-After": value}))

    def ask() -> Any:
        if kind == "sync":
            return ImportProgressHook("anything").get_import_progress(JOB)
        return asyncio.run(ImportProgressAsyncHook("anything").get_import_progress(JOB))

    with pytest.raises(AirflowException):
        ask()
