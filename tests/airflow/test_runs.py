"""The gate and the operators in DAG runs: what a driver that plays Airflow would only believe."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.airflow.harness import Airflow, Ran, task
from tests.blackbox.driver import AIRFLOW_2
from tests.blackbox.imports import ImportServer
from tests.blackbox.server import JOB, V2_ABORT, V2_COMMIT, V2_DESCRIBE, Answer, ScriptedServer, unknown_job, v2_job

Run = Callable[..., Ran]
HOW: dict[str, dict[str, Any]] = {"poke": {}, "reschedule": {"mode": "reschedule"}, "deferrable": {"deferrable": True}}
DOWN, DENIED = Answer(b"<html>", 503), Answer({"code": 1800, "message": "user hasn't authenticated"}, 401)
FAILED = v2_job("Failed", reason="disk full")
in_every_mode = pytest.mark.parametrize("how", HOW.values(), ids=HOW)
NATIVE = {"render_template_as_native_obj": True}


def gate(task_id: str = "gate", **kwargs: Any) -> str:
    patience = {"unknown_job_grace": 0.3, "outage_tolerance": 0.5, "timeout": 120}
    return task("ImportProgressSensor", task_id, **{"job_id": JOB, "poke_interval": 0.1, **patience, **kwargs})


def create(task_id: str = "gate", **kwargs: Any) -> str:
    given = {"collection_name": "books", "files": ["a.parquet"], "poke_interval": 0.1, "timeout": 120}
    return task("CreateImportJobOperator", task_id, **{**given, **kwargs})


class Clock:
    """A script of one path that keeps when it was asked. `script`: what it answers at each number of seconds."""

    def __init__(self, script: Callable[[float, int], Answer]) -> None:
        self._script = script
        self.times: list[float] = []

    def __call__(self, asked: Any) -> Answer:
        self.times.append(time.monotonic())
        return self._script(self.times[-1] - self.times[0], len(self.times))

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


@in_every_mode
def test_it_opens(run: Run, server: ScriptedServer, how: dict[str, Any]) -> None:
    server.v2(v2_job(), v2_job(), v2_job("Completed"))
    ran = run(gate(**how))
    assert ran.state == "success", ran.log
    assert ran.pushed()["return_value"][0]["file_name"] == "[a.parquet]"
    assert ran.pushed()["import_job"]["state"] == "completed"


class TestTimeOuts:
    @pytest.mark.parametrize("how", [HOW["poke"], HOW["deferrable"]], ids=["poke", "deferrable"])
    def test_execution_timeout_ends_the_try_alone_and_is_named(
        self, run: Run, server: ScriptedServer, how: dict[str, Any]
    ) -> None:
        server.v2(v2_job())
        ran = run(gate(execution_timeout=timedelta(seconds=1.5), retries=1, retry_delay=timedelta(0), **how))
        assert ran.state == "failed"
        assert ran.seconds < 45
        # As Airflow itself has it, who has tries left gets them: no AirflowSensorTimeout, which is final.
        assert [one.how for one in ran.noted] == ["retry", "failure"]
        if how:  # 2.11 raises an error without a log line before it calls the operator: there the log says it
            assert "execution_timeout" in (ran.log if AIRFLOW_2 else ran.error.message)

    @pytest.mark.parametrize("how", [HOW["poke"], HOW["deferrable"]], ids=["poke", "deferrable"])
    def test_the_lesser_of_both_ends_it(self, run: Run, server: ScriptedServer, how: dict[str, Any]) -> None:
        server.v2(v2_job())
        ran = run(gate(timeout=1.5, execution_timeout=timedelta(seconds=50), retries=1, **how))
        assert ran.seconds < 45
        assert "AirflowSensorTimeout" in ran.error.types
        assert "execution_timeout" not in ran.error.message
        assert [one.how for one in ran.noted] == ["failure"]

    # 2.11 has nowhere to keep when a deferred task's first try began.
    @pytest.mark.parametrize(
        "how", [HOW["reschedule"], *([] if AIRFLOW_2 else [HOW["deferrable"]])], ids=lambda how: next(iter(how))
    )
    def test_timeout_spans_tries(self, run: Run, server: ScriptedServer, how: dict[str, Any]) -> None:
        denied: list[float] = []

        def script(seconds: float, _: int) -> Answer:
            if seconds > 8 and (not denied or seconds < denied[0] + 0.5):
                denied.append(seconds)
                return DENIED
            return v2_job()

        clock = Clock(script)
        server.v2(clock)
        ran = run(gate(timeout=14, retries=2, retry_delay=timedelta(seconds=0.6), **how))
        assert "AirflowSensorTimeout" in ran.error.types
        assert ran.noted[0].how == "retry"
        assert clock.times[-1] - clock.times[0] < 21, "the second try began to count anew"


class TestEndedByAPerson:
    @pytest.mark.parametrize("deferrable", [False, True])
    @pytest.mark.parametrize("abort", [False, True])
    def test_execution_timeout_aborts_or_says_that_it_goes_on(
        self, run: Run, server: ScriptedServer, deferrable: bool, abort: bool
    ) -> None:
        imports = ImportServer(server)
        imports.state = "Uncommitted"
        limit = timedelta(seconds=4)
        ran = run(create(auto_commit=False, abort_on_kill=abort, deferrable=deferrable, execution_timeout=limit))
        assert ran.state == "failed"
        assert len(imports.creates) == 1
        assert [asked.json["jobId"] for asked in server.to(V2_ABORT)] == ["1000"] * abort
        assert abort or re.search(r"(?i)job '?1000'? .*go(es)? on", ran.log)

    def test_a_time_out_of_the_gate_aborts_nothing(self, run: Run, server: ScriptedServer) -> None:
        ImportServer(server).state = "Uncommitted"
        ran = run(create(auto_commit=False, abort_on_kill=True, deferrable=True, timeout=1))
        assert "AirflowSensorTimeout" in ran.error.types
        assert not server.to(V2_ABORT)

    def test_a_deferred_gate_says_that_its_job_goes_on(self, run: Run, server: ScriptedServer) -> None:
        server.v2(v2_job())
        ran = run(gate(deferrable=True, execution_timeout=timedelta(seconds=3)))
        assert re.search(rf"(?i)job '?{JOB}'? .*go(es)? on", ran.log + ran.error.message)

    def test_sigterm_on_a_worker(self, run: Run, server: ScriptedServer) -> None:
        imports = ImportServer(server)
        imports.state = "Uncommitted"
        waits = lambda: len(server.to(V2_DESCRIBE)) > 1  # noqa: E731
        ran = run(create(auto_commit=False, abort_on_kill=True), kill_when=waits)
        assert [asked.json["jobId"] for asked in server.to(V2_ABORT)] == ["1000"]
        assert ran.state == "failed"


class TestReschedule:
    def test_unknown_for_longer_than_the_grace(self, run: Run, server: ScriptedServer) -> None:
        server.v2(unknown_job())
        ran = run(gate(mode="reschedule", unknown_job_grace=0.6, retries=1))
        assert "ImportJobUnknown" in ran.error.types
        assert [one.how for one in ran.noted] == ["failure"]
        assert len(server.to(V2_DESCRIBE)) >= 2

    @pytest.mark.parametrize("before", [[], [v2_job()] * 3], ids=["at once", "after a wait"])
    def test_one_unknown_answer_ends_nothing(self, run: Run, server: ScriptedServer, before: list[Answer]) -> None:
        server.v2(*before, unknown_job(), v2_job(), v2_job("Completed"))
        ran = run(gate(mode="reschedule", unknown_job_grace=0.2, poke_interval=0.5))
        assert ran.state == "success", ran.error.message

    def test_a_short_outage_ends_nothing(self, run: Run, server: ScriptedServer) -> None:
        server.v2(v2_job(), DOWN, DOWN, v2_job(), DOWN, v2_job("Completed"))
        assert run(gate(mode="reschedule", outage_tolerance=30)).state == "success"

    def test_a_long_outage_ends_it(self, run: Run, server: ScriptedServer) -> None:
        server.v2(v2_job(), DOWN)
        ran = run(gate(mode="reschedule", outage_tolerance=1, timeout=4 if AIRFLOW_2 else 120))
        assert ("AirflowSensorTimeout" if AIRFLOW_2 else "ImportApiUnreachable") in ran.error.types
        assert ran.seconds < 45


class TestRescheduleWhereItWouldImportAgain:
    """A task policy and 2.11's DebugExecutor set `mode` on the finished operator."""

    @pytest.fixture
    def imports(self, server: ScriptedServer) -> ImportServer:
        imports = ImportServer(server, honours_key=False)
        imports.state = "Importing"

        def advance(asked: Any) -> Answer:
            answer = imports._describe(asked)
            if len(server.to(V2_DESCRIBE)) > 3:
                imports.end()
            return answer

        server.on(V2_DESCRIBE, advance)
        return imports

    @pytest.mark.parametrize(
        ("line", "path"),
        [(create(), None), (task("CommitImportJobOperator", job_id="1000", poke_interval=0.1), V2_COMMIT)],
        ids=["create", "commit"],
    )
    def test_after_construction(self, run: Run, imports: ImportServer, line: str, path: str | None) -> None:
        ran = run(line, "gate.mode = 'reschedule'")
        assert ran.state == "failed"
        assert "ImportSettingInvalid" in ran.error.types
        assert "reschedule" in ran.error.message
        assert not imports.creates
        assert not imports.server.to(path or V2_DESCRIBE)

    @pytest.mark.skipif(not AIRFLOW_2, reason="the DebugExecutor of Airflow 3 leaves the mode alone")
    def test_debug_executor(self, run: Run, imports: ImportServer) -> None:
        ran = run(create(), gate("sensor", job_id="1000"), env={"AIRFLOW__CORE__EXECUTOR": "DebugExecutor"})
        assert "ImportSettingInvalid" in next(one for one in ran.noted if one.task == "gate").types
        assert not imports.creates

    @pytest.mark.parametrize("how", [{"deferrable": True}, {"wait": False}], ids=["deferrable", "no wait"])
    @pytest.mark.parametrize("after", [False, True], ids=["default_args", "after construction"])
    def test_where_it_does_not_reschedule(
        self, run: Run, imports: ImportServer, how: dict[str, Any], after: bool
    ) -> None:
        given = {} if after else {"mode": "reschedule"}
        ran = run(create(**how), *["gate.mode = 'reschedule'"] * after, default_args=given)
        assert ran.states.get("gate") == "success", ran.log
        assert len(imports.creates) == 1

    def test_a_deferrable_sensor_with_default_args(self, run: Run, server: ScriptedServer) -> None:
        server.v2(v2_job(), v2_job(), v2_job("Completed"))
        ran = run(gate(deferrable=True), default_args={"mode": "reschedule"})
        assert ran.state == "success"
        assert ran.log.count("UP_FOR_RESCHEDULE") == 0


class TestNativeRendering:
    LOST = ("1e5", "True", "1.50")
    CREATE: tuple[tuple[str, Any], ...] = (
        ("collection_name", "{}"),
        ("partition_name", "{}"),
        ("files", ["a.parquet", ["{}"]]),
        ("options", {"timeout": "{}"}),
        ("idempotency_key", "{}"),
        ("cluster_id", "{}"),
    )

    @staticmethod
    def fill(shape: Any, text: str) -> Any:
        if isinstance(shape, str):
            return shape.format(text)
        fill = TestNativeRendering.fill
        return (
            {k: fill(v, text) for k, v in shape.items()} if isinstance(shape, dict) else [fill(v, text) for v in shape]
        )

    @pytest.mark.parametrize("text", ["2024", "{{{{ 2000 + 24 }}}}"], ids=["literal", "template"])
    def test_what_was_written_is_sent(self, run: Run, server: ScriptedServer, text: str) -> None:
        imports = ImportServer(server)
        text = text.format()
        fields = {name: self.fill(shape, text) for name, shape in self.CREATE}
        ran = run(create(wait=False, **fields), dag=NATIVE)
        assert ran.state == "success", ran.error.message
        sent = imports.creates[0]
        assert sent.header("Idempotency-Key") == "2024"
        assert {name: sent.json[name] for name in ("collectionName", "partitionName", "files", "options")} == {
            "collectionName": "2024",
            "partitionName": "2024",
            "files": [["a.parquet"], ["2024"]],
            "options": {"timeout": "2024"},
        }
        assert sent.json["clusterId"] == "2024"

    def test_urls_and_data_paths(self, run: Run, server: ScriptedServer) -> None:
        imports = ImportServer(server)
        volume = {"files": None, "volume_name": "7", "data_paths": ["8", ["9"]]}
        ran = run(create("volume", wait=False, **volume), dag=NATIVE)
        assert ran.states == {"volume": "success"}, ran.log
        sent = imports.creates[0].json
        assert (sent["volumeName"], sent["dataPaths"]) == ("7", [["8"], ["9"]])

    def test_ids_of_a_job_and_a_cluster(self, run: Run, server: ScriptedServer) -> None:
        ids = {"job_id": "448712345678901234", "cluster_id": "12"}
        server.v2(v2_job("Completed", jobId=ids["job_id"]))
        server.on(V2_COMMIT, Answer({"code": 0})).on(V2_ABORT, Answer({"code": 0}))
        others = [task(f"{verb}ImportJobOperator", verb, **ids) for verb in ("Commit", "Abort")]
        ran = run(gate(**ids), *others, dag=NATIVE)
        assert set(ran.states.values()) == {"success"}, ran.log
        for asked in server.asked:
            if asked.method == "POST":
                assert asked.json["jobId"] == "448712345678901234"
                assert asked.json.get("clusterId", "12") == "12"
        assert server.to(V2_COMMIT)
        assert server.to(V2_ABORT)

    def test_what_is_lost_is_an_error_that_names_the_setting(self, run: Run, server: ScriptedServer) -> None:
        ImportServer(server)
        named, tasks = {}, []
        for text in self.LOST:
            for name, shape in self.CREATE:
                named[f"t{len(tasks)}"] = name
                tasks.append(create(f"t{len(tasks)}", wait=False, **{name: self.fill(shape, text)}))
            for operator in ("ImportProgressSensor", "CommitImportJobOperator", "AbortImportJobOperator"):
                named[f"t{len(tasks)}"] = "job_id"
                tasks.append(task(operator, f"t{len(tasks)}", job_id=text))
        ran = run(*tasks, dag=NATIVE)
        assert ran.states == dict.fromkeys(named, "failed")
        assert not server.asked, "nothing may be sent"
        for one in ran.noted:
            assert "ImportSettingInvalid" in one.types, one
            assert "render_template_as_native_obj" in one.message, one
            assert named[one.task] in one.message, one

    def test_a_template_that_hands_a_list_on(self, run: Run, server: ScriptedServer) -> None:
        """What native rendering is for goes on working."""
        imports = ImportServer(server)
        ran = run(create(wait=False, files="{{ ['x.parquet', 'y.parquet'] }}"), dag=NATIVE)
        assert ran.state == "success", ran.error.message
        assert imports.creates[0].json["files"] == [["x.parquet"], ["y.parquet"]]


class TestSensorParameters:
    @in_every_mode
    def test_soft_fail(self, run: Run, server: ScriptedServer, how: dict[str, Any]) -> None:
        server.v2(v2_job(), v2_job(), FAILED)
        ran = run(gate(soft_fail=True, **how))
        assert ran.state == "skipped"
        assert ran.pushed()["return_value"]

    @in_every_mode
    @pytest.mark.parametrize("end", [v2_job("Completed"), FAILED], ids=["opens", "fails"])
    def test_do_xcom_push(self, run: Run, server: ScriptedServer, how: dict[str, Any], end: Answer) -> None:
        server.v2(v2_job(), v2_job(), end)
        ran = run(gate(do_xcom_push=False, **how))
        assert ran.state in ("success", "failed")
        assert "return_value" not in ran.pushed()

    @in_every_mode
    def test_exponential_backoff(self, run: Run, server: ScriptedServer, how: dict[str, Any]) -> None:
        clock = Clock(lambda _, asked: v2_job("Completed" if asked > 3 else "Importing"))
        server.v2(clock)
        ran = run(gate(poke_interval=0.4, exponential_backoff=True, **how))
        assert ran.state == "success"
        # The base class sleeps a second at least; any doubling comes to 0.8 s. The first gap may be a deferral.
        assert max(clock.gaps[1:]) > 0.75, clock.gaps

    @in_every_mode
    def test_max_wait(self, run: Run, server: ScriptedServer, how: dict[str, Any]) -> None:
        clock = Clock(lambda _, asked: v2_job("Completed" if asked > 5 else "Importing"))
        server.v2(clock)
        ran = run(gate(poke_interval=3, exponential_backoff=True, max_wait=0.3, **how))
        assert ran.state == "success"
        assert sorted(clock.gaps)[len(clock.gaps) // 2] < 2.5, clock.gaps

    @in_every_mode
    @pytest.mark.parametrize("trouble", [DOWN, DENIED], ids=["down", "denied"])
    def test_silent_fail(self, run: Run, server: ScriptedServer, how: dict[str, Any], trouble: Answer) -> None:
        server.v2(v2_job(), v2_job(), *[trouble] * 5, v2_job("Completed"))
        ran = run(gate(silent_fail=True, outage_tolerance=0, **how))
        assert ran.state == "success", ran.error.message

    @in_every_mode
    def test_silent_fail_hides_no_verdict(self, run: Run, server: ScriptedServer, how: dict[str, Any]) -> None:
        server.v2(v2_job(), v2_job(), FAILED)
        assert "ImportJobFailed" in run(gate(silent_fail=True, **how)).error.types

    @in_every_mode
    @pytest.mark.parametrize("conn_id", ["importprog_default ", "{{ ' importprog_default\n' }}"])
    def test_a_blank_around_the_connection_id(
        self, run: Run, server: ScriptedServer, how: dict[str, Any], conn_id: str
    ) -> None:
        server.v2(v2_job(), v2_job(), v2_job("Completed"))
        ran = run(gate(importprog_conn_id=conn_id, **how))
        assert ran.state == "success", ran.error.message


def test_abort_on_kill_with_a_job_that_commits_by_itself_is_refused_at_parsing(airflow: Airflow) -> None:
    ran = airflow.run(create(abort_on_kill=True))
    assert ran.exit_code != 0
    assert not ran.states
    assert "ImportSettingInvalid" in ran.log
    assert "auto_commit" in ran.log
