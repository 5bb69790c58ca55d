"""A real Milvus's own imports, reasons and restart, behind the emulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_importprog.emulator import Emulator
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.embedded_milvus.backend import MilvusBackend
from tests.emulator.client import V1, V2, create, post, v1_progress, wait

pytestmark = pytest.mark.milvus


def rows_counted(client: Any, collection: str) -> int:
    return int(client.get_collection_stats(collection)["row_count"])


def test_every_row_is_in(
    milvus_emulator: Emulator, milvus_client: Any, milvus_collection: str, rows_file: Callable[..., str]
) -> None:
    files = [rows_file("a.json", 3000), rows_file("b.json", 2000)]
    job = wait(milvus_emulator.url, create(milvus_emulator.url, *files, collection=milvus_collection))
    assert (job["state"], job["progress"]) == ("Completed", 100)
    assert [(file["fileName"], file["importedRows"]) for file in job["details"]] == [
        (f"[{files[0]}]", 3000),
        (f"[{files[1]}]", 2000),
    ]
    assert job["fileSize"] == sum(Path(file).stat().st_size for file in files)
    assert job["completeTime"] == max(file["completeTime"] for file in job["details"])
    assert rows_counted(milvus_client, milvus_collection) == job["importedRows"] == 5000


def test_files_fail_for_milvuss_own_reasons(
    milvus_emulator: Emulator, milvus_client: Any, milvus_collection: str, rows_file: Callable[..., str]
) -> None:
    good, wrong = rows_file("good.json", 1000), rows_file("wrong.json", 10, dim=4)
    missing = str(Path(good).with_name("missing.json"))
    job_id = create(milvus_emulator.url, good, wrong, missing, collection=milvus_collection)
    job = wait(milvus_emulator.url, job_id)
    assert job["state"] == "Failed"
    assert [file["state"] for file in job["details"]] == ["Completed", "Failed", "Failed"]
    assert "array size 4 doesn't equal to vector dimension 8" in job["details"][1]["reason"]
    assert "no such file or directory" in job["details"][2]["reason"]
    assert job["reason"] == job["details"][1]["reason"]
    assert rows_counted(milvus_client, milvus_collection) == 1000
    assert v1_progress(milvus_emulator.url, job_id)["errorMessage"] == job["reason"]


def test_a_numpy_set_is_one_entry_and_v1_takes_a_file_url(
    milvus_emulator: Emulator, milvus_collection: str, tmp_path: Path, rows_file: Callable[..., str]
) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.save(tmp_path / "id.npy", numpy.arange(500))
    numpy.save(tmp_path / "vector.npy", numpy.random.rand(500, 8).astype("float32"))
    files = [[str(tmp_path / "id.npy"), str(tmp_path / "vector.npy")]]
    url, object_url = milvus_emulator.url, Path(rows_file("a.json", 100)).as_uri()
    answer = post(url, f"{V2}/create", collectionName=milvus_collection, files=files).json()
    old = post(url, V1, collectionName=milvus_collection, objectUrl=object_url).json()
    job = wait(url, answer["data"]["jobId"])
    assert (job["state"], job["importedRows"], len(job["details"])) == ("Completed", 500, 1), job
    wait(url, old["data"]["jobId"])
    assert v1_progress(url, old["data"]["jobId"])["details"][0]["fileName"] == object_url


def test_a_gate_waits_while_milvus_is_killed_and_starts_again(
    milvus_emulator: Emulator,
    milvus_client: Any,
    milvus_collection: str,
    rows_file: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, backend = milvus_emulator.url, milvus_emulator._backend
    assert isinstance(backend, MilvusBackend)
    connection = {"conn_type": "importprog", "host": url, "extra": {"api_version": "v2"}}
    monkeypatch.setenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT", json.dumps(connection))
    done = wait(url, create(url, rows_file("a.json", 1000), collection=milvus_collection))
    job_id = create(url, rows_file("b.json", 20_000), collection=milvus_collection)
    backend.server.kill()

    async def killed_and_started() -> str:
        trigger = ImportProgressTrigger(job_id, poke_interval=0.1, outage_tolerance=300)
        event = asyncio.ensure_future(anext(trigger.run()))
        before = milvus_emulator.requests[f"{V2}/describe"]
        while milvus_emulator.requests[f"{V2}/describe"] < before + 3:  # noqa: ASYNC110 (a server of another thread)
            await asyncio.sleep(0.05)
        assert not event.done()
        await asyncio.to_thread(backend.restart)
        return str((await asyncio.wait_for(event, 120)).payload["verdict"])

    verdict = asyncio.run(killed_and_started())
    job = wait(url, job_id)
    # Milvus decides whether an import survives; the gate says the same, and what was imported before is there.
    assert (verdict, job["state"]) in (("open", "Completed"), ("job_failed", "Failed"))
    assert rows_counted(milvus_client, milvus_collection) == done["importedRows"] + job["importedRows"]
