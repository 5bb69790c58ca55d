"""The example of a DAG that imports start, and a watcher that is killed before it could write what it told."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.conftest import Rig
from tests.e2e.harness import wait_until

pytestmark = pytest.mark.e2e

DAG = "event_driven"


def submit(rig: Rig, file: str) -> str:
    """Submit an import as somebody who has nothing to do with Airflow."""
    return str(rig.call("create", {"collectionName": "watched", "files": [[file]]})["jobId"])


def told(rig: Rig) -> Counter[str]:
    """Return how many events each job has brought."""
    events = [row["extra"] for row in rig.airflow.rows("SELECT extra FROM asset_event")]
    payloads = [(json.loads(extra) if isinstance(extra, str) else extra).get("payload") for extra in events]
    return Counter(payload["job_id"] for payload in payloads if payload)


def remembered(rig: Rig) -> dict[str, Any] | None:
    """Return what the watcher has written to Airflow's asset state store, or None."""
    rows = rig.airflow.rows("SELECT value FROM asset_state_store WHERE key LIKE 'importprog_ended_%'")
    return json.loads(rows[0]["value"]) if rows else None


def pause(rig: Rig, paused: bool) -> None:
    """Pause the DAG or start it, and have its file read at once: its watcher ends or starts when that is done."""
    rig.airflow.api("PATCH", f"/api/v2/dags/{DAG}", {"is_paused": paused})
    token = rig.airflow.api("GET", f"/api/v2/dags/{DAG}")["file_token"]
    rig.airflow.api("PUT", f"/api/v2/parseDagFile/{quote(token)}")


def test_a_watcher_starts_a_gate_for_each_job_that_ends_and_loses_none(rig: Rig) -> None:
    airflow = rig.airflow
    old = submit(rig, "old.json")
    wait_until("the old job has ended", lambda: rig.state_of(old) == "Completed", 30)
    parsed = "SELECT 1 AS one FROM serialized_dag WHERE dag_id = :d"
    wait_until("the DAG", lambda: bool(airflow.rows(parsed, d=DAG)))
    pause(rig, False)
    wait_until("the first list is remembered", lambda: old in (remembered(rig) or {}))

    verdicts = {submit(rig, "good.json"): "success", submit(rig, "broken.json"): "failed"}
    gates: dict[str, str] = {}

    def gates_ended() -> bool:
        for row in airflow.rows("SELECT run_id, state FROM dag_run WHERE dag_id = :d", d=DAG):
            if row["state"] in ("success", "failed"):
                run = (DAG, row["run_id"])
                assert airflow.instance(*run, "ended").state == "success", airflow.task_log(*run, "ended")
                for index, job in enumerate(airflow.xcoms(*run, "ended")["return_value"]):
                    gates[job] = str(airflow.instance(*run, "job.gate", index).state)
        return gates.keys() == verdicts.keys()

    wait_until("a gate for each job", gates_ended)
    assert gates == verdicts
    wait_until("they are remembered", lambda: verdicts.keys() <= (remembered(rig) or {}).keys())

    late = submit(rig, "late.json")
    wait_until("the event", lambda: told(rig)[late] == 1)
    killed = airflow.kill_component("triggerer")
    assert late not in (remembered(rig) or {})
    wait_until("what the triggerer started ends", lambda: not any(each.is_running() for each in killed), 60)
    airflow.start_component("triggerer")
    wait_until("the event again", lambda: told(rig)[late] == 2)
    wait_until("it is remembered", lambda: late in (remembered(rig) or {}))
    assert told(rig) == {**dict.fromkeys(verdicts, 1), late: 2}
    pause(rig, True)
    wait_until("the watcher ends", lambda: not airflow.rows("SELECT id FROM trigger"))
