"""Issue 9, sections 6 and 7: old and new servers, and what is readable; and what section 3 asks of a single gate."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_importprog import exceptions
from airflow_provider_importprog.exceptions import (
    ImportJobUnknown,
    ImportProgressException,
    ImportSettingInvalid,
)
from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook, ImportProgressHook
from airflow_provider_importprog.operators.import_job import CommitImportJobOperator, CreateImportJobOperator
from tests.acceptance.helpers import REFRESH, V2_PROGRESS, Imports, Task, says
from tests.blackbox.driver import Call, Connect
from tests.blackbox.server import (
    JOB,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    ScriptedServer,
    unknown_job,
    v2_job,
)

DONE = v2_job("Completed")


@pytest.fixture(autouse=True)
def _v2(connect: Connect) -> None:
    connect({"api_version": "v2"})


class TestBeforeDescribe:
    """Milvus 2.4.0 to about 2.4.12 serve `get_progress` alone."""

    def test_a_hook_stays_with_it(self, server: ScriptedServer) -> None:
        server.on(V2_PROGRESS, DONE)
        hook = ImportProgressHook()
        assert [hook.get_import_progress(JOB).state for _ in range(3)] == ["completed"] * 3

        async def ask() -> list[Any]:
            async with ImportProgressAsyncHook() as one:
                return [(await one.get_import_progress(JOB)).state for _ in range(3)]

        assert asyncio.run(ask()) == ["completed"] * 3
        assert (len(server.to(V2_DESCRIBE)), len(server.to(V2_PROGRESS))) == (2, 6)

    def test_its_answers_mean_the_same(self, server: ScriptedServer, call: Call) -> None:
        server.on(V2_PROGRESS, unknown_job())
        with pytest.raises(ImportJobUnknown):
            call.progress()

    def test_what_describe_says_stands(self, server: ScriptedServer, call: Call) -> None:
        server.v2(unknown_job(status=404)).on(V2_PROGRESS, DONE)
        with pytest.raises(ImportJobUnknown):
            call.progress()
        assert not server.to(V2_PROGRESS)

    def test_neither_is_served(self, server: ScriptedServer, call: Call) -> None:
        with pytest.raises(ImportProgressException) as caught:
            call.progress()
        assert not isinstance(caught.value, AirflowFailException)
        assert server.to(V2_PROGRESS)

    def test_the_connection_test_asks_what_a_gate_will(self, server: ScriptedServer, call: Call) -> None:
        server.on(V2_PROGRESS, unknown_job()).on(V2_LIST, Answer({"code": 0, "data": {"records": []}}))
        good, said = call("test_connection")
        assert good, said
        assert server.to(V2_PROGRESS)

    def test_a_server_of_neither_fails_the_connection_test(self, server: ScriptedServer, call: Call) -> None:
        server.on(V2_LIST, Answer({"code": 0, "data": {"records": []}}))
        good, said = call("test_connection")
        assert not good, said


class TestMinRows:
    @pytest.mark.parametrize("deferrable", [True, False])
    def test_create(self, imports: Imports, deferrable: bool) -> None:
        imports.state = "Completed"
        with pytest.raises(exceptions.ImportRowsMissing):  # type: ignore[attr-defined]
            Task(deferrable=deferrable)(min_rows=6)
        assert Task(deferrable=deferrable)(min_rows=5, idempotency_key="other")


class TestRefreshLoad:
    @pytest.mark.parametrize("db", [None, "shop"])
    def test_the_hook(self, server: ScriptedServer, connect: Connect, call: Call, db: str | None) -> None:
        connect({"api_version": "v2", **({"db_name": db} if db else {})})
        server.on(REFRESH, Answer({"code": 0, "data": {}}))
        call("refresh_load", "books")
        (asked,) = server.to(REFRESH)
        assert (asked.method, asked.json) == ("POST", {"collectionName": "books", **({"dbName": db} if db else {})})

    def test_the_hook_says_why_not(self, server: ScriptedServer, call: Call) -> None:
        server.on(REFRESH, says(101, "collection not fully loaded"))
        with pytest.raises(ImportProgressException, match="collection not fully loaded"):
            call("refresh_load", "books")

    @pytest.mark.parametrize("deferrable", [True, False])
    @pytest.mark.parametrize("operator", [CreateImportJobOperator, CommitImportJobOperator])
    def test_the_operators(self, imports: Imports, operator: Any, deferrable: bool) -> None:
        imports.state = "Completed"
        what = {} if operator is CreateImportJobOperator else {"job_id": imports.add([["a"]], "Uncommitted")}
        imports.server.on(REFRESH, Answer({"code": 0, "data": {}}))
        assert Task(operator, deferrable=deferrable)(refresh_load=True, **what)
        assert [asked.json["collectionName"] for asked in imports.server.to(REFRESH)] == ["books"]


class TestOneGate:
    @pytest.mark.parametrize("more", [{}, {"auto_commit": True}, {"options": {"auto_commit": "true"}}])
    def test_abort_on_kill_takes_two_phases(self, more: dict[str, Any]) -> None:
        with pytest.raises(ImportSettingInvalid, match="auto_commit"):
            Task().make(abort_on_kill=True, **more)

    @pytest.mark.parametrize("more", [{"auto_commit": False}, {"options": {"auto_commit": "false"}}])
    def test_and_has_them(self, more: dict[str, Any]) -> None:
        assert Task().make(abort_on_kill=True, **more).abort_on_kill

    @pytest.mark.parametrize("how", ["commit", "create"])
    def test_and_for_the_operators(self, imports: Imports, how: str) -> None:
        imports.state = "Completed"
        if how == "create":
            assert Task(deferrable=True)(importprog_conn_id="importprog_default ")
        else:
            job_id = imports.add([["a"]], "Uncommitted")
            task = Task(CommitImportJobOperator, deferrable=True)
            assert task(job_id=job_id, importprog_conn_id="importprog_default ")
