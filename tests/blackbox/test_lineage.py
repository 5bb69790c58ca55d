"""What OpenLineage is told by a task that has seen its import end. Whole runs of it: tests/airflow/test_assets.py."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, BaseHook

from airflow_provider_importprog.operators.import_job import CommitImportJobOperator, CreateImportJobOperator
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from tests.blackbox.driver import Connect, FakeTaskInstance
from tests.blackbox.imports import ImportServer
from tests.blackbox.server import JOB, V2_COMMIT, Answer, ScriptedServer, v1_job, v2_file, v2_job

pytest.importorskip("airflow.providers.openlineage")

QUICK: dict[str, Any] = {"task_id": "t", "poke_interval": 0.02, "timeout": 5, "outage_tolerance": 0}


@pytest.fixture(autouse=True)
def _connected(connect: Connect) -> None:
    connect({"api_version": "v2"})


def told_by(operator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a task, and return what OpenLineage gets of it, who may ask nobody by then."""
    ti = FakeTaskInstance()
    context = {"ti": ti, "dag_run": None, "outlet_events": defaultdict(lambda: SimpleNamespace(extra={}))}
    ask = operator.get_openlineage_facets_on_complete
    try:
        operator.execute(context)
    except AirflowException:
        ask = operator.get_openlineage_facets_on_failure
    with monkeypatch.context() as nobody_answers:
        nobody_answers.setattr(BaseHook, "get_connection", None)
        nobody_answers.setattr("socket.socket.connect", None)
        return ask(ti)


def shown(facets: Any) -> list[tuple[str, str, int | None]]:
    return [
        (
            each.namespace,
            each.name,
            each.outputFacets["outputStatistics"].rowCount if each.outputFacets else None,
        )
        for each in facets.outputs
    ]


ENDS: dict[str, tuple[Answer, dict[str, Any], Any]] = {
    "completed": (v2_job("Completed"), {}, 5),
    "some files failed": (v2_job("Completed", files=[v2_file(state="Failed", reason="bad")]), {}, 5),
    "too few rows": (v2_job("Completed"), {"min_rows": 6}, 5),
    "failed": (v2_job("Failed", reason="disk full"), {}, None),
    "no row count": (v2_job("Completed", importedRows=None, totalRows=None), {}, None),
}


@pytest.mark.parametrize(("answer", "settings", "rows"), ENDS.values(), ids=ENDS)
def test_the_collection_is_the_output(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, answer: Answer, settings: dict[str, Any], rows: int | None
) -> None:
    server.v2(answer)
    facets = told_by(ImportProgressSensor(job_id=JOB, **QUICK, **settings), monkeypatch)
    namespace = f"milvus://127.0.0.1:{server.port}"
    assert shown(facets) == [(namespace, "default.books", rows)]
    query = facets.run_facets["externalQuery"]
    assert (query.externalQueryId, query.source) == (JOB, namespace)
    assert facets.inputs == []


def test_v1_counts_no_rows(server: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    connect({"api_version": "v1"})
    server.v1(v1_job(done=True))
    facets = told_by(ImportProgressSensor(job_id=JOB, **QUICK), monkeypatch)
    assert shown(facets) == [(f"milvus://127.0.0.1:{server.port}", "default.books", None)]


@pytest.mark.parametrize(
    ("connection", "task", "namespace", "name"),
    [
        ({"db_name": "shop"}, {}, None, "shop.books"),
        ({"cluster_id": "IN01-1a"}, {}, "milvus://in01-1a:19530", "default.books"),
        ({"cluster_id": "in01-1a"}, {"cluster_id": "in01-2b"}, "milvus://in01-2b:19530", "default.books"),
    ],
)
def test_the_connection_says_where_the_collection_is(
    server: ScriptedServer,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    connection: dict[str, str],
    task: dict[str, str],
    namespace: str | None,
    name: str,
) -> None:
    connect({"api_version": "v2", **connection})
    server.v2(v2_job("Completed"))
    facets = told_by(ImportProgressSensor(job_id=JOB, **task, **QUICK), monkeypatch)
    assert shown(facets) == [(namespace or f"milvus://127.0.0.1:{server.port}", name, 5)]


NOTHING_YET: dict[str, tuple[Any, dict[str, Any]]] = {
    "submitted": (CreateImportJobOperator, {"collection_name": "books", "files": ["a"], "wait": False}),
    "uncommitted": (ImportProgressSensor, {"job_id": JOB, "wait_for": "uncommitted"}),
    "committed": (CommitImportJobOperator, {"job_id": JOB, "wait": False}),
}


@pytest.mark.parametrize(("operator", "given"), NOTHING_YET.values(), ids=NOTHING_YET)
def test_who_has_not_seen_the_rows_come_in_reports_nothing(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, operator: Any, given: dict[str, Any]
) -> None:
    ImportServer(server)
    server.v2(v2_job("Uncommitted")).on(V2_COMMIT, Answer({"code": 0, "data": {}}))
    facets = told_by(operator(**given, **QUICK), monkeypatch)
    assert (facets.inputs, facets.outputs, facets.run_facets) == ([], [], {})


INPUTS = {
    "s3://lake/in/a b.parquet": ("s3://lake", "in/a b.parquet"),
    "s3://key:s3cret@lake/a.parquet?X-Amz-Signature=s3cret#s3cret": ("s3://lake", "a.parquet"),
    "gs://lake/a, b[1]": ("gs://lake", "a, b[1]"),
    "https://la.ke.s3.us-west-2.amazonaws.com/in/a%20b.parquet": ("s3://la.ke", "in/a b.parquet"),
    "https://lake.s3-eu-west-1.amazonaws.com/x.parquet": ("s3://lake", "x.parquet"),
    "https://s3.cn-north-1.amazonaws.com.cn/lake2/x/y.parquet": ("s3://lake2", "x/y.parquet"),
    "https://storage.googleapis.com/lake/x.parquet": ("gs://lake", "x.parquet"),
    "https://storage.cloud.google.com/lake/y.parquet": ("gs://lake", "y.parquet"),
    "https://acme.blob.core.windows.net/box/x.parquet?sv=1&sig=s3cret": (
        "wasbs://box@acme.dfs.core.windows.net",
        "x.parquet",
    ),
    "https://root:s3cret@minio.example.com:9000/lake/x.parquet": ("https://minio.example.com:9000", "lake/x.parquet"),
    "http://minio:9000/lake/x.parquet": ("http://minio:9000", "lake/x.parquet"),
}


def inputs(facets: Any) -> list[tuple[str, str]]:
    return [(each.namespace, each.name) for each in facets.inputs]


def test_object_urls_are_inputs_without_their_secrets(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ImportServer(server)
    urls = list(INPUTS)
    operator = CreateImportJobOperator(
        collection_name="books", object_urls=[*[[url] for url in urls], urls[:2]], **QUICK
    )
    facets = told_by(operator, monkeypatch)
    assert inputs(facets) == list(INPUTS.values())
    assert "s3cret" not in repr(facets)


def test_a_gate_knows_its_inputs_from_the_names_of_the_files(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["[s3://lake/id.npy s3://lake/a b[1].npy]", "[own/bucket.parquet]", "a.parquet", "gs://lake/c?sig=s3cret"]
    server.v2(v2_job("Completed", files=[v2_file(name) for name in names]))
    facets = told_by(ImportProgressSensor(job_id=JOB, **QUICK), monkeypatch)
    assert inputs(facets) == [("s3://lake", "id.npy"), ("s3://lake", "a b[1].npy"), ("gs://lake", "c")]


def test_after_a_thousand_inputs_one_says_how_many_more(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ImportServer(server)
    urls = [f"s3://lake/{number}" for number in range(2234)]
    found = inputs(told_by(CreateImportJobOperator(collection_name="books", object_urls=urls, **QUICK), monkeypatch))
    assert len(found) == 1001
    assert found[-2:] == [("s3://lake", "999"), ("s3://lake", "and 1,234 more objects")]
