"""Run the example DAG on a real Airflow against Milvus Lite, twice: all goes well, and one file is broken.

Starts the emulator over Milvus Lite and ``airflow standalone``, both on free ports of this machine alone, with
everything they write under ``.demo`` in this checkout; ends both, and exits with 0 only if all that should hold did.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests

ROOT = Path(__file__).resolve().parent.parent
DAG_ID = "import_and_gate"
COLLECTION = "articles"
DIMENSION = 128
# Seconds; a slow machine takes its time, a broken one should not take a person's.
START_TIMEOUT = 180
RUN_TIMEOUT = 180

T = TypeVar("T")

# Where everything is written; --home takes another place.
home = ROOT / ".demo"


class DemoError(Exception):
    """Something that should hold did not."""


def say(line: str = "") -> None:
    """Print a line at once."""
    print(line, flush=True)


def require(holds: bool, what: str) -> None:
    """Print what holds, and stop where it does not."""
    if not holds:
        raise DemoError(what)
    say(f"  ✓ {what}")


def wait_for(what: str, found: Callable[[], T | None], timeout: float, alive: subprocess.Popen[Any]) -> T:
    """Return what is found as soon as there is anything."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (value := found()) is not None:
            return value
        if alive.poll() is not None:
            raise DemoError(f"a process ended (status {alive.returncode}) while waiting for {what}")
        time.sleep(0.3)
    raise DemoError(f"{what} took more than {timeout:.0f} s")


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def process(*command: str, log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[Any]]:
    """Run a command in the background, and end it with all its children."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, cwd=home, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield running
        finally:
            end(running)


def end(running: subprocess.Popen[Any]) -> None:
    """End a process and its children, gently at first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(sign)
            psutil.wait_procs(family, timeout=8)
    running.wait()


class Emulator:
    """The import API over Milvus Lite, in a process of its own."""

    def __init__(self, stack: contextlib.ExitStack, token: str) -> None:
        log = home / "emulator.log"
        command = [sys.executable, "-m", "airflow_provider_importprog.emulator", "--port", "0", "--backend", "lite"]
        # Slower than it could, so that there is something to wait for.
        command += ["--data-dir", str(home / "milvus"), "--rows-per-second", "3000"]
        env = {**os.environ, "IMPORTPROG_EMULATOR_TOKEN": token}
        running = stack.enter_context(process(*command, log=log, env=env))

        def ready() -> re.Match[str] | None:
            return re.search(r"emulator at (\S+), backend lite, milvusLiteVersion (\S+),", log.read_text())

        try:
            self.url, self.version = wait_for("the emulator", ready, START_TIMEOUT, running).groups()
        except DemoError as error:
            raise DemoError(f"{error}\n{log.read_text().strip()}") from None
        self._session = stack.enter_context(requests.Session())
        self._session.trust_env = False  # this is loopback, whatever proxy there is
        self._session.headers["Authorization"] = f"Bearer {token}"

    def create_collection(self) -> None:
        """Make an empty collection of keys and vectors."""
        self._call("collections/create", dimension=DIMENSION)

    def count_rows(self) -> int:
        """Count the rows that a query sees."""
        return int(self._call("entities/query", outputFields=["count(*)"])[0]["count(*)"])

    def _call(self, name: str, **body: Any) -> Any:
        body["collectionName"] = COLLECTION
        answer = self._session.post(f"{self.url}/v2/vectordb/{name}", json=body, timeout=60).json()
        if answer["code"]:
            raise DemoError(f"{name}: {answer['message']}")
        return answer["data"]


class Airflow:
    """``airflow standalone`` on SQLite, in a process of its own."""

    def __init__(self, stack: contextlib.ExitStack, connection: dict[str, Any]) -> None:
        self.home = home / "airflow"
        self.gate_was_deferred = False
        self._log = home / "airflow.log"
        api, worker_log, triggerer_log = free_ports(3)
        # Nothing of another Airflow on this machine.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        self._env = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW_CONN_IMPORTPROG_DEFAULT": json.dumps(connection),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{api}",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",  # Airflow 2's
            "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(api),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(triggerer_log),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_log),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        if sys.platform == "darwin":
            # Airflow forks its tasks, and macOS ends a fork that asks its frameworks for a proxy.
            self._env |= {"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES", "no_proxy": "*"}
        self._running = stack.enter_context(process("airflow", "standalone", log=self._log, env=self._env))

    def wait_until_ready(self) -> None:
        """Wait until the scheduler, the triggerer and the example DAG are there."""

        def ready() -> bool | None:
            jobs = {row[0] for row in self._rows("SELECT job_type FROM job WHERE state = 'running'")}
            dags = self._rows("SELECT dag_id FROM serialized_dag WHERE dag_id = ?", DAG_ID)
            return True if jobs >= {"SchedulerJob", "TriggererJob"} and dags else None

        try:
            wait_for("Airflow", ready, START_TIMEOUT, self._running)
        except DemoError as error:
            raise DemoError(f"{error}; the end of {self._log}:\n{self._log.read_text()[-3000:]}") from None

    def run(self, run_id: str, files: list[Path]) -> str:
        """Run the example DAG over some files, show the gate's log as it grows, and return the run's state."""
        conf = json.dumps({"collection": COLLECTION, "files": [str(file) for file in files]})
        for command in (("unpause", DAG_ID), ("trigger", DAG_ID, "--run-id", run_id, "--conf", conf)):
            done = subprocess.run(("airflow", "dags", *command), env=self._env, capture_output=True, text=True)
            if done.returncode:
                raise DemoError(f"airflow dags {command[0]} failed:\n{done.stderr[-3000:]}")
        gate_log = GateLog(self.home / "logs" / f"dag_id={DAG_ID}" / f"run_id={run_id}" / "task_id=gate")

        def ended() -> str | None:
            gate_log.show()
            rows = self._rows("SELECT state FROM dag_run WHERE run_id = ?", run_id)
            return rows[0][0] if rows and rows[0][0] in ("success", "failed") else None

        state = wait_for(f"run {run_id}", ended, RUN_TIMEOUT, self._running)
        gate_log.show()
        self.gate_was_deferred = gate_log.deferred
        return state

    def task_states(self, run_id: str) -> dict[str, list[str]]:
        """Return the states of each task's instances."""
        states: dict[str, list[str]] = {}
        for task_id, state in self._rows("SELECT task_id, state FROM task_instance WHERE run_id = ?", run_id):
            states.setdefault(task_id, []).append(state)
        return states

    def xcom(self, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return what a task left for others."""
        query = "SELECT value FROM xcom WHERE run_id = ? AND task_id = ? AND key = ?"
        value = self._rows(query, run_id, task_id, key)[0][0]
        # The column is JSON, and holds Airflow's JSON as a string.
        while isinstance(value, (str, bytes)):
            value = json.loads(value)
        return value

    def _rows(self, query: str, *parameters: str) -> list[tuple[Any, ...]]:
        database = self.home / "airflow.db"
        try:
            connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
            with contextlib.closing(connection):
                return connection.execute(query, parameters).fetchall()
        except sqlite3.OperationalError:  # not there yet, or being migrated
            return []


class GateLog:
    """What the gate writes into its task log, on the worker and in the triggerer."""

    def __init__(self, directory: Path) -> None:
        self.deferred = False
        self._directory = directory
        self._read: dict[Path, int] = {}

    def show(self) -> None:
        """Print what is new."""
        for path in sorted(self._directory.glob("*.log*")):
            with path.open() as log:
                log.seek(self._read.get(path, 0))
                while (line := log.readline()).endswith("\n"):
                    self._read[path] = log.tell()
                    self._show(line)

    def _show(self, line: str) -> None:
        if line.startswith("{"):
            record = json.loads(line)
            event, source = record.get("event", ""), record.get("filename") or record.get("logger", "")
        else:  # Airflow 2 writes no JSON: [time] {file:line} INFO - event
            source, _, event = line.strip().partition(" - ")
        if "DEFERRED" in event:
            self.deferred = True
            say("  gate │ (deferred: waiting in the triggerer)")
        elif re.search(r"\b(import_progress|_?gate(_operator)?)\b", source):
            say(f"  gate │ {event}")


def make_file(name: str, first_id: int, rows: int, dimension: int = DIMENSION) -> Path:
    """Write a file of rows with a key and a vector each."""
    path = home / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [
        {"id": first_id + row, "vector": [round(random.random(), 6) for _ in range(dimension)]} for row in range(rows)
    ]
    path.write_text(json.dumps({"rows": content}))
    return path


def show_table(files: list[dict[str, Any]]) -> None:
    """Print the per-file details as the gate handed them on."""
    header = ("file", "rows", "size", "state", "completed at")
    lines = [
        (
            Path(file["file_name"].strip("[]")).name,
            f"{file['imported_rows']:,}",
            f"{file['file_size'] / 1e6:.1f} MB",
            file["state"],
            (file["complete_time"] or "-").replace("T", " ").replace("+00:00", " UTC"),
        )
        for file in files
    ]
    widths = [max(len(row[column]) for row in (header, *lines)) for column in range(len(header))]
    for row in (header, tuple("─" * width for width in widths), *lines):
        name, rows, size, state, completed_at = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(f"  {name}  {rows.strip():>{widths[1]}}  {size.strip():>{widths[2]}}  {state}  {completed_at}".rstrip())


def demo(stack: contextlib.ExitStack) -> None:
    """Run all of it."""
    began = time.monotonic()
    token = f"root:{secrets.token_urlsafe(12)}"
    login, _, password = token.partition(":")

    say("Starting the emulator over Milvus Lite, and Airflow …")
    emulator = Emulator(stack, token)
    connection = {
        "conn_type": "importprog",
        "host": emulator.url,
        "login": login,
        "password": password,
        "extra": {"api_version": "v2"},
    }
    airflow = Airflow(stack, connection)
    emulator.create_collection()
    rows = [4_000, 5_000, 6_000, 7_000, 8_000]
    good = [make_file(f"articles-{number}.json", number * 100_000, count) for number, count in enumerate(rows)]
    late = make_file("articles-late.json", 900_000, 3_000)
    broken = make_file("articles-broken.json", 800_000, 2_000, dimension=DIMENSION // 2)
    airflow.wait_until_ready()
    say(f"Milvus Lite {emulator.version} and Airflow are up after {time.monotonic() - began:.0f} s.")

    say(f"\nRun 1: {len(good)} files, {sum(rows):,} rows, vectors of {DIMENSION} dimensions")
    state = airflow.run("all_good", good)
    files = airflow.xcom("all_good", "gate")
    show_table(files)
    states = airflow.task_states("all_good")
    require(state == "success" and states["quarantine"] == ["skipped"], "the run succeeded, without the quarantine")
    require(airflow.gate_was_deferred, "the gate was deferred: it took no worker while it waited")
    require(states["process"] == ["success"] * len(good), f"process ran once for each of the {len(good)} files")
    require(airflow.xcom("all_good", "count_rows") == sum(rows), f"the files' details add up to {sum(rows):,} rows")
    require(emulator.count_rows() == sum(rows), f"Milvus Lite counts {sum(rows):,} rows")

    say("\nRun 2: one good file, and one whose vectors have the wrong dimension")
    state = airflow.run("one_broken", [late, broken])
    show_table(airflow.xcom("one_broken", "gate"))
    states = airflow.task_states("one_broken")
    failed = airflow.xcom("one_broken", "quarantine")
    require(
        states["gate"] == ["failed"] and states["count_rows"] == ["upstream_failed"],
        "the gate failed, and nothing passed it",
    )
    require(states["quarantine"] == ["success"] and len(failed) == 1, "the quarantine branch took one file")
    reason = failed[0]["error_message"]
    require(f"expected dim {DIMENSION}" in reason, f"with the engine's own reason: {reason}")
    require(
        emulator.count_rows() == sum(rows),
        f"Milvus Lite still counts {sum(rows):,} rows: an import is all or nothing",
    )
    say(f"\nAll of it held, in {time.monotonic() - began:.0f} s. Logs and database: {home}/")


def main() -> int:
    """Return 0 if all held, 1 if not."""
    global home
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=home, help="directory to write to; emptied (default: %(default)s)")
    home = parser.parse_args().home.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        with contextlib.ExitStack() as stack:
            demo(stack)
    except DemoError as error:
        say(f"\n✗ {error}")
        return 1
    except KeyboardInterrupt:
        return 1
    finally:
        shutil.rmtree(home / "milvus", ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
