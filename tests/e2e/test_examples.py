"""The example of write, audit, publish: nobody reads rows before the audit has passed them."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

import pytest

from airflow_provider_importprog.emulator.simulated import ABORT_REASON, rows_of
from tests.e2e.rig import LOGIN, Rig

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("airflow")]

DAG_ID = "write_audit_publish"
GOOD, BAD = ("a.json", "b.json"), ("c.json", "d.json")


@pytest.fixture(scope="module")
def runs(rig: Rig) -> dict[tuple[str, ...], str]:
    """Run it over files as the manifest has them, and over others, of which one has a row less."""
    rig.airflow.add_connection("importprog_default", rig.wire.url, LOGIN, rig.password, api_version="v2")
    manifests = {files: {file: rows_of((file,)) for file in files} for files in (GOOD, BAD)}
    manifests[BAD]["d.json"] += 1
    return {
        files: rig.airflow.trigger(DAG_ID, {"collection": "audited", "manifest": manifest})
        for files, manifest in manifests.items()
    }


def ended(rig: Rig, run_id: str) -> tuple[str, dict[str, str | None], dict[str, Any]]:
    """Return how the run ended, its tasks' states, and its job as the server shows it."""
    state = rig.airflow.wait_for_run(DAG_ID, run_id)
    tasks = {each.task_id: each.state for each in rig.airflow.instances(DAG_ID, run_id)}
    return state, tasks, rig.call("describe", {"jobId": job_id(rig, run_id)})["data"]


def job_id(rig: Rig, run_id: str) -> str:
    return str(rig.airflow.xcoms(DAG_ID, run_id, "write")["job_id"])


def asked(rig: Rig, run_id: str, what: str) -> list[datetime]:
    """Return when the server was asked to commit the run's job, or to abort it."""
    began = time.time() - time.monotonic()
    return [
        datetime.fromtimestamp(began + each.at, timezone.utc)
        for each in rig.wire.asked(job_id(rig, run_id))
        if each.path.endswith(f"/{what}")
    ]


def audited(rig: Rig, run_id: str) -> datetime:
    """Return when the audit had ended."""
    query = "SELECT end_date FROM task_instance WHERE dag_id = :d AND run_id = :r AND task_id = 'audit'"
    moment = rig.airflow.rows(query, d=DAG_ID, r=run_id)[0]["end_date"]
    if isinstance(moment, str):  # SQLite's, in UTC
        moment = datetime.fromisoformat(moment).replace(tzinfo=timezone.utc)
    assert isinstance(moment, datetime)
    return moment


def test_what_matches_is_published_after_the_audit(rig: Rig, runs: dict[tuple[str, ...], str]) -> None:
    run_id = runs[GOOD]

    state, tasks, job = ended(rig, run_id)
    assert state == "success"
    assert tasks == {
        **dict.fromkeys(("manifest", "write", "audit", "publish"), "success"),
        **dict.fromkeys(("drop", "reject"), "skipped"),
    }
    assert rig.airflow.xcoms(DAG_ID, run_id, "write")["import_job"]["state"] == "uncommitted"
    assert audited(rig, run_id) <= min(asked(rig, run_id, "commit"))
    assert asked(rig, run_id, "abort") == []
    assert (job["state"], job["importedRows"]) == ("Completed", sum(rows_of((file,)) for file in GOOD))


def test_what_does_not_match_is_dropped_and_never_committed(rig: Rig, runs: dict[tuple[str, ...], str]) -> None:
    run_id = runs[BAD]

    state, tasks, job = ended(rig, run_id)
    assert state == "failed"
    assert tasks == {
        **dict.fromkeys(("manifest", "write", "audit", "drop"), "success"),
        "publish": "skipped",
        "reject": "failed",
    }
    assert asked(rig, run_id, "commit") == []
    assert audited(rig, run_id) <= min(asked(rig, run_id, "abort"))
    assert (job["state"], job["reason"], job["importedRows"]) == ("Failed", ABORT_REASON, 0)
