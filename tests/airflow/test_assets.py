"""The asset and OpenLineage, as Airflow and the OpenLineage provider have them after a run."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from typing import Any, NamedTuple

import pytest

from tests.airflow.harness import Airflow, task
from tests.blackbox.driver import AIRFLOW_2
from tests.blackbox.server import V2_COMMIT, V2_CREATE, V2_DESCRIBE, V2_LIST, Answer, Asked, ScriptedServer, v2_job

SIGNED = "https://acme.blob.core.windows.net/in/b%20c.parquet?sv=2024&sig=s3cret-signature"


class Seen(NamedTuple):
    """What a run left behind: asset events, and the file of the OpenLineage provider."""

    namespace: str
    events: dict[tuple[str, int, str], Any]
    lineage: str


def serve(server: ScriptedServer) -> None:
    """Let each job be found going on once, and then ended. Its id says how, and how many rows it has."""
    asked: Counter[str] = Counter()

    def describe(request: Asked) -> Answer:
        job_id = request.json["jobId"]
        asked[job_id] += 1
        how = "Importing" if asked[job_id] == 1 else job_id.partition("-")[0]
        return v2_job(how, jobId=job_id, importedRows=len(job_id), totalRows=len(job_id))

    server.on(V2_DESCRIBE, describe).on(V2_COMMIT, Answer({"code": 0, "data": {}}))
    server.on(V2_CREATE, Answer({"code": 0, "data": {"jobId": "Completed-made"}}))
    server.on(V2_LIST, Answer({"code": 0, "data": {"records": []}}))


def gate(task_id: str, job_id: str, outlets: str = "", **kwargs: Any) -> str:
    line = task("ImportProgressSensor", task_id, job_id=job_id, poke_interval=0.1, timeout=120, **kwargs)
    return f"{line[:-1]}, outlets=[{outlets}])"


@pytest.fixture(scope="module")
def seen(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Return what one run of every way to wait left behind."""
    pytest.importorskip("openlineage.client")
    server, path = ScriptedServer(), tmp_path_factory.mktemp("openlineage") / "events"
    serve(server)
    connection = {"conn_type": "importprog", "host": server.url, "extra": {"api_version": "v2"}}
    transport = {"type": "file", "log_file_path": str(path), "append": True}
    ran = airflow.run(
        "from airflow_provider_importprog.assets import create_asset",
        f"books = create_asset('books', host='127.0.0.1', port={server.port})",
        f"films = create_asset('films', host='127.0.0.1', port={server.port})",
        gate("poke", "Completed-1", "films, books"),
        gate("reschedule", "Completed-22", "books", mode="reschedule"),
        gate("deferred", "Completed-333", "films, books", deferrable=True),
        "mapped = ImportProgressSensor.partial(task_id='mapped', poke_interval=0.1, deferrable=True, outlets=[books])"
        ".expand(job_id=['Completed-a', 'Completed-bb'])",
        gate("fails", "Failed-1", "films", deferrable=True),
        gate("uncommitted", "Uncommitted-1", "books", wait_for="uncommitted"),
        task(
            "CreateImportJobOperator",
            "write",
            collection_name="books",
            object_urls=[["s3://lake/a.parquet"], [SIGNED]],
            poke_interval=0.1,
            deferrable=True,
        ),
        task("CreateImportJobOperator", "later", collection_name="books", object_urls=["s3://lake/a"], wait=False),
        task("CommitImportJobOperator", "commit", job_id="Completed-commit", poke_interval=0.1),
        env={
            "AIRFLOW_CONN_IMPORTPROG_DEFAULT": json.dumps(connection),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        },
    )
    server.close()
    assert ran.states == {**dict.fromkeys(ran.states, "success"), "fails": "failed"}, ran.log
    namespace = f"milvus://127.0.0.1:{server.port}"
    return Seen(namespace, asset_events(airflow, namespace), path.read_text())


def asset_events(airflow: Airflow, namespace: str) -> dict[tuple[str, int, str], Any]:
    """Return the extra of each event, by task, map index and path of the asset's URI."""
    name = "dataset" if AIRFLOW_2 else "asset"
    rows = (
        f"SELECT source_task_id, source_map_index, uri, {name}_event.extra "
        f"FROM {name}_event JOIN {name} ON {name}.id = {name}_id WHERE uri LIKE ?"
    )
    with sqlite3.connect(airflow.home / "airflow.db") as database:
        return {
            (task_id, index, uri.removeprefix(namespace)): json.loads(extra)
            for task_id, index, uri, extra in database.execute(rows, (f"{namespace}/%",))
        }


def test_the_event_of_the_jobs_own_collection_says_what_came_in(seen: Seen) -> None:
    def told(job_id: str) -> dict[str, Any]:
        return {"job_id": job_id, "imported_rows": len(job_id), "failed_files": 0}

    books, films = "/default/books", "/default/films"
    assert seen.events == {
        ("poke", -1, books): told("Completed-1"),
        ("poke", -1, films): {},
        ("reschedule", -1, books): told("Completed-22"),
        ("deferred", -1, books): told("Completed-333"),
        ("deferred", -1, films): {},
        ("mapped", 0, books): told("Completed-a"),
        ("mapped", 1, books): told("Completed-bb"),
        ("uncommitted", -1, books): told("Uncommitted-1"),
    }


def test_openlineage_has_each_import_once_it_has_ended(seen: Seen) -> None:
    found: dict[tuple[str, str, str | None], Any] = {}
    for event in map(json.loads, seen.lineage.splitlines()):
        job = event["run"]["facets"].get("externalQuery", {}).get("externalQueryId")
        outputs = [
            (each["namespace"], each["name"], each["outputFacets"].get("outputStatistics", {}).get("rowCount"))
            for each in event["outputs"]
            if "outputFacets" in each
        ]
        inputs = [(each["namespace"], each["name"]) for each in event["inputs"]]
        task_id = event["job"]["name"].partition(".")[2]
        if task_id and event["eventType"] != "START":
            found[task_id, event["eventType"], job] = (inputs, outputs)

    def rows(count: int | None) -> list[Any]:
        return [(seen.namespace, "default.books", count)]

    assert found == {
        ("poke", "COMPLETE", "Completed-1"): ([], rows(11)),
        ("reschedule", "COMPLETE", "Completed-22"): ([], rows(12)),
        ("deferred", "COMPLETE", "Completed-333"): ([], rows(13)),
        ("mapped", "COMPLETE", "Completed-a"): ([], rows(11)),
        ("mapped", "COMPLETE", "Completed-bb"): ([], rows(12)),
        ("fails", "FAIL", "Failed-1"): ([], rows(None)),
        ("uncommitted", "COMPLETE", None): ([], []),
        ("write", "COMPLETE", "Completed-made"): (
            [("s3://lake", "a.parquet"), ("wasbs://in@acme.dfs.core.windows.net", "b c.parquet")],
            rows(14),
        ),
        ("later", "COMPLETE", None): ([], []),
        ("commit", "COMPLETE", "Completed-commit"): ([], rows(16)),
    }
    assert "s3cret" not in seen.lineage
