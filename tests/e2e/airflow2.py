"""Airflow 2.11 for the tests that run on it: no API server and no DAG processor of its own, but a command line."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Mapping
from threading import Lock
from typing import Any

from tests.e2e.harness import Airflow, HarnessError, wait_until

CONSOLE = """
import json, sys
from airflow.api.common.trigger_dag import trigger_dag
from airflow.models import DagModel
for line in sys.stdin:
    run = json.loads(line)
    DagModel.get_dagmodel(run["dag_id"]).set_is_paused(False)
    trigger_dag(**run, replace_microseconds=False)
"""


class Airflow2(Airflow):
    """As `Airflow`, as far as the tests need it. Its LocalExecutor needs PostgreSQL."""

    def start(self, *names: str) -> None:
        super().start(*names or ("scheduler", "triggerer"))
        # A command for each run would take longer than the run.
        self._lock = Lock()
        self._console = subprocess.Popen(
            (sys.executable, "-c", CONSOLE), env=self._env, cwd=self.home, stdin=subprocess.PIPE, text=True
        )

    def stop(self) -> None:
        if hasattr(self, "_console"):
            self._console.kill()
        super().stop()

    def add_connection(self, connection_id: str, host: str, login: str, password: str, **extra: Any) -> None:
        connection = {"conn_type": "importprog", "host": host, "login": login, "password": password, "extra": extra}
        command = ("airflow", "connections", "add", connection_id, "--conn-json", json.dumps(connection))
        done = subprocess.run(command, env=self._env, cwd=self.home, capture_output=True, text=True)
        if done.returncode:
            raise HarnessError(f"airflow connections add failed:\n{(done.stdout + done.stderr)[-3000:]}")

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        parsed = "SELECT 1 AS one FROM serialized_dag WHERE dag_id = :d"
        wait_until(f"DAG {dag_id}", lambda: bool(self.rows(parsed, d=dag_id)))
        run_id = f"run~{uuid.uuid4()}"
        assert self._console.stdin is not None
        with self._lock:
            self._console.stdin.write(json.dumps({"dag_id": dag_id, "run_id": run_id, "conf": dict(conf or {})}) + "\n")
            self._console.stdin.flush()
        found = "SELECT 1 AS one FROM dag_run WHERE run_id = :r"
        wait_until(f"run {run_id}", lambda: bool(self.rows(found, r=run_id)), 60)
        return run_id
