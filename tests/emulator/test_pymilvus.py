"""pymilvus's own client of the v2 API, unchanged."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_provider_importprog.emulator import Emulator

bulk_writer: Any = pytest.importorskip("pymilvus.bulk_writer.bulk_import")


def finished(url: str, job_id: str, api_key: str = "") -> dict[str, Any]:
    for _ in range(300):
        answer = bulk_writer.get_import_progress(url, job_id, api_key=api_key).json()
        data: dict[str, Any] = answer["data"]
        if data["state"] in ("Completed", "Failed"):
            return data
        time.sleep(0.1)
    raise AssertionError("the job did not end")


def test_with_simulated_jobs() -> None:
    with Emulator(duration=0.2, token="root:Milvus") as emulator:
        answer = bulk_writer.bulk_import(
            emulator.url, "articles", files=[["a.parquet"], ["b.parquet"]], api_key="root:Milvus"
        )
        job_id = answer.json()["data"]["jobId"]
        assert finished(emulator.url, job_id, "root:Milvus")["progress"] == 100
        cloud = bulk_writer.bulk_import(
            emulator.url,
            "articles",
            object_urls=[["s3://b/a.parquet"]],
            cluster_id="in01",
            api_key="root:Milvus",
        )
        listed = bulk_writer.list_import_jobs(emulator.url, "articles", api_key="root:Milvus").json()
        assert [record["jobId"] for record in listed["data"]["records"]] == [
            job_id,
            cloud.json()["data"]["jobId"],
        ]
        with pytest.raises(Exception, match="401"):
            bulk_writer.list_import_jobs(emulator.url, api_key="root:wrong")
        with pytest.raises(Exception, match="import job does not exist"):
            bulk_writer.get_import_progress(emulator.url, "7", api_key="root:Milvus")
