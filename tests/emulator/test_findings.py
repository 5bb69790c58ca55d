"""Where the look for an earlier try's job stands in the way of the key that would settle it. Both fail today."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from airflow_provider_importprog.emulator import Emulator, server
from airflow_provider_importprog.hooks.import_progress import ImportProgressHook
from airflow_provider_importprog.submission import Submission, new_import_job


@pytest.fixture
def hook(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> ImportProgressHook:
    connection = {"conn_type": "importprog", "host": emulator.url, "extra": {"api_version": "v2"}}
    monkeypatch.setenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT", json.dumps(connection))
    return ImportProgressHook()


def second_try(hook: ImportProgressHook, key: str) -> str:
    new = new_import_job(collection_name="c", files=["a.json"], idempotency_key=key)
    log: Any = logging.getLogger(__name__)
    return Submission(hook, new, None, log=log, try_number=2, sleep=lambda _: None).run()


def test_the_key_tells_runs_with_the_same_files_apart(hook: ImportProgressHook) -> None:
    jobs = {key: hook.create_import_job("c", files=["a.json"], idempotency_key=key) for key in ("run-1", "run-2")}
    assert {key: second_try(hook, key) for key in jobs} == jobs  # ImportJobAmbiguous, not retried


def test_the_key_finds_a_job_that_shows_no_files_yet(hook: ImportProgressHook, monkeypatch: pytest.MonkeyPatch) -> None:
    # Milvus lists a job's files only once it imports: not while it is Pending or PreImporting, however long it queues.
    shown = server.v2_job
    monkeypatch.setattr(server, "v2_job", lambda job: {**shown(job), "details": []})
    job = hook.create_import_job("c", files=["a.json"], idempotency_key="run-1")
    assert second_try(hook, "run-1") == job  # ImportApiUnreachable at every try
