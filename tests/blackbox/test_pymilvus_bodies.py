"""What our hooks send, next to what pymilvus 3.0.2's own client of the v2 API sends for the same arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.blackbox.driver import TOKEN_LOGIN, TOKEN_PASSWORD, Call, Connect
from tests.blackbox.server import (
    JOB,
    V2_ABORT,
    V2_COMMIT,
    V2_CREATE,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    Asked,
    ScriptedServer,
    v2_job,
)

bulk_writer: Any = pytest.importorskip("pymilvus.bulk_writer")

HEADERS = ("Authorization", "Content-Type", "Accept", "DB-Name", "Idempotency-Key")
CLUSTER = {"cluster_id": "in01-1"}
PROJECT = {"project_id": "proj-1", "region_id": "aws-us-west-2"}
DATABASE = {"db_name": "shop"}

DIFFERENCES = {
    "Idempotency-Key": "pymilvus 3.0.2 has no parameter for it; 3.0.3 takes headers.",
    "pageSize": "A page has 10 jobs at pymilvus unless its caller asks for another; our hook turns the pages itself.",
}
"""All that may differ, but for keys that are empty, and why."""


@dataclass(frozen=True)
class Case:
    """One call, with the same meaning in both clients' words.

    :param theirs: keywords of pymilvus's function.
    :param ours: keywords of the hook's method.
    :param extra: of our connection: what pymilvus takes with each call.
    :param differs: those of `DIFFERENCES` that occur, as pymilvus sends it and as we do.
    """

    theirs: Mapping[str, Any]
    ours: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    differs: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


def same(arguments: Mapping[str, Any], extra: Mapping[str, Any] | None = None, **differs: tuple[Any, Any]) -> Case:
    """Both clients call these arguments the same."""
    return Case({**arguments, **(extra or {})}, arguments, extra or {}, differs)


BOOKS = {"collection_name": "books"}
FILES = {**BOOKS, "files": [["a.parquet"], ["id.npy", "vector.npy"]]}
OBJECTS = {**BOOKS, "object_urls": [["s3://b/1.parquet"], ["s3://b/folder/"]], "access_key": "AK", "secret_key": "S/+="}
VOLUME = {**BOOKS, "volume_name": "v", "data_paths": [["1.parquet"], ["folder/"]]}

CREATES = {
    "files": same(FILES),
    "files_in_a_partition_of_a_database": same({**FILES, "partition_name": "p"}, DATABASE),
    "files_with_options": same({**FILES, "options": {"auto_commit": "false", "timeout": "300s"}}),
    "files_with_a_key": Case(FILES, {**FILES, "idempotency_key": "k"}, differs={"Idempotency-Key": (None, "k")}),
    "objects": same(OBJECTS, CLUSTER),
    "objects_with_a_token": Case({**OBJECTS, "token": "T", **CLUSTER}, {**OBJECTS, "session_token": "T"}, CLUSTER),
    "objects_into_a_project_database": same(OBJECTS, {**PROJECT, **DATABASE}),
    "a_volume": same(VOLUME, CLUSTER),
    "a_volume_with_all_else": same(
        {**VOLUME, "partition_name": "ü", "options": {"timeout": "1h"}}, {**PROJECT, **DATABASE}
    ),
}
DESCRIBES = {
    "milvus": same({"job_id": JOB}),
    "a_database": same({"job_id": JOB}, DATABASE),
    "a_cluster": same({"job_id": JOB}, CLUSTER),
    "a_cluster_named_in_the_call": Case({"job_id": JOB, **CLUSTER}, {"job_id": JOB, **CLUSTER}),
    "a_project": same({"job_id": JOB}, PROJECT),
}
LISTS = {
    "all": same({}, pageSize=(10, 100)),
    "of_a_collection": same(BOOKS, pageSize=(10, 100)),
    "of_a_database": same(BOOKS, DATABASE, pageSize=(10, 100)),
    "of_a_cluster": same({}, CLUSTER, pageSize=(10, 100)),
    "of_a_project": same(BOOKS, PROJECT, pageSize=(10, 100)),
}
CALLS = [
    *(pytest.param("create", case, id=f"create_{name}") for name, case in CREATES.items()),
    *(pytest.param("describe", case, id=f"describe_{name}") for name, case in DESCRIBES.items()),
    *(pytest.param("list", case, id=f"list_{name}") for name, case in LISTS.items()),
]
THEIRS = {"create": "bulk_import", "describe": "get_import_progress", "list": "list_import_jobs"}
OURS = {"create": "create_import_job", "describe": "get_import_progress", "list": "list_import_jobs"}


@pytest.fixture
def recorder(server: ScriptedServer) -> ScriptedServer:
    """Answers every call of the v2 API well."""
    server.on(V2_CREATE, Answer({"code": 0, "data": {"jobId": JOB}})).on(V2_DESCRIBE, v2_job())
    server.on(V2_LIST, Answer({"code": 0, "data": {"records": []}}))
    return server.on(V2_COMMIT, Answer({"code": 0, "data": {}})).on(V2_ABORT, Answer({"code": 0, "data": {}}))


def said(asked: Asked) -> dict[str, Any]:
    """All that a request says: its headers that matter, and its body without the keys that are empty."""
    headers = {name: asked.header(name) for name in HEADERS}
    told = {"method": asked.method, "target": asked.target, **headers, **asked.json}
    return {name: value for name, value in told.items() if value not in (None, "", [], {})}


@pytest.mark.parametrize(("name", "case"), CALLS)
def test_the_same_but_for_what_is_named(
    recorder: ScriptedServer, connect: Connect, call: Call, name: str, case: Case
) -> None:
    connect({"api_version": "v2", **case.extra})
    getattr(bulk_writer, THEIRS[name])(url=recorder.url, api_key=f"{TOKEN_LOGIN}:{TOKEN_PASSWORD}", **case.theirs)
    call(OURS[name], **case.ours)

    theirs, ours = map(said, recorder.asked)
    differs = {key: (theirs.get(key), ours.get(key)) for key in theirs | ours if theirs.get(key) != ours.get(key)}
    assert differs == case.differs


def test_every_difference_is_explained_and_occurs() -> None:
    cases = [*CREATES.values(), *DESCRIBES.values(), *LISTS.values()]
    assert {name for case in cases for name in case.differs} == set(DIFFERENCES)


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
    recorder: ScriptedServer,
    connect: Connect,
    call: Call,
    name: str,
    path: str,
    extra: dict[str, str],
    where: dict[str, str],
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
