"""What a gate knows of time, however often a process ends: grace, outages, time-outs, delays, and rows of triggers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from threading import Timer
from typing import Any

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_importprog.exceptions import (
    ImportApiUnreachable,
    ImportConnectionNotFound,
    ImportJobFailed,
    ImportJobUnknown,
    ImportSettingInvalid,
)
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox.driver import AIRFLOW_2, TOKEN_LOGIN, TOKEN_PASSWORD, Connect, Gate, Told, fire, later
from tests.blackbox.imports import BrokenStore, Store
from tests.blackbox.server import JOB, V2_DESCRIBE, Answer, Asked, ScriptedServer, unknown_job, v2_job

GOING, DONE, UNKNOWN, DOWN = v2_job(), v2_job("Completed"), unknown_job(), Answer(b"<html>", 500)
DENIED = Answer({"code": 1800, "message": "user hasn't authenticated"}, 401)
STORES: dict[str, Callable[[], Any]] = {"store": Store, "broken store": BrokenStore, "no store": lambda: None}
HOUR = 3600.0
EVENT = {"job_id": JOB, "verdict": "open", "message": "x"}
TIMED_OUT = ("__fail__", {"error": "Trigger timeout"})  # as Airflow resumes a task whose deferral timed out


def timed(server: ScriptedServer, *script: Answer) -> list[float]:
    """Script a server, and return when each answer was given."""
    times: list[float] = []

    def stamped(answer: Answer) -> Callable[[Asked], Answer]:
        return lambda asked: (times.append(time.monotonic()), answer)[1]

    server.v2(*map(stamped, script))
    return times


@pytest.fixture(params=["poke", "deferrable", *(f"reschedule, {store}" for store in STORES)])
def kept(request: pytest.FixtureRequest, connect: Connect) -> Gate:
    """Return a gate in each mode, and where it is rescheduled with what Airflow may have to keep something in."""
    mode, _, store = request.param.partition(", ")
    return Gate(mode, STORES[store]() if store else None)


@pytest.fixture
def deferred(connect: Connect) -> Gate:
    return Gate("deferrable")


#: What the server answers, the last for ever, settings, what the gate fails with, and what it says.
HOURLY: dict[str, tuple[list[Answer], dict[str, Any], Any, str]] = {
    "an outage": ([DOWN], {}, ImportApiUnreachable, "for 1 h"),
    "an outage that ended": ([DOWN, GOING, DOWN, DONE], {}, None, "after 1 h"),
    "an unknown job": ([UNKNOWN], {}, ImportJobUnknown, "48 h"),
    "a job that was unknown": ([UNKNOWN, GOING, UNKNOWN, DONE], {}, None, "just now"),
    "a time-out": ([GOING], {"timeout": HOUR}, AirflowSensorTimeout, r"1 h \(timeout\)"),
    "a stall": ([GOING, GOING, DONE], {"stall_warning": HOUR}, None, "has made no progress"),
    "a delay": ([GOING, DONE], {"poke_interval": HOUR}, None, "opens after 1 h"),
}


class TestProcesses:
    """An hour passes between two of them."""

    @pytest.mark.parametrize("mode", ["deferrable", "reschedule"])
    @pytest.mark.parametrize("name", HOURLY)
    def test_what_one_saw_the_next_one_knows(
        self, server: ScriptedServer, connect: Connect, told: Told, mode: str, name: str
    ) -> None:
        script, kwargs, error, words = HOURLY[name]
        server.v2(*script)
        kwargs = {"outage_tolerance": HOUR, "unknown_job_grace": HOUR, "timeout": 9 * HOUR, **kwargs}
        with pytest.raises(error, match=words) if error else nullcontext():
            assert Gate(mode, Store(), HOUR).run(**kwargs)
            assert told.count(words)

    @pytest.mark.parametrize("store", [None, BrokenStore])
    def test_without_a_store_the_timeout_bounds_an_outage(
        self, server: ScriptedServer, connect: Connect, store: Any
    ) -> None:
        server.v2(DOWN)
        with pytest.raises(AirflowSensorTimeout, match=r"within 1 h \(timeout\)"):
            Gate("reschedule", store and store(), 0.4 * HOUR).run(outage_tolerance=0, timeout=HOUR)
        assert len(server.to(V2_DESCRIBE)) >= 4

    @pytest.mark.parametrize("clear", [False, True])
    @pytest.mark.parametrize("mode", ["deferrable", "reschedule"])
    def test_the_start_is_kept_over_tries_until_the_task_is_cleared(
        self, server: ScriptedServer, connect: Connect, mode: str, clear: bool
    ) -> None:
        server.v2(DOWN)
        store, kwargs = Store(), {"outage_tolerance": HOUR, "timeout": 9 * HOUR, "retries": 3}
        gate = Gate(mode, store, HOUR)
        gate.ti.max_tries = 3
        with pytest.raises(ImportApiUnreachable):
            gate.run(**kwargs)
        started_at = store.get("importprog_gate")["started_at"]
        gate.ti.start_date = datetime.now(timezone.utc)
        gate.ti.first = None
        gate.ti.try_number, gate.ti.max_tries = 2, 4 if clear else 3  # as Airflow's clear_task_instances does
        with pytest.raises((TaskDeferred, AirflowRescheduleException)) as caught:  # an outage ends with its try
            gate.sensor(**kwargs).execute(gate.context)
        assert (store.get("importprog_gate")["started_at"] == started_at) is not clear
        if mode == "deferrable":
            assert round(caught.value.timeout / timedelta(hours=1)) == (9 if clear else 8)

    @pytest.mark.parametrize(
        "script",
        [
            [GOING, GOING, UNKNOWN, GOING, DONE],
            [GOING, DOWN, DOWN, UNKNOWN, GOING, DONE],
            [DOWN, DOWN, UNKNOWN, GOING, DONE],
            [UNKNOWN, GOING, UNKNOWN, GOING, UNKNOWN, DONE],
        ],
        ids=["after a wait", "after an outage", "an outage first", "again and again"],
    )
    def test_one_answer_unknown_alone_ends_nothing(
        self, server: ScriptedServer, kept: Gate, script: list[Answer]
    ) -> None:
        server.v2(*script)
        kept.pause = HOUR
        assert kept.run(outage_tolerance=9 * HOUR, unknown_job_grace=60, timeout=24 * HOUR)

    @pytest.mark.parametrize("grace", [0, 0.3])
    def test_an_unknown_job_takes_two_answers_and_the_grace(
        self, server: ScriptedServer, kept: Gate, grace: float
    ) -> None:
        times = timed(server, GOING, DOWN, UNKNOWN)
        with pytest.raises(ImportJobUnknown):
            kept.run(unknown_job_grace=grace, outage_tolerance=60)
        assert len(times) >= 4
        if kept.mode != "reschedule" or isinstance(kept.context.get("task_state_store"), Store):
            assert times[-1] - times[2] >= grace * 0.95


class TestResume:
    def test_a_server_that_is_down_is_waited_for(self, server: ScriptedServer, deferred: Gate, told: Told) -> None:
        server.v2(GOING, DONE, DOWN, DONE)
        assert deferred.run(outage_tolerance=60)
        assert told.count("was about to open") == 1
        first, second = [one.trigger.serialize()[1] for one in deferred.deferred]
        assert "outage_since" not in first.get("state", {})
        assert second["state"]["failures"] == 1
        assert second["started_at"] == first["started_at"]

    @pytest.mark.parametrize(
        ("verdict", "silent", "ends"),  # the last two are of release 0.1.0, whose triggers are never silent
        [("open", False, False), ("newer", False, True), ("unauthorized", True, False), ("unreachable", True, False)],
    )
    def test_an_outage_of_before_goes_on_or_is_over(
        self, server: ScriptedServer, deferred: Gate, verdict: str, silent: bool, ends: bool
    ) -> None:
        server.v2(DOWN)
        now = time.time()
        kwargs = {"started_at": now - 2 * HOUR, "state": {"outage_since": now - HOUR, "failures": 3}}
        with pytest.raises(ImportApiUnreachable if ends else TaskDeferred):
            deferred.sensor(outage_tolerance=HOUR, timeout=9 * HOUR, silent_fail=silent).execute_complete(
                deferred.context, {**EVENT, "verdict": verdict}, **kwargs
            )

    @pytest.mark.parametrize(
        ("script", "error"),
        [
            ([v2_job("Failed", reason="disk full"), UNKNOWN], ImportJobFailed),
            ([DONE, UNKNOWN], ImportJobUnknown),
            ([DONE, UNKNOWN, DONE], None),  # one answer decides nothing
        ],
    )
    def test_a_record_that_expired(
        self, server: ScriptedServer, deferred: Gate, script: list[Answer], error: Any
    ) -> None:
        server.v2(GOING, *script)
        deferred.pause = HOUR
        words = "disk full" if error is ImportJobFailed else "no record"
        with pytest.raises(error, match=words) if error else nullcontext():
            assert deferred.run(unknown_job_grace=HOUR, timeout=9 * HOUR)

    @pytest.mark.parametrize("begins", ["a trigger", "a worker"])
    def test_good_answers_may_have_come_since_an_unknown_one(
        self, server: ScriptedServer, deferred: Gate, begins: str
    ) -> None:
        """The row of a trigger is as it was at the deferral, however long another triggerer has polled since."""
        now = time.time()
        before = {"started_at": now - HOUR, "state": {"unknown_since": now - HOUR, "unknown_answers": 1}}
        server.v2(UNKNOWN, DONE)
        if begins == "a trigger":
            assert fire(ImportProgressTrigger(JOB, poke_interval=0.05, **before))["verdict"] == "open"
        else:
            with pytest.raises(TaskDeferred):
                deferred.sensor(timeout=9 * HOUR).execute_complete(
                    deferred.context, {**EVENT, "verdict": "unreachable"}, **before
                )

    @pytest.mark.parametrize("event", [{**EVENT, "verdict": "newer"}, {"verdict": None}, {}, None])
    @pytest.mark.parametrize(
        "kwargs", [{}, {"started_at": 1.7e9, "job": None}, {"job": {"newer": 1}, "state": "newer", "more": 1}]
    )
    def test_what_another_release_wrote_is_asked_and_judged(
        self, server: ScriptedServer, deferred: Gate, event: Any, kwargs: dict[str, Any]
    ) -> None:
        server.v2(DONE)
        assert deferred.sensor().resume_execution("execute_complete", {**kwargs, "event": event}, deferred.context)


class TestTimeout:
    @pytest.mark.skipif(AIRFLOW_2, reason="it keeps the first poke's date as the task's own")
    def test_airflows_own_count_of_a_rescheduled_gate_ends_no_earlier(
        self, server: ScriptedServer, connect: Connect
    ) -> None:
        """It counts from the start of the try, of which the process that polls is a part."""
        server.v2(GOING)
        gate = Gate("reschedule", Store(), pause=70)
        assert gate.ti.start_date
        gate.ti.start_date -= timedelta(seconds=60)
        with pytest.raises(AirflowSkipException, match=r"not completed within 1 min 40 s \(timeout\)"):
            gate.run(timeout=100, never_fail=True)

    @pytest.mark.parametrize("hours", [(10, None, 6, 10), (10, 20, 6, 10), (10, 9, 6, 3), (10, 9, 0, 9)])
    def test_a_deferral_ends_with_the_lesser_of_two(
        self, server: ScriptedServer, connect: Connect, hours: tuple[int, int | None, int, int]
    ) -> None:
        """Hours of timeout, of execution_timeout, of this try when the gate begins, and what is left."""
        timeout, execution_timeout, of_try, left = hours
        server.v2(GOING)
        gate, hour = Gate("deferrable", Store()), timedelta(hours=1)
        assert gate.ti.start_date
        gate.ti.start_date -= of_try * hour
        kwargs = {"timeout": timeout * HOUR, "execution_timeout": execution_timeout and execution_timeout * hour}
        error, words = (
            (AirflowSensorTimeout, r"not completed within 10 h \(timeout\)")
            if left == timeout
            else (AirflowTaskTimeout, r"within 9 h \(execution_timeout\)")
        )
        deferral = gate.defer(**kwargs)
        assert round(deferral.timeout / hour) == left

        def resume(after: float) -> Any:
            waited = later(deferral.kwargs, after * HOUR)
            return gate.sensor(**kwargs).execute_complete(gate.context, EVENT, **waited)

        again = gate.deferral(lambda: resume(1))
        assert round(again.timeout / hour) == left - 1
        assert again.kwargs["started_at"] == pytest.approx(deferral.kwargs["started_at"] - HOUR)
        with pytest.raises(error, match=words):
            resume(left)
        with pytest.raises(error, match=words):
            gate.sensor(**kwargs).resume_execution(*TIMED_OUT, gate.context)
        for option in ("soft_fail", "never_fail"):  # skip over timeout alone
            with pytest.raises(AirflowSkipException if left == timeout else AirflowTaskTimeout, match=words):
                gate.sensor(**kwargs, **{option: True}).resume_execution(*TIMED_OUT, gate.context)

    @pytest.mark.parametrize("limit", ["timeout", "execution_timeout"])
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (DONE, None),
            (v2_job("Failed", reason="disk full"), ImportJobFailed),
            (GOING, "limit"),
            (DOWN, "limit"),
            (UNKNOWN, "limit"),
        ],
    )
    def test_at_its_end_the_job_is_asked_for_once_more(
        self, server: ScriptedServer, deferred: Gate, limit: str, answer: Answer, error: Any
    ) -> None:
        """A triggerer that was away, or that polls more and more rarely, may not have seen the end of the job."""
        server.v2(GOING, answer)
        kwargs = {"timeout": 9 * HOUR, "execution_timeout": timedelta(hours=10), limit: HOUR}
        if limit == "execution_timeout":
            kwargs[limit] = timedelta(hours=1)
        deferred.defer(**kwargs)
        if error == "limit":
            error = AirflowSensorTimeout if limit == "timeout" else AirflowTaskTimeout
        with pytest.raises(error, match=f"disk full|{limit}") if error else nullcontext():
            assert deferred.sensor(**kwargs).resume_execution(*TIMED_OUT, deferred.context)[0]["state"] == "completed"
        assert (deferred.ti.pushed.get("import_job") is not None) == (error in (None, ImportJobFailed))


#: An answer, settings, the seconds of the delay, and what the log says of it.
DELAYS: dict[str, tuple[Answer, dict[str, Any], float, str]] = {
    "no outage": (GOING, {}, 30, ""),
    "capped": (GOING, {"exponential_backoff": True, "max_wait": 20}, 20, ""),
    "outage": (DOWN, {}, 34, "again in 3"),  # with up to a quarter of jitter
    "capped outage": (DOWN, {"max_wait": 20}, 20, "again in 20 s"),
    **{f"Retry-After: {value[:20]}": (Answer({"code": 8}, 429, {"Retry-After": value}), {}, delay, f"again in {words}")
       for value, delay, words in (
           ("200", 200, "3 min 20 s"), ("3600", 1000, "16 min 40 s"), ("9" * 400, 1000, "16 min 40 s"),
           ("Fri, 31 Dec 9999 23:59:59 GMT", 1000, "16 min 40 s"), ("junk", 34, "3"), ("-5", 34, "3"))},
}  # fmt: skip


class TestDelay:
    @pytest.mark.parametrize("name", DELAYS)
    @pytest.mark.parametrize("mode", ["poke", "reschedule"])
    def test_on_a_worker_it_is_as_announced(
        self, server: ScriptedServer, connect: Connect, told: Told, mode: str, name: str
    ) -> None:
        answer, kwargs, delay, words = DELAYS[name]
        connect({"api_version": "v2"})
        server.v2(answer)
        gate = Gate(mode, Store())
        sensor = gate.sensor(**{"outage_tolerance": HOUR, "poke_interval": 30, "timeout": 1000, **kwargs})
        if mode == "poke":
            assert sensor.poke(gate.context) is False
            waits = sensor._get_next_poke_interval(time.monotonic(), lambda: 0.0, 1)
        else:
            with pytest.raises(AirflowRescheduleException) as caught:
                sensor.execute(gate.context)
            waits = (caught.value.reschedule_date - datetime.now(timezone.utc)).total_seconds()
        assert waits == pytest.approx(delay, abs=5)
        assert told.count(words)

    def test_it_grows_in_every_mode(self, server: ScriptedServer, gate: Gate) -> None:
        times = timed(server, GOING, GOING, GOING, DONE)
        gate.run(exponential_backoff=True, poke_interval=0.05)
        assert times[3] - times[1] >= 0.1 + 0.2 - 0.02

    def test_in_the_triggerer_it_is_as_announced(self, server: ScriptedServer, deferred: Gate, told: Told) -> None:
        times = timed(server, GOING, DOWN, Answer(b"", 503, {"Retry-After": "1"}), DONE)
        deferred.run(outage_tolerance=60, poke_interval=0.2)
        announced = [float(re.findall(r"again in ([\d.]+) s", line)[0]) for line in told.lines("again in")]
        assert len(announced) == 2
        for said, asked, again in zip(announced, times[1:], times[2:], strict=False):
            assert again - asked >= said - 0.1
        timed(server, GOING, GOING, DONE)
        assert deferred.run(exponential_backoff=True, max_wait=0.05, poke_interval=HOUR, timeout=9 * HOUR)

    @pytest.mark.parametrize(("ago", "interval"), [(None, 0.3), (HOUR, HOUR + 0.3)])
    def test_a_trigger_sleeps_what_is_left_of_one_interval(
        self, server: ScriptedServer, connect: Connect, ago: float | None, interval: float
    ) -> None:
        times = timed(server, DONE)
        row = {"poke_interval": interval, **({} if ago is None else {"started_at": time.time() - ago})}
        began = time.monotonic()
        fire(ImportProgressTrigger(JOB, **row))
        assert times[-1] - began >= 0.25


ROW_010: dict[str, Any] = {
    "job_id": JOB, "cluster_id": None, "importprog_conn_id": "importprog_default", "started_at": 0.0,
    "last_shown": ["importing", 40, 0, 2], "wait_for": "completed", "allow_failed_files": False, "poke_interval": 0.05,
    "outage_tolerance": 900.0, "unknown_job_grace": 60.0,
}  # fmt: skip
SUMMARY = {
    "job_id": JOB, "collection_name": "books", "state": "importing", "progress": 40.0, "file_size": 10,
    "imported_rows": 2, "total_rows": 5, "complete_time": None, "error_message": None,
}  # fmt: skip
VALUES = [True, "{{ x }}", -1, 1.5, [], {}, float("nan"), None, ""]
#: Which of them a trigger takes.
TAKEN: dict[str, list[Any]] = {
    "job_id": ["{{ x }}", -1],
    **{name: ["{{ x }}", -1, None, ""] for name in ("cluster_id", "storage_conn_id")},
    **{name: [1.5] for name in ("poke_interval", "outage_tolerance", "unknown_job_grace", "stall_warning")},
    **{name: [True] for name in ("allow_failed_files", "exponential_backoff", "silent_fail")},
    "wait_for": [],
    "importprog_conn_id": ["{{ x }}", -1],  # there is none: an outage
    "max_wait": [1.5, None],
    "min_rows": [None],
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("{{ ti.xcom_pull('x') }}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


class TestRows:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(kwargs=st.dictionaries(st.sampled_from([*TAKEN, "started_at", "last_shown", "state", "newer"]), ANYTHING))
    def test_no_constructor_raises(self, kwargs: dict[str, Any]) -> None:
        repr(ImportProgressTrigger(**kwargs))

    @pytest.mark.parametrize("name", TAKEN)
    def test_what_it_refuses_is_one_event(self, server: ScriptedServer, deferred: Gate, name: str) -> None:
        """And what is only of use for the log or an estimate is left out where it cannot be read."""
        server.v2(DONE)
        row = {"job_id": JOB, "poke_interval": 0.0, "outage_tolerance": 0, "newer": 1}
        row |= {"started_at": "x", "last_shown": 5, "state": 7}
        for value in VALUES:
            trigger = ImportProgressTrigger(**{**row, name: value})
            event = fire(trigger)
            assert event.keys() == {"job_id", "verdict", "message"}
            assert all(isinstance(text, str) for text in event.values())
            if refused := value not in TAKEN[name]:
                assert event["verdict"] == "setting_invalid", value
                assert name in event["message"]
                with pytest.raises(ImportSettingInvalid, match=re.escape(event["message"])):
                    deferred.sensor().resume_execution(
                        "execute_complete", {"started_at": 0.0, "event": event}, deferred.context
                    )
            asyncio.run(trigger.on_kill())
            assert refused or event["verdict"] in ("open", "unreachable"), value

    @pytest.mark.parametrize("ago", [None, 0, HOUR])
    @pytest.mark.parametrize("job", [None, SUMMARY])
    def test_what_release_0_1_0_wrote_goes_on(
        self, server: ScriptedServer, deferred: Gate, ago: float | None, job: Any
    ) -> None:
        server.v2(GOING, UNKNOWN, GOING, DONE)
        started = None if ago is None else time.time() - ago
        trigger = ImportProgressTrigger(**{**ROW_010, "started_at": started})
        assert trigger.serialize()[1] == {**ROW_010, "started_at": started}
        event = fire(trigger)
        assert event["verdict"] == "open"
        kwargs = {"started_at": time.time() if started is None else started, "job": job, "event": event}
        assert deferred.sensor(timeout=86400).resume_execution("execute_complete", kwargs, deferred.context)
        assert deferred.ti.pushed["import_job"]["state"] == "completed"

    def test_a_row_names_the_connection_and_holds_no_secret(self, server: ScriptedServer, deferred: Gate) -> None:
        from airflow.models.trigger import Trigger

        server.v2(GOING)
        # Of a gate that would be rescheduled were it not deferrable.
        cleaned = {"job_id": " job-1 ", "cluster_id": " in01", "importprog_conn_id": " importprog_default\n"}
        deferral = deferred.defer(**cleaned, mode="reschedule", max_wait=7, min_rows=1)
        path, kwargs = deferral.trigger.serialize()
        assert path == "airflow_provider_importprog.triggers.import_progress.ImportProgressTrigger"
        encrypt = getattr(Trigger, "encrypt_kwargs", None) or Trigger._encrypt_kwargs
        again = ImportProgressTrigger(**Trigger._decrypt_kwargs(encrypt(kwargs)))
        assert again.serialize() == (path, kwargs)
        assert (kwargs["job_id"], kwargs["cluster_id"]) == (JOB, "in01")
        assert kwargs["importprog_conn_id"] == "importprog_default"
        assert kwargs.keys() - {"max_wait", "min_rows"} == ROW_010.keys()  # what its triggerer knows
        for text in (json.dumps(kwargs), repr(deferral.trigger), repr(deferral), str(vars(deferral.trigger))):
            assert TOKEN_PASSWORD not in text


class TestTheConnectionOfATrigger:
    """A worker has read it, before the gate deferred."""

    NAME = "AIRFLOW_CONN_IMPORTPROG_DEFAULT"

    def test_it_may_not_be_readable_for_a_moment(
        self, server: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Airflow says of a database that does not answer that there is no such connection."""
        server.v2(DONE)
        Timer(0.4, monkeypatch.setenv, (self.NAME, os.environ[self.NAME])).start()
        monkeypatch.delenv(self.NAME)
        trigger = ImportProgressTrigger(JOB, poke_interval=0.05, outage_tolerance=60)
        assert fire(trigger)["verdict"] == "open"

    def test_one_that_stays_away_ends_the_gate_after_the_tolerance(
        self, server: ScriptedServer, deferred: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.v2(GOING)
        deferral = deferred.defer(outage_tolerance=0.3)
        monkeypatch.delenv(self.NAME)
        event = fire(deferral.trigger)
        assert event["verdict"] == "unreachable"
        with pytest.raises(ImportConnectionNotFound, match="'importprog_default' is not defined"):
            deferred.sensor().resume_execution(
                "execute_complete", {**deferral.kwargs, "event": event}, deferred.context
            )

    def test_a_silent_gate_takes_up_a_connection_that_was_mended(
        self, server: ScriptedServer, connect: Connect
    ) -> None:
        server.v2(DONE)
        connect({"api_version": "v2", "timeout": 1}, host="http://127.0.0.1:9")
        Timer(0.4, connect, ({"api_version": "v2"},)).start()
        trigger = ImportProgressTrigger(JOB, poke_interval=0.05, max_wait=0.1, outage_tolerance=0, silent_fail=True)
        assert fire(trigger)["verdict"] == "open"


def test_a_token_may_be_rotated_at_any_time(server: ScriptedServer, gate: Gate, connect: Connect) -> None:
    """Between two polls, before the trigger begins, before the task resumes."""
    passwords = [TOKEN_PASSWORD]

    def answer(asked: Asked) -> Answer:
        if asked.header("Authorization") != f"Bearer {TOKEN_LOGIN}:{passwords[-1]}":
            return DENIED
        passwords.append(f"password-{len(passwords)}")
        connect(password=passwords[-1])
        return DONE if len(passwords) > 5 else GOING

    server.v2(answer)
    assert gate.run()
