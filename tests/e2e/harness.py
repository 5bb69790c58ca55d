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
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import psutil
import sqlalchemy
from sqlalchemy.pool import NullPool

from example_dags.run_example import end, free_ports

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
DAGS = Path(__file__).resolve().parent / "dags"
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
# Seconds. Two cores may be shared with others; only a broken machine takes so long.
PATIENCE = 240

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
        time.sleep(0.2)


_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Have the kernel end this process when the test run dies (PR_SET_PDEATHSIG), as it would be asked to."""
    _LIBC.prctl(1, signal.SIGTERM)


def children_of(pid: int) -> list[psutil.Process]:
    """Return the processes that descend from this one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


class Component:
    """A process with everything that it starts, and its output in a file."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.name = name
        self.log = log
        self._output = log.open("ab")
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """End it as an operator does, and insist where that does not help."""
        end(self.process)
        self._output.close()

    def kill(self) -> list[psutil.Process]:
        """SIGKILL this one process, as the kernel does when memory runs out. Returns the children it had."""
        children = children_of(self.pid)
        self.process.kill()
        self.process.wait()
        self._output.close()
        return children


class Sqlite:
    """The metadata database in a file."""

    name = "sqlite"

    def __init__(self, home: Path) -> None:
        self.file = home / "airflow.db"
        self.airflow_url = f"sqlite:///{self.file}"

    def engine(self) -> sqlalchemy.Engine:
        url = f"sqlite:///file:{self.file}?mode=ro&uri=true"
        return sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"timeout": 30})

    def stop(self) -> None:
        """Nothing runs."""


class Postgres:
    """A PostgreSQL cluster of our own, with its own port, directory and user."""

    name = "postgresql"

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
        (port,) = free_ports(1)
        self.airflow_url = f"postgresql+psycopg2://airflow@127.0.0.1:{port}/airflow"
        data = str(self._home / "data")
        self._run("initdb", "-D", data, "-U", "airflow", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
        options = [
            "-c",
            f"port={port}",
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={self._home}",
        ]
        options += ["-c", "fsync=off", "-c", "max_connections=200"]
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

        def created() -> bool:
            done = subprocess.run(
                [str(self._bin / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "airflow", "airflow"],
                user=self._user,
                cwd=self._home,
                capture_output=True,
            )
            return done.returncode == 0

        try:
            wait_until("PostgreSQL", created, 60)
        except HarnessError:
            said = self.log.read_text()
            self.stop()
            raise HarnessError(f"PostgreSQL did not start:\n{said[-3000:]}") from None

    def engine(self) -> sqlalchemy.Engine:
        return sqlalchemy.create_engine(self.airflow_url, poolclass=NullPool)

    def stop(self) -> None:
        """End the server and delete its data."""
        self._server.send_signal(signal.SIGINT)  # a fast shutdown: clients are cut off
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.wait(20)
        end(self._server)
        shutil.rmtree(self._home, ignore_errors=True)

    def _run(self, tool: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / tool), *arguments], user=self._user, cwd=self._home, capture_output=True, text=True
        )
        if done.returncode:
            raise HarnessError(f"{tool} failed:\n{done.stdout}{done.stderr}")


@dataclass(frozen=True)
class TaskInstance:
    """What the metadata database says of one task instance."""

    id: str
    task_id: str
    map_index: int
    state: str | None
    try_number: int
    trigger_id: int | None
    pid: int | None


@dataclass
class Leftovers:
    """Everything that an Airflow wrote, as (place, text) pairs to search."""

    texts: list[tuple[str, bytes]] = field(default_factory=list)

    def places_of(self, *secrets: str) -> list[str]:
        """Return where a secret is found: as it is, or in an encoding that anybody undoes."""
        forms = {form for secret in secrets for form in _forms(secret)}
        return sorted({place for place, text in self.texts for form in forms if form in text})


def _forms(secret: str) -> set[bytes]:
    raw = secret.encode()
    # Base64 of the secret within a longer text: the same at three alignments, but for both ends.
    within = {base64.b64encode(b"\0" * pad + raw)[4 if pad else 0 : -4] for pad in range(3)}
    return {raw, quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), raw.hex().encode(), *within}


class Airflow:
    """The components of an Airflow on one machine, started and ended one by one.

    :param home: its AIRFLOW_HOME, made if need be.
    :param settings: more environment, such as ``{"AIRFLOW__CORE__PARALLELISM": "4"}``.
    """

    def __init__(
        self,
        home: Path,
        database: Sqlite | Postgres | None = None,
        *,
        dags: Path = DAGS,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.database = database or Sqlite(home)
        self.components: dict[str, Component] = {}
        self._outputs: list[Path] = []
        self._engine = self.database.engine()
        self._token = ""
        (port,) = free_ports(1)
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
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "200",
            "AIRFLOW__CORE__PARALLELISM": "24",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database.airflow_url,
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
            **(settings or {}),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.database.stop()

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

    def start_component(self, kind: str, name: str | None = None) -> Component:
        """Start one more component.

        :param name: tells two triggerers apart; the kind unless given.
        """
        name = name or kind
        log = self.home / f"{name}.out"
        # Logs are read from the disk; who serves them would outlive a component that is killed.
        options = ("--skip-serve-logs",) if kind in ("scheduler", "triggerer") else ()
        component = Component(name, ("airflow", kind, *options), self._env, self.home, log)
        self.components[name] = component
        if log not in self._outputs:
            self._outputs.append(log)
        return component

    def stop_component(self, name: str) -> None:
        """End a component in good order."""
        self.components.pop(name).stop()

    def kill_component(self, name: str) -> list[psutil.Process]:
        """SIGKILL a component. Returns the children that it leaves behind, if any live on."""
        return self.components.pop(name).kill()

    def stop(self) -> None:
        """End all of it, and everything with our AIRFLOW_HOME that outlived who started it."""
        while self.components:
            self.components.popitem()[1].stop()
        for survivor in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(self.processes(), timeout=10)
        self._engine.dispose()

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
            for component in self.components.values():
                if not component.alive:
                    raise HarnessError(f"{component.name} ended:\n{component.log.read_text()[-3000:]}")
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
        with self._engine.connect() as connection:
            result = connection.execute(sqlalchemy.text(query), parameters)
            return [dict(row) for row in result.mappings()]

    def run_state(self, dag_id: str, run_id: str) -> str:
        (row,) = self.rows("SELECT state FROM dag_run WHERE dag_id = :d AND run_id = :r", d=dag_id, r=run_id)
        return str(row["state"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = PATIENCE) -> str:
        """Wait until a run ends, and return its state."""

        def ended() -> str | None:
            state = self.run_state(dag_id, run_id)
            return state if state in ("success", "failed") else None

        try:
            return wait_until(f"run {run_id} of {dag_id}", ended, timeout)
        except HarnessError as error:
            states = {f"{i.task_id}[{i.map_index}]": (i.state, i.try_number) for i in self.instances(dag_id, run_id)}
            raise HarnessError(f"{error}; its tasks: {states}") from None

    def instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        query = (
            "SELECT id, task_id, map_index, state, try_number, trigger_id, pid FROM task_instance "
            "WHERE dag_id = :d AND run_id = :r ORDER BY task_id, map_index"
        )
        found = self.rows(query, d=dag_id, r=run_id)
        return [TaskInstance(**{**row, "id": str(row["id"])}) for row in found]

    def instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> TaskInstance:
        (found,) = (i for i in self.instances(dag_id, run_id) if (i.task_id, i.map_index) == (task_id, map_index))
        return found

    def state_mismatches(self, run_id: str) -> list[str]:
        """Return the tasks whose executor's report the scheduler took for another leg's, by its own record.

        A rescheduled or resumed task that is queued again before the scheduler has read that its last leg ended
        is failed, or tried again.
        """
        query = "SELECT task_id FROM log WHERE event = 'state mismatch' AND run_id = :r"
        return sorted(row["task_id"] for row in self.rows(query, r=run_id))

    def xcoms(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """Return what a task instance left in XCom, by key."""
        query = "SELECT key, value FROM xcom WHERE dag_id = :d AND run_id = :r AND task_id = :t AND map_index = :m"
        found = self.rows(query, d=dag_id, r=run_id, t=task_id, m=map_index)
        return {row["key"]: _decoded(row["value"]) for row in found}

    def task_log(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
        """Return what a task logged: on workers and in triggerers, of every try."""
        directory = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            directory /= f"map_index={map_index}"
        return "".join(path.read_text() for path in sorted(directory.glob("*.log*")))

    def leftovers(self) -> Leftovers:
        """Return everything written: every row of every table, every file, every output of a component.

        The connection table is among them: what it holds of a password is ciphertext.
        """
        found = Leftovers()
        tables = sqlalchemy.inspect(self._engine).get_table_names()
        if len(tables) < 20:
            raise HarnessError(f"only {len(tables)} tables: this is not Airflow's database")
        with self._engine.connect() as connection:
            for table in tables:
                for row in connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"')).mappings():
                    found.texts.append((f"table {table}", _row_bytes(row)))
        for path in self.home.rglob("*"):
            if path.is_file() and path not in self._outputs:
                found.texts.append((f"file {path.relative_to(self.home)}", path.read_bytes()))
        found.texts += [(f"output {path.name}", path.read_bytes()) for path in self._outputs]
        if isinstance(self.database, Postgres):
            found.texts.append(("output of PostgreSQL", self.database.log.read_bytes()))
        return found


def _decoded(value: Any) -> Any:
    """Undo the column's JSON and Airflow's JSON in it."""
    if isinstance(value, (bytes, memoryview)):  # Airflow 2's
        return json.loads(bytes(value))
    # A pushed string is a JSON string in a JSON string; anything else is decoded once more than a string.
    if isinstance(value, str):
        value = json.loads(value)
    return json.loads(value) if isinstance(value, str) else value


def _row_bytes(row: Mapping[Any, Any]) -> bytes:
    parts = [bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode() for value in row.values()]
    return b"\x00".join(parts)
