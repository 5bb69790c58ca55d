"""What a person sees of a task in Airflow's UI: its label where it is mapped, and the link to its import job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.airflow.harness import Ran, task
from tests.blackbox.driver import Connect
from tests.blackbox.imports import ImportServer
from tests.blackbox.server import JOB, V2_DESCRIBE, Answer, ScriptedServer, v2_job

Run = Callable[..., Ran]
HOW: dict[str, dict[str, Any]] = {"poke": {}, "reschedule": {"mode": "reschedule"}, "deferrable": {"deferrable": True}}
PAGE = "https://console.example/{cluster_id}/{collection_name}?job={job_id}"
LABEL = "{{ import_job.collection_name }} is {{ import_job.state }}"


def job_of(asked: Any) -> Answer:
    """Let a job go on at first; the one whose id ends with 9 fails."""
    job_id = asked.json["jobId"]
    seen[job_id] = seen.get(job_id, 0) + 1
    state = "Importing" if seen[job_id] < 3 else "Failed" if job_id.endswith("9") else "Completed"
    more = {"reason": "disk full"} if state == "Failed" else {}
    return v2_job(state, jobId=job_id, collectionName=f"books {job_id}/ü", **more)


seen: dict[str, int] = {}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_mapped_gate_has_a_label_and_a_link_whether_it_opens_or_fails(
    run: Run, server: ScriptedServer, connect: Connect, how: dict[str, Any]
) -> None:
    seen.clear()
    connect({"api_version": "v2", "cluster_id": "in01", "console_url": PAGE})
    server.on(V2_DESCRIBE, job_of)
    given = f"task_id='gate', poke_interval=0.1, timeout=120, map_index_template={LABEL!r}, **{how!r}"
    ran = run(f"ImportProgressSensor.partial({given}).expand(job_id=['1', '9'])", show=True)
    assert ran.shown == {
        ("gate", index): (
            f"books {job_id}/ü is {state}",
            {"Import job": f"https://console.example/in01/books%20{job_id}%2F%C3%BC?job={job_id}"},
        )
        for index, job_id, state in ((0, "1", "completed"), (1, "9", "failed"))
    }, ran.log


def test_whatever_has_a_job_id_has_the_link(run: Run, server: ScriptedServer, connect: Connect) -> None:
    imports = ImportServer(server)
    imports.state = "Uncommitted"
    connect({"api_version": "v2", "console_url": "http://console.example/{job_id}"})
    job_id = imports.add([["a"]], state="Uncommitted")
    create = {"collection_name": "books", "files": ["a.parquet"]}
    ran = run(
        task("CreateImportJobOperator", "create", wait=False, **create),
        task("CommitImportJobOperator", "commit", wait=False, job_id=job_id),
        task("AbortImportJobOperator", "abort", job_id=imports.add([["b"]], state="Uncommitted")),
        task(
            "ImportProgressSensor", "late", job_id=imports.add([["c"]], state="Importing"), timeout=1, deferrable=True
        ),
        task("ImportProgressSensor", "unknown", job_id="77", unknown_job_grace=0, poke_interval=0.1),
        show=True,
    )
    links = {task_id: links["Import job"] for (task_id, _), (_, links) in ran.shown.items()}
    assert {name: link or None for name, link in links.items()} == {
        "create": "http://console.example/1003",
        "commit": "http://console.example/1000",
        "abort": "http://console.example/1001",
        "late": "http://console.example/1002",
        "unknown": None,
    }, ran.log


@pytest.mark.parametrize(
    "extra", [{}, {"console_url": "https://console.example/{cluster_id}"}], ids=["no page", "no cluster"]
)
def test_without_a_page_there_is_no_link(
    run: Run, server: ScriptedServer, connect: Connect, extra: dict[str, Any]
) -> None:
    connect({"api_version": "v2", **extra})
    server.v2(v2_job("Completed"))
    ran = run(task("ImportProgressSensor", job_id=JOB), show=True)
    assert ran.state == "success"
    assert not ran.shown["gate", -1][1]["Import job"]
