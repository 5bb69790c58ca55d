"""The gate in its three modes, row by row of the design's table."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportConnectionNotFound,
    ImportFilesFailed,
    ImportJobFailed,
    ImportJobUnknown,
    ImportProgressException,
    ImportRowsMissing,
    ImportSettingInvalid,
)
from airflow_provider_importprog.hooks.import_progress import ImportProgressHook
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox.driver import MODES, TOKEN_PASSWORD, Connect, Gate, fire
from tests.blackbox.imports import BrokenStore, Store
from tests.blackbox.server import (
    JOB,
    V1_GET,
    V2_DESCRIBE,
    Answer,
    ScriptedServer,
    unknown_job,
    v1_file,
    v1_job,
    v2_file,
    v2_job,
)

HTML = b"<html><body>Bad Gateway</body></html>"
DOWN = Answer(HTML, 500)
V2_REFRESH = "/v2/vectordb/collections/refresh_load"


@dataclass
class Case:
    """What the server answers, the last for ever, and what comes of it.

    :param error: what the gate fails with, or None where it opens.
    :param words: what the error, or the log of a gate that opens, says.
    :param files: the names in the return value, or None where nothing is pushed.
    """

    script: list[Answer]
    error: type[Exception] | None = None
    words: str = ""
    files: list[str] | None = field(default_factory=lambda: ["[a.parquet]"])
    settings: dict[str, Any] = field(default_factory=dict)
    dialect: str = "v2"


def waits(*answers: Answer, **settings: Any) -> Case:
    return Case([*answers, v2_job("Completed")], settings=settings)


BLAMED = [v2_file(f"[b/{name}.json]", "Failed", reason="row 7 of b/1.json is bad") for name in (1, 2)]
CASES = {
    # A job that goes on, or in a state that is not known.
    **{state: waits(v2_job(state, files=[v2_file()]), v2_job(state)) for state in (
        "Pending", "PreImporting", "Importing", "Uncommitted", "Committing", "Sorting", "IndexBuilding")},
    "v1": Case([v1_job(), v1_job(), v1_job(done=True)], files=["a.parquet"], dialect="v1"),
    "v1 at 100 %": Case([v1_job(readyPercentage=100), v1_job(done=True)], files=["a.parquet"], dialect="v1"),
    "v1 unknown type": Case([v1_job(completeTime="Unknown type", errorMessage="Unknown type"), v1_job(done=True)],
                            files=["a.parquet"], dialect="v1"),
    "v1 file done": Case([v1_job(files=[v1_file(done=True)]), v1_job(done=True)], files=["a.parquet"], dialect="v1"),
    # It opens.
    "Uncommitted is enough": Case([v2_job(), v2_job("Uncommitted")], settings={"wait_for": "uncommitted"}),
    "Committing is enough": Case([v2_job(), v2_job("Committing")], settings={"wait_for": "uncommitted"}),
    "Completed is enough": waits(v2_job(), wait_for="uncommitted"),
    "failed files allowed": Case([v2_job(), v2_job("Completed", files=[v2_file(reason="boom"), v2_file()])],
                                 words="1 of its 2 files", files=["[a.parquet]"] * 2,
                                 settings={"allow_failed_files": True}),
    "rows enough": waits(v2_job(), min_rows=5),
    "fewer rows than announced": Case([v2_job(), v2_job("Completed", importedRows=4)],
                                      words="4 of the 5 rows that it announced were imported"),
    "no row": Case([v2_job(), v2_job("Completed", importedRows=0)], words="0 of the 5 rows that it announced"),
    "no file at all": Case([v2_job(), v2_job("Completed", files=[])], words="no file of it", files=[]),
    "a file that is not": Case([v2_job(), v2_job("Completed", files=[v2_file(state="Importing")])],
                               words="0 of its 1 file"),
    # It fails for good.
    "failed": Case([v2_job(), v2_job("Failed", reason="disk full", files=[v2_file("[b]", "Failed", reason="row 7")])],
                   ImportJobFailed, "disk full. [b]: row 7", ["[b]"]),
    "failed at once": Case([v2_job("Failed", reason="disk full", files=[])], ImportJobFailed, "disk full", []),
    "every file blamed": Case([v2_job(), v2_job("Failed", reason="row 7 of b/1.json is bad", files=BLAMED)],
                              ImportJobFailed, "is bad. The file: [b/1.json]. The other file was not judged.",
                              ["[b/1.json]", "[b/2.json]"]),
    "aborted": Case([v2_job(), v2_job("Failed", reason="aborted by user")], ImportJobFailed, "was aborted"),
    "failed file": Case(
        [v1_job(), v1_job(done=True, files=[v1_file("bad.parquet", done=True, error="boom"), v1_file(done=True)])],
        ImportFilesFailed, "bad.parquet: boom", ["bad.parquet", "a.parquet"], dialect="v1"),
    "rows missing": Case([v2_job(), v2_job("Completed")], ImportRowsMissing, "5 rows, and min_rows is 6",
                         settings={"min_rows": 6}),
    "a failed file before missing rows": Case([v2_job("Completed", files=[v2_file(reason="boom")])], ImportFilesFailed,
                                              "boom", settings={"min_rows": 6}),
    "unknown": Case([unknown_job()], ImportJobUnknown, "48 h", None, {"unknown_job_grace": 0.2}),
    # It fails, and a retry may help.
    "v1 counts no rows": Case([v1_job(), v1_job(done=True)], ImportSettingInvalid, "counts no rows", ["a.parquet"],
                              {"min_rows": 1}, "v1"),
    **{f"unauthorized {number}": Case([v2_job(), answer], ImportApiUnauthorized, "Check the login", None,
                                      {"outage_tolerance": 900, "unknown_job_grace": 900})
       for number, answer in enumerate([
           Answer({"code": 1800, "message": "user hasn't authenticated"}),
           Answer({"code": 1400, "message": "bad token"}, 401),
           Answer({"code": 1401, "message": "permission deny"}),
           Answer(HTML, 401),
           Answer(HTML, 403),
           *(Answer({"code": code, "message": "Token not found"}, 404) for code in (21119, 80001, 80002))])},
    # The server is in trouble, and then not.
    "unknown at first": waits(unknown_job(), unknown_job(status=404), v2_job(), unknown_job_grace=10),
    **{f"outage: {name}": waits(v2_job(), answer, answer, outage_tolerance=60) for name, answer in {
        "500": DOWN,
        "html": Answer(HTML, 200),
        "redirect": Answer(b"", 302, {"Location": "http://127.0.0.1:9/"}),
        "other job": v2_job("Completed", jobId="job-2"),
        "refused": Answer({"code": 65535, "message": "internal"}),
        "rate code": Answer({"code": 1807, "message": "slow down"}),
        "rate code of Zilliz": Answer({"code": 4, "message": "slow down"}),
        "gave up": Answer({"code": 10001, "message": "request timeout"}, 408),
        "cancelled": Answer({"code": 10000, "message": "context canceled"}),
        "no database": Answer({"code": 800, "message": "database not found[database=shop]"}),
        "no database on 404": Answer({"code": 800, "message": "database not found[database=shop]"}, 404),
        "no collection": Answer({"code": 100, "message": "collection not found[collection=books]"}, 404),
        "no node": Answer({"code": 2100, "message": "importing data failed: node not found[node=7]"}),
        "no route": Answer({"code": 404, "message": "route not found"}, 404),
        "gateway": Answer({"code": 5, "message": "Not Found", "details": []}, 404),
        "no state": v2_job(state=None),  # type: ignore[arg-type]
        "garbage": Answer(b"\0\1\2 no http", how="garbage")}.items()},
}  # fmt: skip


def play(server: ScriptedServer, case: Case) -> ScriptedServer:
    return server.on(V1_GET if case.dialect == "v1" else V2_DESCRIBE, *case.script)


class Told:
    """What was logged, wherever this Airflow puts it: the logging module, or structlog's standard output."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        caplog.set_level(logging.INFO)
        self._caplog, self._capfd = caplog, capfd
        self._printed: list[str] = []

    def count(self, words: str) -> int:
        """Return how many messages hold some words; each may be seen in both."""
        captured = self._capfd.readouterr()
        self._printed += [*captured.out.splitlines(), *captured.err.splitlines()]
        logged = sum(words in record.getMessage() for record in self._caplog.records)
        return max(logged, sum(words in line for line in self._printed))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Told:
    return Told(caplog, capfd)


@pytest.mark.parametrize("name", CASES)
def test_every_mode_comes_to_the_same_verdict(server: ScriptedServer, gate: Gate, name: str, told: Told) -> None:
    case = CASES[name]
    play(server, case)
    if case.error is None:
        files = gate.run(**case.settings)
        assert [file["file_name"] for file in files] == case.files
        assert told.count(case.words) == 1 or not case.words
        assert (told.count("is completed, but") == 1) is bool(case.words)
        json.dumps([files, gate.ti.pushed])
    else:
        with pytest.raises(case.error) as caught:
            gate.run(**case.settings)
        assert case.words in str(caught.value)
        files = gate.ti.pushed.get("return_value")
        assert (files and [file["file_name"] for file in files]) == case.files or not issubclass(
            case.error, AirflowFailException
        )
        assert case.files is None or caught.value.job.to_dict()["files"] == files
    if case.error is ImportApiUnauthorized and gate.mode == "reschedule":
        assert not gate.ti.pushed  # this process has seen no job
    elif case.error is not ImportJobUnknown:
        assert gate.ti.pushed["import_job"]["job_id"] == JOB
        assert "files" not in gate.ti.pushed["import_job"]


@pytest.mark.parametrize("option", ["soft_fail", "never_fail", "do_xcom_push"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.error and name != "failed at once"])
def test_every_mode_skips_and_pushes_as_it_is_told(server: ScriptedServer, gate: Gate, name: str, option: str) -> None:
    case = CASES[name]
    assert case.error is not None
    play(server, case)
    final = issubclass(case.error, AirflowFailException)
    skips = option == "never_fail" or (option == "soft_fail" and final)
    with pytest.raises(AirflowSkipException if skips else case.error) as caught:
        gate.run(**case.settings, **{option: option != "do_xcom_push"})
    assert case.words in str(caught.value)
    if option == "do_xcom_push":
        assert "return_value" not in gate.ti.pushed
        if not (gate.mode == "reschedule" and case.error is ImportApiUnauthorized):
            assert ("import_job" in gate.ti.pushed) is (name != "unknown")


class TestOutage:
    """Longer than the tolerance."""

    @pytest.mark.parametrize("soft_fail", [False, True])
    @pytest.mark.parametrize(("mode", "store"), [("poke", None), ("deferrable", None), ("reschedule", Store)])
    def test_it_fails_with_what_is_known(
        self, server: ScriptedServer, connect: Connect, mode: str, store: Any, soft_fail: bool
    ) -> None:
        server.v2(v2_job(), DOWN)
        gate = Gate(mode, store and store())
        with pytest.raises(ImportApiUnreachable) as caught:
            gate.run(outage_tolerance=0.3, soft_fail=soft_fail)
        assert not isinstance(caught.value, AirflowFailException)
        if mode != "reschedule":  # whose processes remember what was seen, and not the job
            assert caught.value.job.job_id == gate.ti.pushed["import_job"]["job_id"] == JOB

    @pytest.mark.parametrize("store", [None, BrokenStore])
    def test_without_a_store_the_timeout_bounds_it(self, server: ScriptedServer, connect: Connect, store: Any) -> None:
        server.v2(DOWN)
        with pytest.raises(AirflowSensorTimeout, match=r"within 1 s \(timeout\)"):
            Gate("reschedule", store and store()).run(outage_tolerance=0.1, timeout=1)

    @pytest.mark.parametrize("mode", MODES)
    def test_silent_fail_logs_it_and_waits_on(
        self, server: ScriptedServer, connect: Connect, mode: str, told: Told
    ) -> None:
        server.v2(DOWN, Answer(HTML, 401), DOWN, v2_job("Completed"))
        assert Gate(mode, Store()).run(outage_tolerance=0, silent_fail=True)
        assert told.count("waits on, because silent_fail") >= 2

    @pytest.mark.parametrize(
        "value",
        [
            "3600",
            "99999999999999",
            pytest.param("9" * 400, id="400 digits"),
            "junk",
            "-5",
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ],
    )
    def test_reschedule_survives_any_retry_after(self, server: ScriptedServer, connect: Connect, value: str) -> None:
        from airflow.exceptions import AirflowRescheduleException

        connect({"api_version": "v2"})
        server.v2(Answer({"code": 8}, 429, {"Retry-After": value}))
        gate = Gate("reschedule")
        with pytest.raises(AirflowRescheduleException):
            gate.sensor(timeout=86400).execute(gate.context)

    def test_a_long_retry_after_does_not_outlast_the_timeout(self, server: ScriptedServer, connect: Connect) -> None:
        connect({"api_version": "v2"})
        server.v2(Answer({"code": 8}, 429, {"Retry-After": "11"}))
        began = time.monotonic()
        with pytest.raises((AirflowSensorTimeout, ImportApiUnreachable)):
            Gate("poke").run(timeout=1, outage_tolerance=12)
        assert time.monotonic() - began < 5


class TestProcesses:
    """One verdict however often a process ends."""

    @pytest.mark.parametrize("store", [None, BrokenStore, Store])
    def test_in_reschedule_mode_one_answer_unknown_decides_nothing(
        self, server: ScriptedServer, connect: Connect, store: Any
    ) -> None:
        server.v2(v2_job(), v2_job(), unknown_job(), v2_job(), unknown_job(), v2_job("Completed"))
        assert Gate("reschedule", store and store()).run(unknown_job_grace=0)

    @pytest.mark.parametrize("mode", MODES)
    def test_the_log_repeats_nothing(self, server: ScriptedServer, connect: Connect, mode: str, told: Told) -> None:
        server.v2(*[v2_job("Uncommitted")] * 3, *[v2_job()] * 9, v2_job("Completed"))
        store = Store()
        assert Gate(mode, store).run(stall_warning=0.2)
        assert list(store.kept) == (["importprog_gate"] if mode != "poke" else [])
        assert len(store.written) < 5  # only where there was something new
        for words in ("Waiting for", "until somebody commits", "job-1: importing, 40 %", "has made no progress"):
            assert told.count(words) == 1, words

    @pytest.mark.parametrize(("clear", "anew"), [(False, False), (True, True)])
    @pytest.mark.parametrize("mode", ["deferrable", "reschedule"])
    def test_the_start_is_kept_over_tries_until_the_task_is_cleared(
        self, server: ScriptedServer, connect: Connect, mode: str, clear: bool, anew: bool
    ) -> None:
        server.v2(v2_job(), DOWN)
        gate = Gate(mode, Store())
        gate.ti.max_tries = 3
        with pytest.raises(ImportApiUnreachable):
            gate.run(outage_tolerance=0.1, retries=3)
        started_at = gate.context["task_state_store"].get("importprog_gate")["started_at"]
        began = time.time()
        gate.ti.start_date = datetime.now(timezone.utc)
        gate.ti.try_number, gate.ti.max_tries = 2, 4 if clear else 3  # as Airflow's clear_task_instances does
        with suppress(TaskDeferred, AirflowException):
            gate.sensor(retries=3, outage_tolerance=0.1).execute(gate.context)
        kept = gate.context["task_state_store"].get("importprog_gate")
        assert (kept["started_at"] != started_at) is anew
        assert kept["state"].get("outage_since", began) >= began - 0.01  # an outage ends with its try

    def test_what_was_waited_counts_for_the_timeout(self, server: ScriptedServer, connect: Connect) -> None:
        """Over a resume that defers again."""
        server.v2(v2_job())
        gate = Gate("deferrable")
        resumed = gate.sensor(timeout=100)
        event = {"job_id": JOB, "verdict": "open", "message": "x"}
        with pytest.raises(TaskDeferred) as deferred:
            resumed.execute_complete(gate.context, event, started_at=time.time() - 60)
        assert 38 < deferred.value.timeout.total_seconds() < 41
        assert deferred.value.kwargs["started_at"] == pytest.approx(time.time() - 60, abs=2)
        with pytest.raises(AirflowSensorTimeout, match=r"not completed within 1 min 40 s \(timeout\)"):
            resumed.execute_complete(gate.context, event, started_at=time.time() - 101)

    def test_a_server_that_is_down_at_the_resume_is_waited_for(self, server: ScriptedServer, connect: Connect) -> None:
        server.v2(v2_job(), v2_job("Completed"), DOWN, v2_job("Completed"))
        gate = Gate("deferrable")
        assert gate.run(outage_tolerance=60)
        first, second = [deferred.trigger.serialize()[1] for deferred in gate.deferred]
        assert "outage_since" not in first.get("state", {})
        assert second["state"]["failures"] == 1
        assert second["started_at"] == first["started_at"]

    @pytest.mark.parametrize(("verdict", "ends"), [("open", False), ("newer", True)])
    def test_an_outage_of_before_is_over_where_the_trigger_had_an_answer(
        self, server: ScriptedServer, connect: Connect, verdict: str, ends: bool
    ) -> None:
        server.v2(DOWN)
        gate = Gate("deferrable")
        now = time.time()
        kwargs = {"started_at": now - 99, "state": {"outage_since": now - 90, "failures": 3}}
        with pytest.raises(ImportApiUnreachable if ends else TaskDeferred):
            gate.sensor(outage_tolerance=60, timeout=200).execute_complete(
                gate.context, {"job_id": JOB, "verdict": verdict, "message": "x"}, **kwargs
            )

    def test_a_record_that_expired_before_the_resume(self, server: ScriptedServer, connect: Connect) -> None:
        server.v2(v2_job(), v2_job("Failed", reason="disk full"), unknown_job())
        with pytest.raises(ImportJobFailed, match="disk full"):
            Gate("deferrable").run()
        server.v2(v2_job(), v2_job("Completed"), unknown_job())
        with pytest.raises(ImportJobUnknown):
            Gate("deferrable").run()
        server.v2(v2_job(), v2_job("Completed"), unknown_job(), v2_job("Completed"))  # one answer decides nothing
        assert Gate("deferrable").run()

    @pytest.mark.parametrize(
        "event", [{"job_id": JOB, "verdict": "newer", "message": "x"}, {"verdict": None}, {}, None]
    )
    @pytest.mark.parametrize(
        "kwargs", [{}, {"started_at": 1.7e9, "job": None}, {"job": {"newer": 1}, "state": "newer", "more": 1}]
    )
    def test_what_another_release_wrote_is_asked_and_judged(
        self, server: ScriptedServer, connect: Connect, event: Any, kwargs: dict[str, Any]
    ) -> None:
        server.v2(v2_job("Completed"))
        gate = Gate("deferrable")
        assert gate.sensor().resume_execution("execute_complete", {**kwargs, "event": event}, gate.context)

    def test_what_release_0_1_0_wrote_goes_on(self, server: ScriptedServer, connect: Connect) -> None:
        server.v2(v2_job("Completed"))
        row = {
            "job_id": JOB, "cluster_id": None, "importprog_conn_id": "importprog_default",
            "started_at": time.time() - 60, "last_shown": ["importing", 40, 0, 2], "wait_for": "completed",
            "allow_failed_files": False, "poke_interval": 30.0, "outage_tolerance": 900.0, "unknown_job_grace": 60.0,
        }  # fmt: skip
        trigger = ImportProgressTrigger(**row)
        assert trigger.serialize()[1] == row
        assert fire(trigger)["verdict"] == "open"


class TestTimeout:
    @pytest.mark.parametrize("soft_fail", [False, True])
    @pytest.mark.parametrize("mode", ["poke", "reschedule"])
    def test_on_the_worker(self, server: ScriptedServer, connect: Connect, mode: str, soft_fail: bool) -> None:
        server.v2(v2_job())
        began = time.monotonic()
        with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout, match="within 0\\.4 s"):
            Gate(mode).run(timeout=0.4, soft_fail=soft_fail, poke_interval=0.3)
        assert time.monotonic() - began < 2

    @pytest.mark.parametrize(
        ("timeout", "execution_timeout", "of_try", "left", "error", "words"),
        [
            (100, None, 60, 100, AirflowSensorTimeout, r"not completed within 1 min 40 s \(timeout\)"),
            (100, 200, 60, 100, AirflowSensorTimeout, r"1 min 40 s \(timeout\)"),
            (100, 90, 60, 30, AirflowTaskTimeout, r"1 min 30 s \(execution_timeout\)"),
            (100, 90, 0, 90, AirflowTaskTimeout, r"1 min 30 s \(execution_timeout\)"),
        ],
    )
    def test_deferred_it_is_the_lesser_of_two(
        self,
        server: ScriptedServer,
        connect: Connect,
        timeout: float,
        execution_timeout: float | None,
        of_try: float,
        left: float,
        error: type[BaseException],
        words: str,
    ) -> None:
        """:param of_try: seconds since this try began, when the gate begins."""
        server.v2(v2_job())
        gate = Gate("deferrable", Store())
        gate.ti.start_date = datetime.now(timezone.utc) - timedelta(seconds=of_try)
        settings = {"timeout": timeout, "execution_timeout": execution_timeout and timedelta(seconds=execution_timeout)}
        deferred = gate.defer(**settings)
        assert left - 2 < deferred.timeout.total_seconds() <= left
        with pytest.raises(error, match=words):
            gate.sensor(**settings).resume_execution("__fail__", {"error": "Trigger timeout"}, gate.context)

    def test_execution_timeout_counts_from_the_first_start_of_this_try(
        self, server: ScriptedServer, connect: Connect
    ) -> None:
        server.v2(v2_job())
        gate = Gate("deferrable")
        began = time.time() - 40
        event = {"job_id": JOB, "verdict": "open", "message": "x"}
        sensor = gate.sensor(timeout=1000, execution_timeout=timedelta(seconds=60))
        with pytest.raises(TaskDeferred) as deferred:
            sensor.execute_complete(gate.context, event, started_at=began, try_started_at=began)
        assert 18 < deferred.value.timeout.total_seconds() <= 20
        with pytest.raises(AirflowTaskTimeout):
            sensor.execute_complete(gate.context, event, started_at=began - 30, try_started_at=began - 30)

    @pytest.mark.parametrize("option", ["soft_fail", "never_fail"])
    def test_only_timeout_is_skipped_over(self, server: ScriptedServer, connect: Connect, option: str) -> None:
        gate = Gate("deferrable")
        with pytest.raises(AirflowSkipException):
            gate.sensor(**{option: True}).resume_execution("__fail__", {"error": "Trigger timeout"}, gate.context)
        sensor = gate.sensor(**{option: True}, execution_timeout=timedelta(seconds=1))
        with pytest.raises(AirflowTaskTimeout):
            sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, gate.context)

    @pytest.mark.parametrize("mode", MODES)
    def test_exponential_backoff_and_max_wait(self, server: ScriptedServer, connect: Connect, mode: str) -> None:
        times: list[float] = []

        def going_on(_: Any) -> Answer:
            times.append(time.monotonic())
            return v2_job("Completed") if times[-1] - times[0] > 1.3 else v2_job()

        server.on(V2_DESCRIBE, going_on)
        Gate(mode).run(exponential_backoff=True, max_wait=0.2, poke_interval=0.02)
        gaps = [after - before for before, after in pairwise(times)]
        assert len(gaps) <= 14  # 65 without
        assert max(gaps[:-1]) < 0.45


class TestRefresh:
    pytestmark = pytest.mark.skipif(not hasattr(ImportProgressHook, "refresh_load"), reason="comes with the wire")

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (Answer({"code": 0, "data": {}}), "is asked to refresh"),
            (Answer(b"404 page not found", 404), "was not refreshed"),
            (Answer({"code": 101, "message": "collection not loaded"}), "was not refreshed: "),
            (Answer(how="close"), "was not refreshed"),
            (Answer({"code": 1401, "message": "permission deny"}, 403), "was not refreshed"),
            (Answer({"code": 1800, "message": "bad token"}, 401), "was not refreshed"),
            (Answer({"code": 8, "message": "slow down"}, 429, {"Retry-After": "600"}), "was not refreshed"),
            (Answer(HTML), "was not refreshed"),
            (Answer({"code": 0}, delay=3), "was not refreshed"),
        ],
        ids=["fine", "old server", "not loaded", "cut off", "no privilege", "token", "busy", "page", "late"],
    )
    def test_the_server_is_asked_once_and_the_gate_opens_whatever_comes_of_it(
        self, server: ScriptedServer, connect: Connect, gate: Gate, answer: Answer, words: str, told: Told
    ) -> None:
        connect({"timeout": 0.5} if answer.delay else {})
        server.v2(v2_job(), v2_job("Completed")).on(V2_REFRESH, answer)
        assert gate.run(refresh_load=True)
        assert {asked.json["collectionName"] for asked in server.to(V2_REFRESH)} == {"books"}
        assert told.count(words) == 1

    @pytest.mark.parametrize("version", ["v1", "auto"])
    def test_v1_has_no_such_call(
        self, server: ScriptedServer, gate: Gate, connect: Connect, told: Told, version: str
    ) -> None:
        connect({"api_version": version})
        server.v1(v1_job(done=True))
        assert gate.run(refresh_load=True)
        assert told.count("was not refreshed") == 1

    def test_before_the_commit_it_is_of_no_use(self, server: ScriptedServer, gate: Gate, told: Told) -> None:
        server.v2(v2_job("Uncommitted")).on(V2_REFRESH, Answer({"code": 0, "data": {}}))
        assert gate.run(refresh_load=True, wait_for="uncommitted")
        assert not server.to(V2_REFRESH)
        assert told.count("of no use yet") == 1

    def test_it_is_not_asked_unless_told_nor_where_the_gate_fails(self, server: ScriptedServer, gate: Gate) -> None:
        server.v2(v2_job("Completed")).on(V2_REFRESH, Answer({"code": 0, "data": {}}))
        gate.run()
        with pytest.raises(ImportRowsMissing):
            gate.run(refresh_load=True, min_rows=99)
        assert not server.to(V2_REFRESH)


class TestTrigger:
    def test_a_job_that_has_ended_never_defers(self, server: ScriptedServer, connect: Connect) -> None:
        server.v2(v2_job("Completed"))
        gate = Gate("deferrable")
        assert gate.run()
        assert not gate.deferred

    @pytest.mark.parametrize("word", ["x", "漢", "\U0001f600", '"'])
    def test_its_event_is_small(self, server: ScriptedServer, connect: Connect, word: str) -> None:
        files = [v2_file(word * 300 + str(n), "Failed", reason=word * 300) for n in range(10_000)]
        server.v2(v2_job(), v2_job("Failed", reason=word * 5000, collectionName="c" * 255, files=files))
        gate = Gate("deferrable")
        with pytest.raises(ImportJobFailed) as caught:
            gate.run()
        (event,) = gate.events
        assert event.keys() == {"job_id", "verdict", "message"}
        assert all(isinstance(value, str) for value in event.values())
        assert len(json.dumps(event, ensure_ascii=False).encode()) < 4096
        assert len(caught.value.job.files) == len(gate.ti.pushed["return_value"]) == 10_000

    def test_its_row_names_the_connection_and_holds_no_secret(self, server: ScriptedServer, connect: Connect) -> None:
        from airflow.models.trigger import Trigger

        server.v2(v2_job())
        deferred = Gate("deferrable").defer(
            job_id=" job-1 ", cluster_id=" in01", importprog_conn_id=" importprog_default\n", max_wait=7, min_rows=1
        )
        path, kwargs = deferred.trigger.serialize()
        assert path == "airflow_provider_importprog.triggers.import_progress.ImportProgressTrigger"
        encrypt = getattr(Trigger, "encrypt_kwargs", None) or Trigger._encrypt_kwargs
        again = ImportProgressTrigger(**Trigger._decrypt_kwargs(encrypt(kwargs)))
        assert again.serialize() == (path, kwargs)
        assert (kwargs["job_id"], kwargs["cluster_id"]) == (JOB, "in01")
        assert kwargs["importprog_conn_id"] == "importprog_default"
        assert kwargs.keys() - {"max_wait", "min_rows"} == {
            "job_id", "cluster_id", "importprog_conn_id", "started_at", "last_shown", "wait_for", "allow_failed_files",
            "poke_interval", "outage_tolerance", "unknown_job_grace",
        }  # fmt: skip  # what a triggerer of release 0.1.0 knows
        for text in (json.dumps(kwargs), repr(deferred.trigger), repr(deferred), str(vars(deferred.trigger))):
            assert TOKEN_PASSWORD not in text

    @pytest.mark.parametrize("name", [
        "job_id", "cluster_id", "importprog_conn_id", "poke_interval", "wait_for", "allow_failed_files",
        "outage_tolerance", "unknown_job_grace", "min_rows", "stall_warning", "exponential_backoff", "max_wait",
        "silent_fail", "storage_conn_id"])  # fmt: skip
    @pytest.mark.parametrize("value", [True, "{{ x }}", -1, 1.5, [], {}, float("nan")], ids=str)
    def test_no_value_ends_the_triggerer(self, server: ScriptedServer, connect: Connect, name: str, value: Any) -> None:
        server.v2(v2_job("Completed"))
        trigger = ImportProgressTrigger(**{"job_id": JOB, "poke_interval": 0.0, "outage_tolerance": 0, name: value})
        trigger.serialize()
        event = asyncio.run(asyncio.wait_for(trigger.run().__anext__(), 5)).payload
        assert event.keys() == {"job_id", "verdict", "message"}
        assert all(isinstance(text, str) for text in event.values())
        assert event["verdict"] in ("open", "setting_invalid", "unreachable", "rows_missing")
        if value == {}:
            assert (event["verdict"], name in event["message"]) == ("setting_invalid", True)
        asyncio.run(trigger.on_kill())

    @pytest.mark.parametrize("row", [{}, {"newer": 1, "job_id": JOB}, {"started_at": "x", "last_shown": 5, "state": 7}])
    def test_no_row_ends_the_triggerer(self, server: ScriptedServer, connect: Connect, row: dict[str, Any]) -> None:
        server.v2(v2_job("Completed"))
        event = fire(ImportProgressTrigger(**{"poke_interval": 0, **row}))
        assert event["verdict"] == ("open" if "newer" in row else "setting_invalid")

    @pytest.mark.parametrize(("ago", "least", "most"), [(None, 0.4, 2), (0.3, 0.1, 0.35), (60, 0, 0.3)])
    def test_it_sleeps_what_is_left_of_one_interval(
        self, server: ScriptedServer, connect: Connect, ago: float | None, least: float, most: float
    ) -> None:
        import aiohttp  # noqa: F401  (its import is not what is measured)

        times: list[float] = []

        def answer(_: Any) -> Answer:
            times.append(time.monotonic())
            return v2_job("Completed")

        connect({"api_version": "v2"})
        server.on(V2_DESCRIBE, answer)
        fire(_trigger())  # loads what takes long
        began = time.monotonic()
        fire(_trigger(poke_interval=0.4, **({} if ago is None else {"started_at": time.time() - ago})))
        assert least <= times[-1] - began < most

    def test_it_does_not_block_the_loop(self, server: ScriptedServer, connect: Connect) -> None:
        slow = Answer(v2_job().body, delay=0.3)
        server.v1(Answer(b"x", 404, delay=0.3)).v2(slow, Answer(v2_job("Completed").body, delay=0.3))

        async def scenario() -> float:
            gaps: list[float] = []

            async def heart() -> None:
                while True:
                    began = time.monotonic()
                    await asyncio.sleep(0.01)
                    gaps.append(time.monotonic() - began)

            fire_once = _trigger().run().__anext__()
            await asyncio.sleep(0.2)
            beating = asyncio.create_task(heart())
            await fire_once
            beating.cancel()
            assert len(gaps) > 30
            return sorted(gaps)[-2]

        import aiohttp  # noqa: F401  (its import is not what is measured)

        assert asyncio.run(scenario()) < 0.25

    def test_one_that_is_cancelled_stops(self, server: ScriptedServer, connect: Connect) -> None:
        server.v2(v2_job())

        async def scenario() -> int:
            task = asyncio.ensure_future(_trigger().run().__anext__())
            while len(server.to(V2_DESCRIBE)) < 2:  # noqa: ASYNC110 (the server runs in a thread)
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            asked = len(server.asked)
            await asyncio.sleep(0.3)
            return len(server.asked) - asked

        assert asyncio.run(scenario()) == 0

    def test_many_share_few_connections(self, server: ScriptedServer, connect: Connect) -> None:
        server.v2(*[v2_job()] * 100, v2_job("Completed"))

        async def scenario() -> list[Any]:
            return await asyncio.gather(*(_trigger(poke_interval=0.2).run().__anext__() for _ in range(50)))

        assert len(asyncio.run(asyncio.wait_for(scenario(), 20))) == 50
        assert len(server.asked) >= 150
        assert server.connections <= 40


def _trigger(**kwargs: Any) -> ImportProgressTrigger:
    return ImportProgressTrigger(**{"job_id": JOB, "poke_interval": 0.05, **kwargs})


class TestLog:
    @pytest.mark.parametrize(
        ("files", "over", "map_index", "warns"),
        [(3, "gate", -1, True), (2, "gate", -1, False), (3, "lists", -1, False), (3, "gate", 0, False)],
    )
    def test_more_files_than_airflow_maps_over(
        self,
        server: ScriptedServer,
        connect: Connect,
        monkeypatch: pytest.MonkeyPatch,
        told: Told,
        files: int,
        over: str,
        map_index: int,
        warns: bool,
    ) -> None:
        from airflow.providers.common.compat.sdk import task

        monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
        server.v2(v2_job("Completed", files=[v2_file(f"[{number}]", "Completed") for number in range(files)]))
        gate = Gate("poke")
        gate.ti.map_index = map_index

        @task
        def lists(files: Any) -> Any:
            return [files]

        @task
        def process(file: Any) -> None: ...

        with _dag():
            sensor = gate.sensor()
            process.expand(file=sensor.output if over == "gate" else lists(sensor.output))
        assert len(sensor.execute(gate.context)) == files
        assert told.count("A task maps over the 3 files") == warns

    def test_secrets_stay_secret(
        self, server: ScriptedServer, gate: Gate, caplog: pytest.LogCaptureFixture, capfd: Any
    ) -> None:
        def echo(asked: Any) -> Answer:
            said = asked.header("Authorization")
            return v2_job("Failed", reason=f"no: {said}", files=[v2_file(f"[{said}]", "Failed", reason=said)])

        server.v2(v2_job(), Answer(b"oops " + TOKEN_PASSWORD.encode()), echo)
        with caplog.at_level(logging.DEBUG), pytest.raises(ImportJobFailed) as caught:
            gate.run(outage_tolerance=60)
        captured = capfd.readouterr()
        seen = [str(caught.value), repr(caught.value), repr(caught.value.job), repr(gate.ti.pushed), caplog.text]
        seen += [captured.out, captured.err, repr(gate.events), repr([d.trigger.serialize() for d in gate.deferred])]
        assert not any(TOKEN_PASSWORD in text for text in seen)


NOT_SECONDS: list[Any] = [-1, "5"]


class TestParameters:
    @pytest.mark.parametrize(
        "wrong",
        [
            *({"job_id": value} for value in (None, "", "  ", True, 1.5, ["a"])),
            *({"wait_for": value} for value in ("done", None, [])),
            *({name: value} for name in ("outage_tolerance", "unknown_job_grace", "poke_interval", "timeout",
                                         "stall_warning") for value in NOT_SECONDS),
            *({name: value} for name in ("outage_tolerance", "unknown_job_grace", "stall_warning")
              for value in (float("nan"), True)),
            pytest.param({"outage_tolerance": 10**400}, id="huge tolerance"),
            *({name: "false"} for name in ("allow_failed_files", "deferrable", "refresh_load")),
            *({"min_rows": value} for value in (-1, True, "5", 1.5)),
        ],
        ids=str,
    )  # fmt: skip
    def test_wrong_ones_are_refused_at_parsing(self, wrong: dict[str, Any]) -> None:
        with pytest.raises((AirflowException, ValueError, TypeError)):
            ImportProgressSensor(**{"task_id": "gate", "job_id": JOB, **wrong})

    @pytest.mark.parametrize("silent_fail", [False, True])
    @pytest.mark.parametrize("job_id", ["None", None, "", " "])
    def test_a_job_id_that_rendered_to_nothing(
        self, server: ScriptedServer, gate: Gate, job_id: Any, silent_fail: bool
    ) -> None:
        sensor = gate.sensor(job_id="{{ ti.xcom_pull('x') }}", outage_tolerance=900, silent_fail=silent_fail)
        sensor.job_id = job_id
        with pytest.raises((AirflowException, ValueError), match="job_id"):
            sensor.execute(gate.context)
        assert not server.asked

    def test_what_templates_rendered_is_cleaned_once(self, server: ScriptedServer, gate: Gate) -> None:
        server.v2(v2_job(), v2_job("Completed"))
        assert gate.run(job_id=f" {JOB}\n", cluster_id=" ", importprog_conn_id="importprog_default ")
        assert {asked.json["jobId"] for asked in server.to(V2_DESCRIBE)} == {JOB}

    def test_a_connection_that_is_not_there(self, gate: Gate) -> None:
        with pytest.raises(ImportConnectionNotFound, match="'missing' is not defined"):
            gate.run(importprog_conn_id="missing ")

    def test_reschedule_mode_with_deferrable_defers(self, server: ScriptedServer, connect: Connect) -> None:
        server.v2(v2_job())
        assert Gate("deferrable").defer(mode="reschedule").timeout

    def test_a_gate_that_waits_for_uncommitted_asks_v2(
        self, gate: Gate, server: ScriptedServer, connect: Connect
    ) -> None:
        """Of a server that serves v1 too, which shows an import that awaits its commit as one that goes on."""
        server.v1(v1_job()).v2(v2_job("Importing"), v2_job("Uncommitted", 99))
        assert gate.run(wait_for="uncommitted")[0]["file_name"] == "[a.parquet]"
        assert server.to(V1_GET) == []
        connect({"api_version": "v1"})
        asked = len(server.asked)
        with pytest.raises(ImportSettingInvalid, match="v1, which does not show that an import job is uncommit"):
            gate.run(wait_for="uncommitted")
        assert len(server.asked) == asked

    def test_in_a_dag(self) -> None:
        from airflow.providers.common.compat.sdk import task

        with _dag(default_args={"poke_interval": 7, "timeout": 70, "outage_tolerance": 5}):

            @task
            def submit() -> str:
                return JOB

            inherits = ImportProgressSensor(task_id="a", job_id=submit())
            own = ImportProgressSensor(
                task_id="b", job_id="{{ params.x }}", poke_interval=3, timeout=timedelta(hours=1)
            )
            mapped = ImportProgressSensor.partial(task_id="c", allow_failed_files=True).expand(job_id=["a", "b"])
            mapped_over = ImportProgressSensor.partial(task_id="e").expand(job_id=submit())
        assert (inherits.poke_interval, inherits.timeout, inherits.outage_tolerance) == (7, 70, 5)
        assert (own.poke_interval, own.timeout) == (3, 3600)
        assert inherits.upstream_task_ids == {"submit"}
        assert mapped.task_id == "c"
        assert mapped_over.upstream_task_ids

    def test_defaults(self) -> None:
        sensor = ImportProgressSensor(task_id="a", job_id=JOB)
        assert (sensor.poke_interval, sensor.timeout) == (30, 86400)
        assert (sensor.outage_tolerance, sensor.unknown_job_grace, sensor.stall_warning) == (900, 60, 1800)
        assert (sensor.wait_for, sensor.allow_failed_files, sensor.cluster_id) == ("completed", False, None)
        assert (sensor.min_rows, sensor.refresh_load) == (None, False)
        assert sensor.importprog_conn_id == "importprog_default"
        assert tuple(sensor.template_fields) == ("job_id", "cluster_id", "importprog_conn_id")


def _dag(**kwargs: Any) -> Any:
    from airflow.providers.common.compat.sdk import DAG

    return DAG("d", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc), **kwargs)


FILES = ["dir/a.parquet", "dir/b.parquet", "dir/ab.parquet"]
REASONS = {
    "the reason names one": ("importing data failed: dir/b.parquet: row 7 has no vector", "dir/b.parquet"),
    "the end of another's name": ("cannot read 'dir/ab.parquet', row 7 has no vector", "dir/ab.parquet"),
    "bare": ("file ab.parquet: row 7 has no vector", "dir/ab.parquet"),
    "the reason names none": ("schema mismatch: row 7 has no vector", None),
}


class TestEveryFileIsBlamed:
    @pytest.mark.parametrize(("reason", "culprit"), REASONS.values(), ids=REASONS)
    def test_the_culprit_is_named(self, server: ScriptedServer, gate: Gate, reason: str, culprit: str | None) -> None:
        files = [v2_file(f"[{name}]", "Failed", reason=reason) for name in FILES]
        server.v2(v2_job(), v2_job("Failed", reason=reason, files=files))
        with pytest.raises(ImportJobFailed) as caught:
            gate.run()
        said = str(caught.value)
        assert said.count("row 7 has no vector") == 1
        beside = said.replace(reason, "")
        assert [name for name in FILES if re.search(rf"(?<![\w/]){re.escape(name)}", beside)] in (
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


class TestServers:
    @pytest.mark.parametrize("version", ["v2", "auto"])
    def test_that_serve_get_progress_alone(
        self, server: ScriptedServer, connect: Connect, gate: Gate, version: str
    ) -> None:
        """Milvus 2.4.0 to about 2.4.12."""
        connect({"api_version": version})
        server.on("/v2/vectordb/jobs/import/get_progress", *[v2_job()] * 3, v2_job("Completed"))
        assert gate.run()[0]["imported_rows"] == 5
        if gate.mode != "reschedule":  # of which each poke is a process
            assert len(server.to(V2_DESCRIBE)) <= (1 if gate.mode == "poke" else 3)

    @pytest.mark.parametrize(("code", "status"), [(2100, 200), (2100, 400), (1100, 200)])
    def test_that_cannot_parse_the_id(
        self, server: ScriptedServer, connect: Connect, gate: Gate, code: int, status: int
    ) -> None:
        connect({"api_version": "v2"})
        said = f'parse job id failed, err=%w strconv.ParseInt: parsing "{JOB}": invalid syntax'
        server.v2(Answer({"code": code, "message": said}, status))
        with pytest.raises(ImportProgressException, match=JOB) as caught:
            gate.run(outage_tolerance=2, unknown_job_grace=2, timeout=2)
        assert not isinstance(caught.value, ImportApiUnreachable)
        assert len(server.to(V2_DESCRIBE)) == 1

    @pytest.mark.parametrize("code", [100, 800])
    @pytest.mark.parametrize("mode", ["poke", "deferrable"])
    def test_that_miss_the_database(self, server: ScriptedServer, connect: Connect, mode: str, code: int) -> None:
        connect({"api_version": "v2", "db_name": "shop"})
        server.v2(Answer({"code": code, "message": "database not found[database=shop]"}))
        with pytest.raises(ImportApiUnreachable, match="db_name"):
            Gate(mode).run(outage_tolerance=0.2)
