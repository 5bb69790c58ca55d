"""A real ``dag.test()`` for a test: a DAG and a connection in; states, XComs, exceptions and the log out.

Each DAG runs in a process of its own, over one migrated SQLite database for each of pytest's workers. What dag.test()
leaves out of a deferral, its time-out and its kwargs, tests/airflow/child.py adds as the scheduler does it.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LONGEST = 60.0

_SOURCE = """\
import datetime
import json
from airflow.providers.common.compat.sdk import DAG, BaseOperator
from airflow_provider_importprog.operators.import_job import (
    AbortImportJobOperator, CommitImportJobOperator, CreateImportJobOperator)
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor

def note(how):
    def called(context):
        error = context.get("exception")
        with open({notes!r}, "a") as file:
            print(json.dumps({{"how": how, "task": context["ti"].task_id, "message": str(error),
                "types": [one.__name__ for one in type(error).__mro__]}}), file=file)
    return called

notes = {{f"on_{{how}}_callback": note(how) for how in ("failure", "retry", "skipped")}}
with DAG({dag_id!r}, schedule=None, start_date=datetime.datetime(2026, 1, 1),
         default_args={{**notes, **{default_args!r}}}, **{dag!r}) as dag:
{tasks}
"""


@dataclass
class Noted:
    """One exception that ended a try: `how` is ``failure``, ``retry`` or ``skipped``."""

    how: str
    task: str
    message: str
    types: list[str]


@dataclass
class Ran:
    """What came of a DAG run."""

    states: dict[str, str] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    xcoms: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Label and links by task and map index, where they were asked for.
    shown: dict[tuple[str, int], tuple[str | None, dict[str, str]]] = field(default_factory=dict)
    noted: list[Noted] = field(default_factory=list)
    log: str = ""
    seconds: float = 0.0
    exit_code: int | None = None

    @property
    def state(self) -> str:
        return self.states["gate"]

    @property
    def error(self) -> Noted:
        """The exception that ended the run's last try."""
        assert self.noted, self.log
        return self.noted[-1]

    def pushed(self, task_id: str = "gate") -> dict[str, Any]:
        return self.xcoms.get(task_id, {})


def task(operator: str, task_id: str = "gate", **kwargs: Any) -> str:
    """Return the line of a DAG file that makes one task. The arguments are as they can be written."""
    given = "".join(f", {name}={value!r}" for name, value in kwargs.items())
    return f"{task_id} = {operator}(task_id={task_id!r}{given})"


class Airflow:
    """One process with Airflow in it, and its home.

    :param home: where its database is already migrated.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._numbers = itertools.count(1)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.airflow.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "child.log").open("w"),
            text=True,
            bufsize=1,
            env=environment(home),
            cwd=ROOT,
        )
        self.version: str = self._said(LONGEST)["ready"]

    def close(self) -> None:
        self._child.stdin.close()
        self._child.wait(30)

    def run(
        self,
        *tasks: str,
        dag: dict[str, Any] | None = None,
        default_args: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        kill_when: Callable[[], bool] | None = None,
        show: bool = False,
    ) -> Ran:
        """Run a DAG to its end.

        :param tasks: lines of its file, of :func:`task` and others.
        :param dag: arguments of the DAG, as they can be written in its file.
        :param env: what its process has besides, such as a connection.
        :param kill_when: asked often; once it says yes, the process gets a SIGTERM.
        :param show: whether to ask for labels and links, as the UI does.
        """
        dag_id = f"d{next(self._numbers)}"
        folder = self.home / dag_id
        folder.mkdir()
        notes, log, shown = folder / "notes.jsonl", folder / "log", folder / "shown.jsonl"
        lines = "\n".join(f"    {line}" for one in tasks for line in one.splitlines())
        (folder / "dag.py").write_text(
            _SOURCE.format(notes=str(notes), dag_id=dag_id, default_args=default_args or {}, dag=dag or {}, tasks=lines)
        )
        spec = {
            "dag_id": dag_id,
            "folder": str(folder),
            "log": str(log),
            "env": env or {},
            "shown": str(shown) if show else "",
        }
        began = time.monotonic()
        self._child.stdin.write(json.dumps(spec) + "\n")
        pid = self._said(LONGEST)["pid"]
        exit_code = self._wait(pid, kill_when)
        ran = Ran(log=log.read_text(), seconds=time.monotonic() - began, exit_code=exit_code)
        if notes.exists():
            ran.noted = [Noted(**json.loads(line)) for line in notes.read_text().splitlines()]
        if show:
            assert shown.exists(), ran.log
            for line in shown.read_text().splitlines():
                task_id, map_index, label, links = json.loads(line)
                ran.shown[task_id, map_index] = (label, links)
        self._read(dag_id, ran)
        return ran

    def _wait(self, pid: int, kill_when: Callable[[], bool] | None) -> int:
        end = time.monotonic() + LONGEST
        while True:
            if kill_when is not None and kill_when():
                os.kill(pid, signal.SIGTERM)
                kill_when = None
            try:
                return self._said(0.05 if kill_when else max(end - time.monotonic(), 0))["done"]
            except TimeoutError:
                if time.monotonic() > end:
                    os.kill(pid, signal.SIGKILL)
                    return self._said(10)["done"]

    def _said(self, seconds: float) -> dict[str, Any]:
        if not select.select([self._child.stdout], [], [], seconds)[0]:
            raise TimeoutError
        line = self._child.stdout.readline()
        assert line, (self.home / "child.log").read_text()
        return json.loads(line)

    def _read(self, dag_id: str, ran: Ran) -> None:
        with sqlite3.connect(self.home / "airflow.db") as database:
            rows = "SELECT task_id, state, try_number FROM task_instance WHERE dag_id = ?"
            for task_id, state, tries in database.execute(rows, (dag_id,)):
                ran.states[task_id], ran.tries[task_id] = state, tries
            for task_id, key, value in database.execute(
                "SELECT task_id, key, value FROM xcom WHERE dag_id = ?", (dag_id,)
            ):
                ran.xcoms.setdefault(task_id, {})[key] = _plain(json.loads(value))


def _plain(value: Any) -> Any:
    """Return what was pushed: 3.x encodes it twice."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def environment(home: Path) -> dict[str, str]:
    """Return what Airflow's processes get: nothing of this one's Airflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return {
        **kept,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "*",
    }


def migrated(home: Path) -> Path:
    """Make a home with a migrated database."""
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], env=environment(home), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return home
