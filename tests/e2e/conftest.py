"""An Airflow, an emulator, and the wire between them that a test can pull."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest

from airflow_provider_importprog.emulator import Emulator
from tests.e2e.airflow2 import Airflow2
from tests.e2e.harness import Airflow, wait_until
from tests.e2e.wire import LISTED, Wire

LOGIN = "root"
CONSOLE = "https://console.example/{collection_name}/jobs/{job_id}"
BROKEN = "the file is broken: 白 & 'quoted'"

# Only the group "browser" of pyproject.toml brings Selenium.
collect_ignore = [] if find_spec("selenium") else ["test_connection_form.py"]


@dataclass
class Rig:
    """All that a test of the whole takes."""

    airflow: Airflow
    emulator: Emulator
    wire: Wire
    password: str

    @property
    def token(self) -> str:
        return f"{LOGIN}:{self.password}"

    def submit(self, *files: str) -> str:
        """Submit a two-phase import, which goes on until somebody commits or aborts it, and return its id."""
        body = {"collectionName": "articles", "files": [[file] for file in files or ("a.json",)]}
        return str(self.call("create", {**body, "options": {"auto_commit": "false"}})["jobId"])

    def commit(self, job_id: str) -> None:
        """Complete a job, as somebody else would: as soon as it can be committed, and until it is."""
        wait_until(f"job {job_id} awaits its commit", lambda: self.state_of(job_id) == "Uncommitted", 30)
        self.emulator.commit(job_id)
        wait_until(f"job {job_id} is completed", lambda: self.state_of(job_id) == "Completed", 30)

    def state_of(self, job_id: str) -> str:
        return str(self.call("describe", {"jobId": job_id})["state"])

    def call(self, name: str, body: dict[str, Any]) -> Any:
        """Ask the emulator itself, past the wire."""
        request = urllib.request.Request(
            f"{self.emulator.url}/v2/vectordb/jobs/import/{name}",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())["data"]

    def asked(self, jobs: Sequence[str]) -> list[int]:
        """Return how often Airflow has asked for each job."""
        return [len(self.wire.asked(job)) for job in jobs]

    def wait_until_asked(self, jobs: Sequence[str], times: int = 1) -> None:
        """Wait until Airflow has asked for each job so many times more."""
        before = self.asked(jobs)
        wait_until(
            f"every gate polls {times} times",
            lambda: all(now >= then + times for now, then in zip(self.asked(jobs), before, strict=True)),
        )


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """All of it, with the connections ``e2e`` and ``e2e_listed``, and that of the examples. Nothing of it lives on."""
    password = f"s3cret-{secrets.token_hex(16)}"
    token = f"{LOGIN}:{password}"
    kind = Airflow2 if version("apache-airflow").startswith("2.") else Airflow
    airflow = kind(tmp_path_factory.mktemp("airflow") / "airflow")
    try:
        with (
            Emulator(token=token, duration=1, partial_success=True, fail_files={"*broken*": BROKEN}) as emulator,
            Wire(emulator.url) as wire,
        ):
            airflow.start()
            for connection, cluster in (("e2e", ""), ("e2e_listed", LISTED), ("importprog_default", "")):
                extra = {"api_version": "v2", "cluster_id": cluster, "console_url": CONSOLE}
                airflow.add_connection(connection, wire.url, LOGIN, password, **extra)
            yield Rig(airflow, emulator, wire, password)
            airflow.stop()
            assert airflow.processes() == []
    finally:
        airflow.stop()
        airflow.database.stop()
