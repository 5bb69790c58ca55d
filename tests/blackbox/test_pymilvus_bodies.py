"""What our hooks send, next to what pymilvus 3.0.2's own client of the v2 API sends for the same arguments."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from tests.blackbox.driver import TOKEN_LOGIN, TOKEN_PASSWORD, Call, Connect
from tests.blackbox.server import JOB, V2_ABORT, V2_COMMIT, V2_CREATE, V2_LIST, Answer, Asked, ScriptedServer, v2_job

bulk_writer: Any = pytest.importorskip("pymilvus.bulk_writer")

HEADERS = ("Authorization", "Content-Type", "Accept", "DB-Name", "Idempotency-Key")
CLUSTER = {"cluster_id": "in01-1"}
PROJECT = {"project_id": "proj-1", "region_id": "aws-us-west-2"}
DATABASE = {"db_name": "shop"}

#: All that may differ, but for keys that are empty, and why.
DIFFERENCES = {
    "Idempotency-Key": "pymilvus 3.0.2 has no parameter for it; 3.0.3 takes headers.",
    "pageSize": "A page has 10 jobs at pymilvus unless its caller asks for another; our hook turns the pages itself.",
}
#: Keywords of pymilvus's function, and of our hook's method; the extra of our connection, which pymilvus takes with
#: each call; and what of `DIFFERENCES` occurs, as pymilvus sends it and as we do.
Case = tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, tuple[Any, Any]]]


def same(arguments: dict[str, Any], extra: dict[str, Any] | None = None, **differs: tuple[Any, Any]) -> Case:
    """Both clients call these arguments the same."""
    return {**arguments, **(extra or {})}, arguments, extra or {}, differs


BOOKS = {"collection_name": "books"}
FILES = {**BOOKS, "files": [["a.parquet"], ["id.npy", "vector.npy"]]}
OBJECTS = {**BOOKS, "object_urls": [["s3://b/1.parquet"], ["s3://b/folder/"]], "access_key": "AK", "secret_key": "S/+="}
VOLUME = {**BOOKS, "volume_name": "v", "data_paths": [["1.parquet"], ["folder/"]]}

PAGES: Any = {"pageSize": (10, 100)}
CASES: dict[str, Case] = {
    "create: files": same(FILES),
    "create: files in a partition of a database": same({**FILES, "partition_name": "p"}, DATABASE),
    "create: files with options": same({**FILES, "options": {"auto_commit": "false", "timeout": "300s"}}),
    "create: files with a key": (FILES, {**FILES, "idempotency_key": "k"}, {}, {"Idempotency-Key": (None, "k")}),
    "create: objects": same(OBJECTS, CLUSTER),
    "create: objects with a token": (
        {**OBJECTS, "token": "T", **CLUSTER},
        {**OBJECTS, "session_token": "T"},
        CLUSTER,
        {},
    ),
    "create: objects into a project's database": same(OBJECTS, {**PROJECT, **DATABASE}),
    "create: a volume": same(VOLUME, CLUSTER),
    "create: a volume with all else": same(
        {**VOLUME, "partition_name": "ü", "options": {"timeout": "1h"}}, {**PROJECT, **DATABASE}
    ),
    "describe: milvus": same({"job_id": JOB}),
    "describe: a database": same({"job_id": JOB}, DATABASE),
    "describe: a cluster": same({"job_id": JOB}, CLUSTER),
    "describe: a cluster named in the call": same({"job_id": JOB, **CLUSTER}),
    "describe: a project": same({"job_id": JOB}, PROJECT),
    "list: all": same({}, **PAGES),
    "list: of a collection": same(BOOKS, **PAGES),
    "list: of a database": same(BOOKS, DATABASE, **PAGES),
    "list: of a cluster": same({}, CLUSTER, **PAGES),
    "list: of a project": same(BOOKS, PROJECT, **PAGES),
}
THEIRS = {"create": "bulk_import", "describe": "get_import_progress", "list": "list_import_jobs"}
OURS = {"create": "create_import_job", "describe": "get_import_progress", "list": "list_import_jobs"}


@pytest.fixture
def recorder(server: ScriptedServer) -> ScriptedServer:
    """Answers every call of the v2 API well."""
    for path, data in {V2_CREATE: {"jobId": JOB}, V2_LIST: {"records": []}, V2_COMMIT: {}, V2_ABORT: {}}.items():
        server.on(path, Answer({"code": 0, "data": data}))
    return server.v2(v2_job())


def said(asked: Asked) -> dict[str, Any]:
    """All that a request says: its headers that matter, and its body without the keys that are empty."""
    headers = {name: asked.header(name) for name in HEADERS}
    told = {"method": asked.method, "target": asked.target, **headers, **asked.json}
    return {name: value for name, value in told.items() if value not in (None, "", [], {})}


@pytest.mark.parametrize("name", CASES)
def test_the_same_but_for_what_is_named(recorder: ScriptedServer, connect: Connect, call: Call, name: str) -> None:
    theirs, ours, extra, expected = CASES[name]
    verb = name.partition(":")[0]
    connect({"api_version": "v2", **extra})
    getattr(bulk_writer, THEIRS[verb])(url=recorder.url, api_key=f"{TOKEN_LOGIN}:{TOKEN_PASSWORD}", **theirs)
    call(OURS[verb], **ours)

    their, our = map(said, recorder.asked)
    differs = {key: (their.get(key), our.get(key)) for key in their | our if their.get(key) != our.get(key)}
    assert differs == expected


def test_every_difference_is_explained_and_occurs() -> None:
    assert {name for *_, differs in CASES.values() for name in differs} == set(DIFFERENCES)


def test_pymilvus_cannot_commit_or_abort() -> None:
    """Once it can, compare these too, and drop the next test."""
    assert [name for name, _ in inspect.getmembers(bulk_writer) if "commit" in name or "abort" in name] == []


@pytest.mark.parametrize(("name", "path"), [("commit", V2_COMMIT), ("abort", V2_ABORT)])
@pytest.mark.parametrize(
    ("extra", "where"),
    [
        ({}, {}),
        (CLUSTER, {"clusterId": "in01-1"}),
        ({**PROJECT, **DATABASE}, {"projectId": "proj-1", "regionId": "aws-us-west-2", "DB-Name": "shop"}),
    ],
)
def test_commit_and_abort_are_as_documented(
    recorder: ScriptedServer, connect: Connect, call: Call, name: str, path: str, extra: Any, where: Any
) -> None:
    connect({"api_version": "v2", **extra})
    call(f"{name}_import_job", JOB)

    (asked,) = recorder.asked
    assert said(asked) == {
        "method": "POST",
        "target": path,
        "Authorization": f"Bearer {TOKEN_LOGIN}:{TOKEN_PASSWORD}",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "jobId": JOB,
        **where,
    }
