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
    "mapped": ("mapped_gates", {"imports": {"articles": GOOD, "authors": BROKEN}}),
    "zilliz": ("zilliz_cloud", {}),
    "repaired": ("quarantine_and_reimport", {"files": ["incoming/1.json", "incoming/bad.json"]}),
    "nothing to repair": ("quarantine_and_reimport", {"files": ["incoming/1.json"]}),
    "swing": ("swing_alias", {}),
}
ENDS = {
    "good": ("success", {"gate": "success", "process": "success", "count_rows": "success", "quarantine": "skipped"}),
    "broken": ("failed", {"gate": "failed", "count_rows": "upstream_failed", "quarantine": "success"}),
    "publish": ("success", {"publish": "success", "drop": "skipped", "reject": "skipped"}),
    "drop": ("failed", {"publish": "skipped", "drop": "success", "reject": "failed"}),
    "mapped": ("success", {"gate": "success, failed", "report": "success"}),
    "zilliz": ("success", {"load": "success", "report": "success"}),
    "repaired": ("success", {"load": "success", "quarantine": "success", "again": "success", "done": "success"}),
    "nothing to repair": ("success", {"quarantine": "skipped", "again": "skipped", "done": "success"}),
    "swing": ("success", {"load": "success", "swing": "success"}),
}
if not AIRFLOW_2:
    # Nothing has ended: tests/e2e/test_import_ended.py runs it with events.
    CONFS["event_driven"] = ("event_driven", {})
    ENDS["event_driven"] = ("success", {"ended": "success", "job.gate": "skipped"})


def test_the_examples_end_as_they_say(tmp_path: Path) -> None:
    fail_files = {"*broken*": "bad", "incoming/bad*": "bad"}
    with Emulator(duration=0.5, partial_success=True, fail_files=fail_files) as emulator:
        alias = {"aliasName": "articles", "collectionName": "articles_20261124"}
        requests.post(f"{emulator.url}/v2/vectordb/aliases/create", json=alias, timeout=30)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        connection = {"conn_type": "importprog", "host": emulator.url}
        env = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW_CONN_IMPORTPROG_DEFAULT": json.dumps({**connection, "extra": {"api_version": "v2"}}),
            "AIRFLOW_CONN_ARTICLES_BUCKET": json.dumps({"conn_type": "aws", "login": "a-key", "password": "a-secret"}),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        for command in (["airflow", "db", "migrate"], [sys.executable, "-m", "tests.test_example_dags"]):
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        shown = requests.get(f"{emulator.url}/emulator", timeout=30).json()["data"]

    ends = json.loads(done.stdout.splitlines()[-1])
    for name, (state, tasks) in ENDS.items():
        found = ends[name]["tasks"]
        assert (ends[name]["state"], {task: found.get(task) for task in tasks}) == (state, tasks), (
            done.stdout + done.stderr
        )
    assert [job["state"] for job in shown["jobs"]].count("Failed") == 1, "the dropped one is aborted"
    assert shown["refreshLoads"] == ["articles_20261125"]
    assert shown["aliases"] == {"articles": "articles_20261125"}


def _run(dag_id: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Run a DAG, and return its state and those of its tasks."""
    from importlib import import_module

    dag = getattr(import_module(f"example_dags.{dag_id}"), dag_id)()
    for each in dag.tasks:  # there is no scheduler to overtake
        if hasattr(each, "poke_interval"):
            each.poke_interval = 0.3
        elif "poke_interval" in getattr(each, "partial_kwargs", {}):
            each.partial_kwargs["poke_interval"] = 0.3
    run = dag.test(run_conf=conf)
    tasks: dict[str, list[str]] = {}
    for each in sorted(run.get_task_instances(), key=lambda each: each.map_index):
        tasks.setdefault(each.task_id, []).append(str(each.state))
    # Of mapped tasks, each state once.
    return {
        "state": str(run.state),
        "tasks": {name: ", ".join(dict.fromkeys(states)) for name, states in tasks.items()},
    }


if __name__ == "__main__":
    print("\n" + json.dumps({name: _run(*conf) for name, conf in CONFS.items()}))  # noqa: T201
