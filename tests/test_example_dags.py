"""The example DAGs through ``dag.test()``, over the simulated emulator: on every supported Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests

from airflow_provider_importprog.emulator import Emulator
from airflow_provider_importprog.emulator.simulated import rows_of

AIRFLOW_2 = version("apache-airflow").startswith("2.")
ROOT = Path(__file__).parents[1]
GOOD, BROKEN = ["a.json", "b.json"], ["a.json", "broken.json"]
MANIFEST = {file: rows_of((file,)) for file in GOOD}
CONFS: dict[str, tuple[str, dict[str, Any]]] = {
    "good": ("import_and_gate", {"files": GOOD}),
    "broken": ("import_and_gate", {"files": BROKEN}),
    "publish": ("write_audit_publish", {"manifest": MANIFEST}),
    "drop": ("write_audit_publish", {"manifest": {**MANIFEST, "a.json": 0}}),
}
ENDS = {
    "good": ("success", {"gate": "success", "process": "success", "count_rows": "success", "quarantine": "skipped"}),
    "broken": ("failed", {"gate": "failed", "count_rows": "upstream_failed", "quarantine": "success"}),
    "publish": ("success", {"publish": "success", "drop": "skipped", "reject": "skipped"}),
    "drop": ("failed", {"publish": "skipped", "drop": "success", "reject": "failed"}),
}
if not AIRFLOW_2:
    # Nothing has ended: tests/e2e/test_import_ended.py runs it with events.
    CONFS["event_driven"] = ("event_driven", {})
    ENDS["event_driven"] = ("success", {"ended": "success", "job.gate": "skipped"})


def test_the_examples_end_as_they_say(tmp_path: Path) -> None:
    with Emulator(duration=1, partial_success=True, fail_files={"*broken*": "bad"}) as emulator:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        connection = {"conn_type": "importprog", "host": emulator.url}
        env = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW_CONN_IMPORTPROG_DEFAULT": json.dumps({**connection, "extra": {"api_version": "v2"}}),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        for command in (["airflow", "db", "migrate"], [sys.executable, "-m", "tests.test_example_dags"]):
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        shown = requests.get(f"{emulator.url}/emulator", timeout=30).json()["data"]["jobs"]

    ends = json.loads(done.stdout.splitlines()[-1])
    for name, (state, tasks) in ENDS.items():
        found = ends[name]["tasks"]
        assert (ends[name]["state"], {task: found.get(task) for task in tasks}) == (state, tasks), (
            done.stdout + done.stderr
        )
    assert sorted(job["state"] for job in shown) == [*["Completed"] * 3, "Failed"], "the dropped one is aborted"


def _run(dag_id: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Run a DAG, and return its state and those of its tasks."""
    from importlib import import_module

    dag = getattr(import_module(f"example_dags.{dag_id}"), dag_id)()
    for each in dag.tasks:
        if hasattr(each, "poke_interval"):
            each.poke_interval = 1  # there is no scheduler to overtake
    run = dag.test(run_conf=conf)
    return {"state": str(run.state), "tasks": {each.task_id: str(each.state) for each in run.get_task_instances()}}


if __name__ == "__main__":
    print("\n" + json.dumps({name: _run(*conf) for name, conf in CONFS.items()}))  # noqa: T201
