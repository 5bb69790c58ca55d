"""A real Airflow, component by component, for tests that look at what is left of a run.

Everything is written under one directory, listens on loopback, and ends with the `Airflow` that started it: also
when a test fails, and also when the test run itself is killed.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import psutil
import sqlalchemy

from tests.e2e.cases import WORKERS

ROOT = Path(__file__).resolve().parents[2]
DAGS = Path(__file__).resolve().parent / "dags"
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
# Seconds. Two cores may be shared with others; only a broken machine takes so long.
PATIENCE = 480

T = TypeVar("T")


class HarnessError(Exception):
    """Something did not come about; the message has what was seen instead."""


def wait_until(what: str, found: Callable[[], T | None], timeout: float = PATIENCE) -> T:
    """Return what is found as soon as it is there: anything but None and False."""
    deadline = time.monotonic() + timeout
    while True:
        value = found()
        if value is not None and value is not False:
            return value
        if time.monotonic() > deadline:
            raise HarnessError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.5)


_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Have the kernel end this process when the test run dies (PR_SET_PDEATHSIG), as it would be asked to."""
    _LIBC.prctl(1, signal.SIGTERM)


def free_port() -> int:
    """Return a port of loopback that nobody listens on.

    Below the range from which Linux hands ports out: who binds port 0 meanwhile must not get this one.
    """
    while True:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def end(*pids: int, first: signal.Signals = signal.SIGTERM) -> None:
    """End processes and their children: as an operator does, and with force where that does not help."""
    family = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    for each in (first, signal.SIGKILL):
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(each)
        psutil.wait_procs(family, timeout=10)


class Postgres:
    """A PostgreSQL cluster of our own, with its own port, directory and user."""

    def __init__(self) -> None:
        tools = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        self._bin = tools[-1] if tools else Path(shutil.which("initdb") or "/initdb").parent
        if not (self._bin / "initdb").exists():
            raise HarnessError("PostgreSQL is not installed: apt-get install postgresql")
        # Not pytest's directory: PostgreSQL refuses to run as root, and nobody else may enter that.
        self._home = Path(tempfile.mkdtemp(prefix="importprog-pg-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self._home, account.pw_uid, account.pw_gid)
        self.log = self._home / "postgres.log"
        port = free_port()
        self.url = f"postgresql+psycopg2://airflow@127.0.0.1:{port}/postgres"
        self.engine = sqlalchemy.create_engine(self.url, pool_size=30)
        data = str(self._home / "data")
        init = [str(self._bin / "initdb"), "-D", data, "-U", "airflow", "-A", "trust", "-E", "UTF8", "--no-sync"]
        done = subprocess.run(
            [*init, "--locale=C.UTF-8"], user=self._user, cwd=self._home, capture_output=True, text=True
        )
        if done.returncode:
            raise HarnessError(f"initdb failed:\n{done.stdout}{done.stderr}")
        settings = (
            f"port={port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self._home}",
            "fsync=off",
            "max_connections=200",
        )
        options = [part for each in settings for part in ("-c", each)]
        with self.log.open("wb") as output:
            self._server = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", data, *options],
                user=self._user,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )

        def answers() -> bool:
            with contextlib.suppress(sqlalchemy.exc.OperationalError), self.engine.connect():
                return True
            return False

        try:
            wait_until("PostgreSQL", answers, 60)
        except HarnessError:
            said = self.log.read_text()
            self.stop()
            raise HarnessError(f"PostgreSQL did not start:\n{said[-3000:]}") from None

    def stop(self) -> None:
        """End the server and delete its data."""
        self.engine.dispose()
        end(self._server.pid, first=signal.SIGINT)  # a fast shutdown: clients are cut off
        self._server.wait()
        shutil.rmtree(self._home, ignore_errors=True)


@dataclass(frozen=True)
class TaskInstance:
    """What the metadata database says of one task instance."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    trigger_id: int | None
    pid: int | None


def places_of(secret: str, written: Mapping[str, bytes]) -> list[str]:
    """Return where a secret is found: as it is, or in an encoding that anybody undoes."""
    return sorted(place for place, text in written.items() if any(form in text for form in _forms(secret)))


def _forms(secret: str) -> set[bytes]:
    raw = secret.encode()
    # Base64 of the secret within a longer text: the same at three alignments, but for both ends.
    within = {base64.b64encode(b"\0" * pad + raw)[4 if pad else 0 : -4] for pad in range(3)}
    return {raw, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), raw.hex().encode(), *within}


class Airflow:
    """The components of an Airflow on one machine, started and ended one by one.

    :param home: its AIRFLOW_HOME, made if need be.
    """

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.database = Postgres()
        self.components: dict[str, subprocess.Popen[bytes]] = {}
        self._token = ""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # Nothing of another Airflow on this machine.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        self._env = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # Triggers and DAG files of tests are imported by name.
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__SECRET_KEY": "tests-only",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": "tests-only-and-long-enough-for-sha512-" + "x" * 32,
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "200",
            "AIRFLOW__CORE__PARALLELISM": str(WORKERS),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database.url,
            "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }

    # Processes

    def start(self, *names: str) -> None:
        """Make the database and start components, all unless named, and wait until they work."""
        done = subprocess.run(
            ("airflow", "db", "migrate"), env=self._env, cwd=self.home, capture_output=True, text=True
        )
        if done.returncode:
            raise HarnessError(f"airflow db migrate failed:\n{(done.stdout + done.stderr)[-3000:]}")
        for name in names or COMPONENTS:
            self.start_component(name)
        self.wait_until_ready()

    def start_component(self, name: str, alias: str = "") -> None:
        """Start a component, a second one under an alias.

        Only the thread that lasts may do it: the kernel ends the component with its thread.
        """
        # Logs are read from the disk; who serves them would outlive a component that is killed.
        options = ("--skip-serve-logs",) if name in ("scheduler", "triggerer") else ()
        with self._output(alias or name).open("ab") as output:
            self.components[alias or name] = subprocess.Popen(
                ("airflow", name, *options),
                cwd=self.home,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )

    def kill_component(self, name: str) -> list[psutil.Process]:
        """SIGKILL this one process, as the kernel does when memory runs out. Returns the children that it had."""
        process = self.components.pop(name)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        return children

    def stop(self) -> None:
        """End all of it, and everything with our AIRFLOW_HOME that outlived who started it."""
        end(*(process.pid for process in self.components.values()))
        while self.components:
            self.components.popitem()[1].wait()
        for survivor in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(self.processes(), timeout=10)

    def _output(self, name: str) -> Path:
        return self.home / f"{name}.out"

    def processes(self) -> list[psutil.Process]:
        """Return every process on this machine that belongs to this Airflow."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                # Airflow's workers write their title over their environment; where they began to work stays.
                if str(self.home) in (process.environ().get("AIRFLOW_HOME"), process.cwd()):
                    found.append(process)
        return found

    def wait_until_ready(self) -> None:
        """Wait until every component started reports to the database, and the API answers."""
        wanted = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob", "dag-processor": "DagProcessorJob"}

        def ready() -> bool:
            for name, process in self.components.items():
                if process.poll() is not None:
                    raise HarnessError(f"{name} ended:\n{self._output(name).read_text()[-3000:]}")
            jobs = {row["job_type"] for row in self.rows("SELECT job_type FROM job WHERE state = 'running'")}
            if not jobs >= {wanted[name] for name in self.components if name in wanted}:
                return False
            if "api-server" not in self.components:
                return True
            try:
                self.api("GET", "/api/v2/version")
            except OSError:
                return False
            return True

        wait_until("Airflow", ready)

    # What a person does

    def api(self, method: str, path: str, body: Any = None, *, token: bool = True) -> Any:
        """Call Airflow's REST API as an administrator."""
        headers = {"Content-Type": "application/json"}
        if token:
            if not self._token:
                self._token = self.api("GET", "/auth/token", token=False)["access_token"]
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:2000]
            raise HarnessError(f"{method} {path}: HTTP {error.code}: {said}") from None
        return json.loads(content) if content else None

    def add_connection(self, connection_id: str, host: str, login: str, password: str, **extra: Any) -> None:
        """Store a connection of our type, as the form does."""
        self.api(
            "POST",
            "/api/v2/connections",
            {
                "connection_id": connection_id,
                "conn_type": "importprog",
                "host": host,
                "login": login,
                "password": password,
                "extra": json.dumps(extra),
            },
        )

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of a DAG as soon as it is parsed, and return the run's id."""

        def parsed() -> bool:
            if errors := self.rows("SELECT filename, stacktrace FROM import_error"):
                raise HarnessError(f"a DAG file does not parse: {errors}")
            return bool(self.rows("SELECT 1 AS one FROM serialized_dag WHERE dag_id = :dag_id", dag_id=dag_id))

        wait_until(f"DAG {dag_id}", parsed)
        self.api("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})
        run = self.api("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf or {})})
        return str(run["dag_run_id"])

    def mark_failed(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Mark a task failed, as the button in the UI does."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}"
        self.api("PATCH", path, {"new_state": "failed"})

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        """Clear tasks, as the button in the UI does."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.api("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body)

    # What is left

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Query the metadata database."""
        with self.database.engine.connect() as connection:
            result = connection.execute(sqlalchemy.text(query), parameters)
            return [dict(row) for row in result.mappings()]

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = PATIENCE) -> str:
        """Wait until a run ends, and return its state."""

        def ended() -> str | None:
            (row,) = self.rows("SELECT state FROM dag_run WHERE dag_id = :d AND run_id = :r", d=dag_id, r=run_id)
            return str(row["state"]) if row["state"] in ("success", "failed") else None

        try:
            return wait_until(f"run {run_id} of {dag_id}", ended, timeout)
        except HarnessError as error:
            states = {f"{i.task_id}[{i.map_index}]": (i.state, i.try_number) for i in self.instances(dag_id, run_id)}
            raise HarnessError(f"{error}; its tasks: {states}") from None

    def instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        query = (
            "SELECT task_id, map_index, state, try_number, trigger_id, pid FROM task_instance "
            "WHERE dag_id = :d AND run_id = :r ORDER BY task_id, map_index"
        )
        return [TaskInstance(**row) for row in self.rows(query, d=dag_id, r=run_id)]

    def instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> TaskInstance:
        (found,) = (i for i in self.instances(dag_id, run_id) if (i.task_id, i.map_index) == (task_id, map_index))
        return found

    def ended(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> tuple[str | None, int]:
        """Return a task's state, and its tries but for those that Airflow lost by itself, by its own record.

        A task that is queued again before the scheduler has read that its last leg ended is taken for a dead one.
        """
        lost = (
            "SELECT 1 AS one FROM log WHERE event = 'state mismatch' "
            "AND dag_id = :d AND run_id = :r AND task_id = :t AND coalesce(map_index, -1) = :m"
        )
        instance = self.instance(dag_id, run_id, task_id, map_index)
        tries = instance.try_number - len(self.rows(lost, d=dag_id, r=run_id, t=task_id, m=map_index))
        return instance.state, tries

    def xcoms(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return what a task instance left in XCom, by key; without links, which Airflow writes as plain text."""
        query = "SELECT key, value FROM xcom WHERE dag_id = :d AND run_id = :r AND task_id = :t AND map_index = :m"
        found = self.rows(query, d=dag_id, r=run_id, t=task_id, m=map_index)
        return {row["key"]: _decoded(row["value"]) for row in found if not row["key"].startswith("_link_")}

    def task_log(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
        """Return what a task logged: on workers and in triggerers, of every try."""
        directory = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            directory /= f"map_index={map_index}"
        return "".join(path.read_text() for path in sorted(directory.glob("*.log*")))

    def wait_for_log(self, words: str, dag_id: str, run_id: str, task_id: str) -> None:
        """Wait until a task has logged some words."""
        try:
            wait_until(f"{words!r} of {task_id}", lambda: words in self.task_log(dag_id, run_id, task_id))
        except HarnessError as error:
            raise HarnessError(f"{error}; its log:\n{self.task_log(dag_id, run_id, task_id)}") from None

    def written(self) -> dict[str, bytes]:
        """Return everything written, by place: every table, every file, every output of a component.

        The connection table is among them: what it holds of a password is ciphertext.
        """
        found = {"output of PostgreSQL": self.database.log.read_bytes()}
        with self.database.engine.connect() as connection:
            for table in sqlalchemy.inspect(self.database.engine).get_table_names():
                rows = connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"'))
                found[f"table {table}"] = b"\n".join(_bytes(value) for row in rows for value in row)
        files = (path for path in self.home.rglob("*") if path.is_file())
        return found | {f"file {path.relative_to(self.home)}": path.read_bytes() for path in files}


def _decoded(value: Any) -> Any:
    """Undo the column's JSON and Airflow's JSON in it."""
    if isinstance(value, (bytes, memoryview)):  # Airflow 2's
        return json.loads(bytes(value))
    # A pushed string is a JSON string in a JSON string; anything else is decoded once more than a string.
    if isinstance(value, str):
        value = json.loads(value)
    return json.loads(value) if isinstance(value, str) else value


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode()
