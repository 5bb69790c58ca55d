"""Issue 9, sections 6 and 7: old and new servers, and what is readable; and what section 3 asks of a single gate."""

from __future__ import annotations

import re
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_importprog import exceptions
from airflow_provider_importprog.exceptions import (
    ImportFilesFailed,
    ImportJobFailed,
    ImportJobUnknown,
    ImportProgressException,
    ImportSettingInvalid,
)
from airflow_provider_importprog.operators.import_job import CommitImportJobOperator, CreateImportJobOperator
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.acceptance.helpers import HTML, REFRESH, V2_PROGRESS, Imports, Task, Told, says
from tests.blackbox import world
from tests.blackbox.driver import Connect, Gate
from tests.blackbox.server import (
    JOB,
    V1_GET,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    Asked,
    ScriptedServer,
    unknown_job,
    v1_job,
    v2_file,
    v2_job,
)

DONE = v2_job("Completed")


@pytest.fixture(autouse=True)
def _v2(connect: Connect) -> None:
    connect({"api_version": "v2"})


class TestBeforeDescribe:
    """Milvus 2.4.0 to about 2.4.12 serve `get_progress` alone."""

    @pytest.mark.parametrize("version", ["v2", "auto"])
    def test_a_gate(self, server: ScriptedServer, connect: Connect, gate: Gate, version: str) -> None:
        connect({"api_version": version})
        server.on(V2_PROGRESS, v2_job(), v2_job(), v2_job(), DONE)
        assert gate.run()[0]["imported_rows"] == 5
        assert server.to(V2_PROGRESS)[0].json == {"jobId": JOB}
        if gate.mode != "reschedule":  # of which each poke is a process
            assert len(server.to(V2_DESCRIBE)) <= (1 if gate.mode == "poke" else 3)


def test_a_list_without_progress_is_not_behind(server: ScriptedServer) -> None:
    states = {"Importing": "InProgress"}

    def zilliz(asked: Asked, records: list[dict[str, Any]]) -> Answer:
        shown = [
            {"collectionName": "books", "jobId": one["jobId"], "state": states.get(one["state"], one["state"])}
            for one in records
        ]
        return Answer({"code": 0, "data": {"count": len(shown), "currentPage": 1, "pageSize": 100, "records": shown}})

    jobs = world.World(server, zilliz)
    policy = {"poke_interval": 0.1, "unknown_job_grace": 0, "outage_tolerance": 0}
    events = world.run(*[ImportProgressTrigger(job_id, **policy) for job_id in jobs.job_ids])
    assert {event["job_id"]: event["verdict"] for event in events} == jobs.verdicts
    lists = len(server.to(V2_LIST))
    assert world.describes(server) <= 2 * lists + world.GATES  # as with a list that shows it
    assert world.describes(server) + lists < world.GATES * world.LAST_END / 0.1 / 3


NAMES = ["dir/a.parquet", "dir/b.parquet", "dir/ab.parquet"]
REASONS = {
    "the reason names one": ("importing data failed: dir/b.parquet: row 7 has no vector", "dir/b.parquet"),
    "the end of another's name": ("cannot read 'dir/ab.parquet', row 7 has no vector", "dir/ab.parquet"),
    "bare": ("file ab.parquet: row 7 has no vector", "dir/ab.parquet"),
    "the reason names none": ("schema mismatch: row 7 has no vector", None),
}


class TestEveryFileIsBlamed:
    @pytest.mark.parametrize(("reason", "culprit"), REASONS.values(), ids=REASONS)
    def test_the_culprit_is_named(
        self, server: ScriptedServer, gate: Gate, reason: str, culprit: str | None, told: Told
    ) -> None:
        files = [v2_file(f"[{name}]", "Failed", reason=reason) for name in NAMES]
        server.v2(v2_job(), v2_job("Failed", reason=reason, files=files))
        with pytest.raises(ImportJobFailed) as caught:
            gate.run()
        said = str(caught.value)
        assert said.count("row 7 has no vector") == 1
        beside = said.replace(reason, "")
        assert [name for name in NAMES if re.search(rf"(?<![\w/]){re.escape(name)}", beside)] in (
            [[culprit]] if culprit else [[]]
        )
        if culprit:
            assert re.search(r"(?i)\bnot (been )?(judged|checked|examined|looked at)", said), said

    def test_one_with_a_reason_of_its_own_keeps_it(self, server: ScriptedServer, gate: Gate) -> None:
        reason = "two files are bad"
        files = [v2_file("[a]", "Failed", reason=reason), v2_file("[b]", "Failed", reason="no column x")]
        server.v2(v2_job("Failed", reason=reason, files=files))
        with pytest.raises(ImportJobFailed, match=r"b.*no column x") as caught:
            gate.run()
        assert str(caught.value).count(reason) == 1


def files_of(count: int, **more: Any) -> list[Any]:
    return [v2_file(f"[{number}.parquet]", **more) for number in range(count)]


SHORT = {
    "fewer rows": v2_job("Completed", importedRows=3, totalRows=5, files=files_of(1, importedRows=3)),
    "fewer rows of a file": v2_job("Completed", importedRows=5, totalRows=10, files=files_of(2, importedRows=0)),
    "no row": v2_job("Completed", importedRows=0, totalRows=5, files=files_of(1, importedRows=0)),
    "no file": v2_job("Completed", importedRows=0, totalRows=0, files=[]),
    "unfinished files": v2_job("Completed", files=[v2_file("[0.parquet]", "InProgress"), *files_of(1)]),
}


@pytest.mark.parametrize("name", SHORT)
def test_completed_and_yet_not_whole_opens_with_a_warning(
    server: ScriptedServer, gate: Gate, told: Told, name: str
) -> None:
    server.v2(v2_job(), SHORT[name])
    files = gate.run()
    assert len(files) == len(SHORT[name].body["data"]["details"])
    said = [line for line in told.warnings if JOB in line or "file" in line or "row" in line]
    assert [line for line in said if ("file" if "file" in name.replace("of a file", "") else "row") in line], said
    assert gate.ti.pushed["import_job"]["imported_rows"] == SHORT[name].body["data"]["importedRows"]


def test_a_whole_one_opens_without(server: ScriptedServer, gate: Gate, told: Told) -> None:
    server.v2(v2_job(), DONE)
    gate.run()
    assert not [line for line in told.warnings if JOB in line]


class TestMinRows:
    @pytest.mark.parametrize("deferred", [True, False])
    @pytest.mark.parametrize("soft_fail", [True, False])
    def test_fewer(self, server: ScriptedServer, gate: Gate, soft_fail: bool, deferred: bool) -> None:
        missing: Any = exceptions.ImportRowsMissing  # type: ignore[attr-defined]
        assert issubclass(missing, AirflowFailException)
        assert issubclass(missing, ImportProgressException)
        server.v2(*[v2_job()] * deferred, DONE)
        with pytest.raises(AirflowSkipException if soft_fail else missing, match=r"\b5\b.*\b6\b|\b6\b.*\b5\b"):
            gate.run(min_rows=6, soft_fail=soft_fail)
        assert len(gate.ti.pushed["return_value"]) == 1
        assert gate.ti.pushed["import_job"]["imported_rows"] == 5
        assert not gate.events or gate.events[-1]["verdict"] != "open"

    @pytest.mark.parametrize("min_rows", [None, 5])
    def test_enough(self, server: ScriptedServer, gate: Gate, min_rows: int | None) -> None:
        server.v2(v2_job(), DONE)
        assert gate.run(min_rows=min_rows)

    def test_failed_files_come_first(self, server: ScriptedServer, gate: Gate) -> None:
        server.v2(v2_job("Completed", files=[v2_file(reason="boom")]))
        with pytest.raises(ImportFilesFailed):
            gate.run(min_rows=6)

    def test_v1_counts_none(self, server: ScriptedServer, connect: Connect, gate: Gate) -> None:
        connect({"api_version": "v1"})
        server.v1(v1_job(), v1_job(done=True))
        with pytest.raises(ImportSettingInvalid, match=r"min_rows.*v1|v1.*min_rows"):
            gate.run(min_rows=1)

    @pytest.mark.parametrize("deferrable", [True, False])
    def test_create(self, imports: Imports, deferrable: bool) -> None:
        imports.state = "Completed"
        with pytest.raises(exceptions.ImportRowsMissing):  # type: ignore[attr-defined]
            Task(deferrable=deferrable)(min_rows=6)
        assert Task(deferrable=deferrable)(min_rows=5, idempotency_key="other")

    @pytest.mark.parametrize("wrong", [-1, True, "5", 1.5])
    def test_nonsense(self, wrong: Any) -> None:
        with pytest.raises(ImportSettingInvalid, match="min_rows"):
            ImportProgressSensor(task_id="gate", job_id=JOB, min_rows=wrong)


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
@pytest.mark.parametrize(("stall_warning", "moves", "times"), [(0.2, False, 1), (0, False, 0), (0.4, True, 0)])
def test_no_progress(
    server: ScriptedServer, mode: str, stall_warning: float, moves: bool, times: int, told: Told
) -> None:
    polls = [v2_job(progress=10 + moves * number) for number in range(15)]
    server.v2(*polls, DONE)
    assert Gate(mode).run(stall_warning=stall_warning)
    said = [line for line in told.warnings if re.search("(?i)no progress|not moved|stall|has not", line)]
    assert len(said) == times, told.warnings
    assert all(JOB in line for line in said)


def test_defaults() -> None:
    sensor = ImportProgressSensor(task_id="gate", job_id=JOB)
    assert (sensor.min_rows, sensor.refresh_load, sensor.stall_warning) == (None, False, 1800)


def test_how_long_records_are_kept(server: ScriptedServer, gate: Gate) -> None:
    server.v2(unknown_job())
    with pytest.raises(ImportJobUnknown, match=r"48 ?h"):
        gate.run()


class TestRefreshLoad:
    def test_the_sensor(self, server: ScriptedServer, gate: Gate, told: Told) -> None:
        server.v2(v2_job(), DONE).on(REFRESH, Answer({"code": 0, "data": {}}))
        assert gate.run(refresh_load=True)
        (asked,) = server.to(REFRESH)
        assert asked.json == {"collectionName": "books"}
        assert [one.path for one in server.asked][-1] == REFRESH
        assert re.search("(?i)refresh", told.text)

    @pytest.mark.parametrize("deferrable", [True, False])
    @pytest.mark.parametrize("operator", [CreateImportJobOperator, CommitImportJobOperator])
    def test_the_operators(self, imports: Imports, operator: Any, deferrable: bool) -> None:
        imports.state = "Completed"
        what = {} if operator is CreateImportJobOperator else {"job_id": imports.add([["a"]], "Uncommitted")}
        imports.server.on(REFRESH, Answer({"code": 0, "data": {}}))
        assert Task(operator, deferrable=deferrable)(refresh_load=True, **what)
        assert [asked.json["collectionName"] for asked in imports.server.to(REFRESH)] == ["books"]

    WRONG: dict[str, Answer | None] = {  # noqa: RUF012
        "404": None,
        "gateway's 404": says(5, "Not Found", 404),
        "not loaded": says(101, "collection not fully loaded"),
        "no privilege": says(1401, "permission deny", 403),
        "token": says(1800, "bad token", 401),
        "busy": says(8, "slow down", 429, {"Retry-After": "600"}),
        "500": Answer(HTML, 500),
        "page": Answer(HTML),
        "hangs up": Answer(how="close"),
        "late": Answer({"code": 0}, delay=3),
    }

    @pytest.mark.parametrize("wrong", WRONG)
    def test_it_never_fails_the_gate(
        self, server: ScriptedServer, connect: Connect, gate: Gate, wrong: str, told: Told
    ) -> None:
        connect({"api_version": "v2", "timeout": 0.5})
        answer = self.WRONG[wrong]
        server.v2(v2_job(), DONE)
        if answer is not None:
            server.on(REFRESH, answer)
        assert gate.run(refresh_load=True)[0]["imported_rows"] == 5
        assert server.to(REFRESH)
        assert [line for line in told.text.splitlines() if re.search("(?i)refresh|readable", line)]

    @pytest.mark.parametrize("version", ["v1", "auto"])
    def test_a_server_of_v1_alone(
        self, server: ScriptedServer, connect: Connect, gate: Gate, version: str, told: Told
    ) -> None:
        connect({"api_version": version})
        server.v1(v1_job(), v1_job(done=True))
        assert gate.run(refresh_load=True)
        assert server.to(V1_GET)
        assert [line for line in told.text.splitlines() if re.search("(?i)refresh|readable", line)]

    @pytest.mark.parametrize("case", ["not asked for", "job failed"])
    def test_it_is_not_asked_for(self, server: ScriptedServer, gate: Gate, case: str) -> None:
        server.v2(v2_job("Failed", reason="bad") if case == "job failed" else DONE)
        server.on(REFRESH, Answer({"code": 0, "data": {}}))
        if case == "job failed":
            with pytest.raises(ImportJobFailed):
                gate.run(refresh_load=True)
        else:
            assert gate.run()
        assert not server.to(REFRESH)


class TestOneGate:
    @pytest.mark.parametrize("more", [{}, {"auto_commit": True}, {"options": {"auto_commit": "true"}}])
    def test_abort_on_kill_takes_two_phases(self, more: dict[str, Any]) -> None:
        with pytest.raises(ImportSettingInvalid, match="auto_commit"):
            Task().make(abort_on_kill=True, **more)

    @pytest.mark.parametrize("more", [{"auto_commit": False}, {"options": {"auto_commit": "false"}}])
    def test_and_has_them(self, more: dict[str, Any]) -> None:
        assert Task().make(abort_on_kill=True, **more).abort_on_kill

    @pytest.mark.parametrize("deferred", [True, False])
    def test_an_aborted_import_is_told_apart(self, server: ScriptedServer, gate: Gate, deferred: bool) -> None:
        files = [v2_file("[a]", "Failed", reason="aborted by user")]
        server.v2(*[v2_job()] * deferred, v2_job("Failed", reason="aborted by user", files=files))
        with pytest.raises(ImportJobFailed, match=r"(was|is|has been) aborted") as caught:
            gate.run()
        assert not re.search(r"failed: *aborted by user", str(caught.value))
        assert not gate.events or "failed: aborted" not in gate.events[-1]["message"]

    @pytest.mark.parametrize("conn_id", ["importprog_default ", " importprog_default\n"])
    def test_a_blank_around_the_connections_id(self, server: ScriptedServer, gate: Gate, conn_id: str) -> None:
        server.v2(v2_job(), v2_job(), DONE)
        assert gate.run(importprog_conn_id=conn_id)
        rows = [one.trigger.serialize()[1]["importprog_conn_id"] for one in gate.deferred]
        assert set(rows) <= {"importprog_default"}

    @pytest.mark.parametrize("how", ["commit", "create"])
    def test_and_for_the_operators(self, imports: Imports, how: str) -> None:
        imports.state = "Completed"
        if how == "create":
            assert Task(deferrable=True)(importprog_conn_id="importprog_default ")
        else:
            job_id = imports.add([["a"]], "Uncommitted")
            task = Task(CommitImportJobOperator, deferrable=True)
            assert task(job_id=job_id, importprog_conn_id="importprog_default ")

    ENDS: dict[str, tuple[Answer, type[Exception] | None]] = {  # noqa: RUF012
        "completed": (DONE, None),
        "failed": (v2_job("Failed", reason="bad"), ImportJobFailed),
        "failed files": (v2_job("Completed", files=[v2_file(reason="boom")]), ImportFilesFailed),
        "down": (Answer(HTML, 500), ImportProgressException),
    }

    @pytest.mark.parametrize("end", ENDS)
    def test_do_xcom_push_false(self, server: ScriptedServer, gate: Gate, end: str) -> None:
        answer, expected = self.ENDS[end]
        if end == "down" and gate.mode == "reschedule":
            pytest.skip("bounded by the timeout alone")
        server.v2(v2_job(), answer)
        if expected is None:
            gate.run(do_xcom_push=False)
        else:
            with pytest.raises(expected):
                gate.run(do_xcom_push=False)
        assert "return_value" not in gate.ti.pushed
