"""Tasks that submit an import job: what becomes of it when they are killed, when it fails, when they are cleared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import psutil
import pytest
import requests

from airflow_provider_importprog.emulator import Emulator
from tests.e2e.cases import CREATING
from tests.e2e.harness import Airflow, wait_until
from tests.e2e.rig import LOGIN, Rig

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("airflow")]

ROWS = 100
"""Rows of each file."""


@dataclass
class Server:
    """An emulator, and the connection that leads to it."""

    connection: str
    emulator: Emulator

    def shown(self) -> dict[str, Any]:
        """Return what the emulator shows: its jobs, and how many create requests came through."""
        data: dict[str, Any] = requests.get(f"{self.emulator.url}/emulator", timeout=30).json()["data"]
        return data

    def jobs(self, collection: str) -> list[str]:
        return [job["jobId"] for job in self.shown()["jobs"] if job["collectionName"] == collection]


@dataclass
class Run:
    """A run of one of the DAGs of `creating`."""

    airflow: Airflow
    how: str
    run_id: str
    files: list[str]

    @classmethod
    def start(cls, airflow: Airflow, how: str, server: Server, collection: str, *files: str) -> Run:
        conf = {"connection": server.connection, "collection": collection, "files": files}
        return cls(airflow, how, airflow.trigger(f"creating_{how}", conf), list(files))

    @property
    def dag_id(self) -> str:
        return f"creating_{self.how}"

    def kill(self) -> None:
        """SIGKILL the process of the task that creates, which must not know its job yet."""
        instance = self.airflow.instance(self.dag_id, self.run_id, "create")
        assert (instance.state, instance.try_number) == ("running", 1)
        assert instance.pid is not None
        assert self.xcoms() == {}
        psutil.Process(instance.pid).kill()

    def end(self) -> tuple[str, int]:
        """Return how the run ended, and the tries that the creating task took."""
        state = self.airflow.wait_for_run(self.dag_id, self.run_id)
        return state, self.airflow.instance(self.dag_id, self.run_id, "create").try_number

    def clear(self) -> None:
        self.airflow.clear(self.dag_id, self.run_id, *(["create", "gate"] if self.how == "gate" else ["create"]))

    def xcoms(self, task_id: str = "create") -> dict[str, Any]:
        return self.airflow.xcoms(self.dag_id, self.run_id, task_id)

    def job_id(self) -> str:
        return str(self.xcoms()["job_id"])

    def imported(self) -> list[str]:
        """Return the names of the files that the run's gate saw imported."""
        files = self.xcoms("gate" if self.how == "gate" else "create")["return_value"]
        assert {file["state"] for file in files} == {"completed"}
        return [file["file_name"].strip("[]") for file in files]

    def log(self) -> str:
        return self.airflow.task_log(self.dag_id, self.run_id, "create")


def connect(rig: Rig, connection: str, emulator: Emulator) -> Server:
    # Withheld answers are waited for until the task is killed, however long its siblings take to start.
    rig.airflow.add_connection(connection, emulator.url, LOGIN, "Milvus", api_version="v2", timeout=600)
    return Server(connection, emulator)


@pytest.fixture(scope="module")
def milvus(rig: Rig, milvus_emulator: Emulator) -> Server:
    return connect(rig, "e2e_milvus", milvus_emulator)


@pytest.fixture(scope="module")
def new(rig: Rig) -> Iterator[Server]:
    """A server that honours the idempotency key."""
    with Emulator(duration=3) as emulator:
        yield connect(rig, "e2e_new", emulator)


@pytest.fixture(scope="module")
def old(rig: Rig) -> Iterator[Server]:
    """A server that ignores the idempotency key."""
    with Emulator(duration=3, idempotency=False) as emulator:
        yield connect(rig, "e2e_old", emulator)


def kill_each(rig: Rig, server: Server, collection: str, files: list[list[str]]) -> list[Run]:
    """Start a run for each list of files, and kill its task once the server took its request and no answer came."""
    before = server.shown()["createRequests"]
    server.emulator.outage(600, "silent")
    try:
        runs = [
            Run.start(rig.airflow, how, server, collection, *each)
            for each, how in zip(files, cycle(CREATING), strict=False)
        ]
        wait_until("the server took them all", lambda: server.shown()["createRequests"] == before + len(files))
        wait_until("the jobs are there", lambda: len(server.jobs(collection)) == len(files))
        for run in runs:
            run.kill()
    finally:
        server.emulator.restore()
    return runs


@pytest.mark.milvus
def test_tasks_killed_before_they_know_their_job_import_once(
    rig: Rig, milvus: Server, milvus_client: Any, milvus_collection: str, rows_file: Callable[..., str]
) -> None:
    files = [rows_file(f"{number}.json", ROWS) for number in range(10)]

    runs = kill_each(rig, milvus, milvus_collection, [[file] for file in files])

    for run in runs:
        assert run.end() == ("success", 2), run.log()
        assert run.imported() == run.files
    assert sorted(run.job_id() for run in runs) == milvus.jobs(milvus_collection)
    milvus_client.refresh_load(milvus_collection)
    rows = milvus_client.query(milvus_collection, "id >= 0", output_fields=["id"], limit=10_000)
    assert sorted(row["id"] for row in rows) == list(range(10 * ROWS))


def test_tasks_killed_before_they_know_their_job_find_it_where_keys_are_ignored(rig: Rig, old: Server) -> None:
    runs = kill_each(rig, old, "killed", [[f"{number}-a.json", f"{number}-b.json"] for number in range(10)])

    for run in runs:
        assert run.end() == ("success", 2), run.log()
        assert run.imported() == run.files
    assert sorted(run.job_id() for run in runs) == old.jobs("killed")


def test_a_clear_imports_anew_after_a_failure_and_not_after_a_success(rig: Rig, new: Server, old: Server) -> None:
    runs = {
        (server.connection, how): Run.start(rig.airflow, how, server, how, f"{how}-1.json", f"{how}-2.json")
        for server in (new, old)
        for how in CREATING
    }
    pairs = [(server, runs[server.connection, how]) for server in (new, old) for how in CREATING]

    for server, run in pairs:
        (job,) = wait_until(f"the job of {run.how}", lambda server=server, run=run: server.jobs(run.how) or None)
        server.emulator.abort(job)
    for _, run in pairs:
        assert run.end()[0] == "failed", run.log()
        run.clear()
    for server, run in pairs:
        assert run.end()[0] == "success", run.log()
        assert [run.job_id()] == server.jobs(run.how)[1:]
        run.clear()
    for server, run in pairs:
        assert run.end()[0] == "success", run.log()
        assert [run.job_id()] == server.jobs(run.how)[1:]
