"""An Airflow, an emulator, and the wire between them that a test can pull."""

from __future__ import annotations

import contextlib
import json
import secrets
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from airflow_provider_importprog.emulator import Emulator
from tests.e2e.airflow2 import Airflow2
from tests.e2e.harness import Airflow, Postgres, Sqlite, wait_until
from tests.e2e.wire import Wire

AIRFLOW_2 = version("apache-airflow").startswith("2.")
LOGIN = "root"
BROKEN = "the file is broken: 白 & 'quoted'"


@dataclass
class Rig:
    """All that a test of the whole takes."""

    airflow: Airflow
    emulator: Emulator
    wire: Wire
    password: str
    jobs: list[str] = field(default_factory=list)

    @property
    def token(self) -> str:
        return f"{LOGIN}:{self.password}"

    def submit(self, *files: str) -> str:
        """Submit a two-phase import, which goes on until somebody commits or aborts it, and return its id."""
        body = {"collectionName": "articles", "files": [[file] for file in files or ("a.json",)]}
        answer = self.call("create", {**body, "options": {"auto_commit": "false"}})
        job_id = str(answer["data"]["jobId"])
        self.jobs.append(job_id)
        return job_id

    def commit(self, job_id: str) -> None:
        """Complete a job, as somebody else would: as soon as it can be committed, and until it is."""
        self._wait_for(job_id, "Uncommitted")
        self.emulator.commit(job_id)
        self._wait_for(job_id, "Completed")

    def _wait_for(self, job_id: str, state: str) -> None:
        def reached() -> bool:
            return bool(self.call("describe", {"jobId": job_id})["data"]["state"] == state)

        wait_until(f"job {job_id} in state {state}", reached, 30)

    def call(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the emulator itself, past the wire."""
        request = urllib.request.Request(
            f"{self.emulator.url}/v2/vectordb/jobs/import/{name}",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.loads(response.read())
        return answer

    def asked(self, job_ids: Sequence[str]) -> list[int]:
        """Return how often Airflow has asked for each job."""
        return [len(self.wire.asked(job_id)) for job_id in job_ids]


@contextlib.contextmanager
def running(home: Path, database: Sqlite | Postgres | None = None, **settings: str) -> Iterator[Rig]:
    """Start all of it, with the connections ``e2e`` and ``e2e_v1``."""
    password = f"s3cret-{secrets.token_hex(16)}"
    token = f"{LOGIN}:{password}"
    with (
        (Airflow2 if AIRFLOW_2 else Airflow)(home, database, settings=settings) as airflow,
        Emulator(token=token, duration=1, partial_success=True, fail_files={"*broken*": BROKEN}) as emulator,
        Wire(emulator.url) as wire,
    ):
        airflow.start()
        airflow.add_connection("e2e", wire.url, LOGIN, password, api_version="v2", cluster_id="in01-default")
        airflow.add_connection("e2e_v1", wire.url, LOGIN, password, api_version="v1")
        yield Rig(airflow, emulator, wire, password)
