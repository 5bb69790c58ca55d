"""What a gate knows of time, however often a process ends: grace, outages, time-outs, sleeps, and rows of triggers."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import math
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from importlib import import_module
from typing import Any

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowTaskTimeout, TaskDeferred
from airflow.triggers.base import BaseTrigger
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import airflow_provider_importprog.triggers
from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportJobUnknown,
    ImportSettingInvalid,
)
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox.driver import TOKEN_LOGIN, Connect, Gate, fire
from tests.blackbox.imports import BrokenStore, Store
from tests.blackbox.server import JOB, Answer, Asked, ScriptedServer, unknown_job, v2_job

GOING, DONE, UNKNOWN = v2_job(), v2_job("Completed"), unknown_job()
for _slow in ("aiohttp", "airflow_provider_importprog.hooks.import_progress"):
    import_module(_slow)  # which would be in the first test's seconds
DOWN, DENIED = Answer(b"<html>", 503), Answer({"code": 1800, "message": "user hasn't authenticated"}, 401)
STORES: dict[str, Callable[[], Any]] = {"store": Store, "broken store": BrokenStore, "no store": lambda: None}


class Times:
    """Answers in turn, the last for ever, and keeps when each was asked for. An answer may be made when it is."""

    def __init__(self, *script: Answer | Callable[[Asked], Answer]) -> None:
        self.script = list(script)
        self.given: list[tuple[float, Answer]] = []

    def __call__(self, asked: Asked) -> Answer:
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        answer = step(asked) if callable(step) else step
        self.given.append((time.monotonic(), answer))
        return answer

    def at(self, answer: Answer) -> list[float]:
        return [when for when, one in self.given if one is answer]

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.given]


def scripted(server: ScriptedServer, *script: Any) -> Times:
    times = Times(*script)
    server.v2(times)
    return times


@pytest.fixture(params=["poke", "deferrable", *(f"reschedule, {store}" for store in STORES)])
def kept(request: pytest.FixtureRequest, connect: Connect) -> Gate:
    """Return a gate in each mode, and where it is rescheduled with what Airflow may have to keep something in."""
    mode, _, store = request.param.partition(", ")
    gate = Gate(mode)
    if store and (one := STORES[store]()) is not None:
        gate.context["task_state_store"] = one
    return gate


def deferral(gate: Gate, step: Callable[[], Any] | None = None, **kwargs: Any) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        (step or (lambda: gate.sensor(**kwargs).execute(gate.context)))()
    return caught.value


def resume(gate: Gate, deferred: TaskDeferred, event: dict[str, Any], **kwargs: Any) -> Any:
    """Resume in a new operator object, from what a database would keep."""
    kept = {**json.loads(json.dumps(deferred.kwargs or {})), "event": event}
    return gate.sensor(**kwargs).resume_execution(deferred.method_name, kept, gate.context)


def restarted(trigger: Any, every: float, times: int = 8) -> Any:
    """Run a trigger in a triggerer that is restarted, from the same row each time; return its event or None."""
    _, kwargs = trigger.serialize()

    async def one_life() -> Any:
        async for event in type(trigger)(**json.loads(json.dumps(kwargs))).run():
            return event.payload
        return None

    for _ in range(times):
        with suppress(asyncio.TimeoutError):
            return asyncio.run(asyncio.wait_for(one_life(), every))
    return None


@pytest.fixture
def deferred(connect: Connect) -> Gate:
    return Gate("deferrable")


class TestUnknown:
    @pytest.mark.parametrize(
        ("script", "kwargs"),
        [
            ([GOING, GOING, UNKNOWN, GOING, DONE], {"poke_interval": 0.3, "unknown_job_grace": 0.05}),
            ([GOING, *[DOWN] * 5, UNKNOWN, GOING, DONE], {"unknown_job_grace": 0.3}),
            ([*[DOWN] * 5, UNKNOWN, GOING, DONE], {"unknown_job_grace": 0.3}),
            ([*[GOING] * 8, UNKNOWN, GOING, DONE], {"unknown_job_grace": 0.2}),
            ([UNKNOWN, GOING, UNKNOWN, GOING, UNKNOWN, DONE], {"poke_interval": 0.2, "unknown_job_grace": 0.05}),
        ],
        ids=["slow polls", "after an outage", "an outage first", "after a long wait", "again and again"],
    )
    def test_one_such_answer_alone_ends_nothing(
        self, server: ScriptedServer, kept: Gate, script: list[Answer], kwargs: dict[str, Any]
    ) -> None:
        scripted(server, *script)
        assert kept.run(**{"outage_tolerance": 20, **kwargs})

    @pytest.mark.parametrize("before", [[], [GOING] * 5, [DOWN] * 5], ids=["at once", "after a wait", "an outage"])
    @pytest.mark.parametrize("grace", [0, 0.6])
    def test_from_the_first_in_a_row_and_twice_at_least(
        self, server: ScriptedServer, kept: Gate, before: list[Answer], grace: float
    ) -> None:
        times = scripted(server, *before, UNKNOWN)
        with pytest.raises(ImportJobUnknown):
            kept.run(unknown_job_grace=grace, outage_tolerance=20)
        unknown = times.at(UNKNOWN)
        assert len(unknown) >= 2
        if kept.mode != "reschedule" or isinstance(kept.context.get("task_state_store"), Store):
            assert unknown[-1] - unknown[0] >= grace * 0.95
        assert unknown[-1] - unknown[0] < 3 * grace + 1

    def test_a_worker_began_and_the_triggerer_restarts(self, server: ScriptedServer, deferred: Gate) -> None:
        times = scripted(server, UNKNOWN)
        row = deferral(deferred, unknown_job_grace=1.2, poke_interval=0.1)
        event = restarted(row.trigger, every=0.5)
        assert event is not None, "each restart began the grace anew"
        assert event["verdict"] == "job_unknown"
        assert times.times[-1] - times.times[0] >= 1.1
        with pytest.raises(ImportJobUnknown):
            resume(deferred, row, event, unknown_job_grace=1.2)

    def test_a_resume_that_defers_again(self, server: ScriptedServer, deferred: Gate) -> None:
        """The outage is over, but now the job is unknown: that began now, and goes on in the next deferral."""
        kwargs = {"unknown_job_grace": 1.2, "poke_interval": 0.1}
        scripted(server, GOING, UNKNOWN)
        first = deferral(deferred, **kwargs)
        first.kwargs["started_at"] -= 10
        event = {"job_id": JOB, "verdict": "unreachable", "message": "down"}
        began = time.monotonic()
        again = deferral(deferred, lambda: resume(deferred, first, event, **kwargs))
        assert (restarted(again.trigger, every=0.5) or {}).get("verdict") == "job_unknown"
        assert 1 < time.monotonic() - began < 3.6


class TestOutage:
    def test_a_worker_began_and_the_triggerer_restarts(self, server: ScriptedServer, deferred: Gate) -> None:
        scripted(server, DOWN)
        row = deferral(deferred, outage_tolerance=1.2, poke_interval=0.1)
        event = restarted(row.trigger, every=0.5)
        assert event is not None, "each restart began the outage anew"
        assert event["verdict"] == "unreachable"

    def test_the_deferral_does_not_double_the_tolerance(self, server: ScriptedServer, deferred: Gate) -> None:
        times = scripted(server, DOWN)
        row = deferral(deferred, outage_tolerance=2.4, poke_interval=0.1)
        time.sleep(2.5)  # until a triggerer takes it
        began = time.monotonic()
        event = fire(row.trigger)
        assert event["verdict"] == "unreachable"
        assert len(times.times) >= 2
        assert time.monotonic() - began < 1.6
        with pytest.raises(ImportApiUnreachable):
            resume(deferred, row, event, outage_tolerance=2.4)

    def test_a_good_answer_ends_it(self, server: ScriptedServer, kept: Gate) -> None:
        scripted(server, *[DOWN, DOWN, GOING, GOING] * 4, DONE)
        assert kept.run(outage_tolerance=0.8, poke_interval=0.05)

    @pytest.mark.parametrize("make", STORES.values(), ids=STORES)
    def test_reschedule(self, server: ScriptedServer, connect: Connect, make: Callable[[], Any]) -> None:
        gate, store = Gate("reschedule"), make()
        if store is not None:
            gate.context["task_state_store"] = store
        times = scripted(server, GOING, DOWN)
        with pytest.raises(ImportApiUnreachable if isinstance(store, Store) else AirflowSensorTimeout):
            gate.run(outage_tolerance=0.8, timeout=3)
        assert times.at(DOWN)[-1] - times.at(DOWN)[0] >= 0.75


class TestFirstSleepOfATrigger:
    def test_a_triggerer_that_restarts_often_still_polls(self, server: ScriptedServer, deferred: Gate) -> None:
        times = scripted(server, GOING, DONE)
        row = deferral(deferred, poke_interval=1)
        assert (restarted(row.trigger, every=0.4) or {}).get("verdict") == "open"
        assert times.times[1] - times.times[0] >= 0.7


ROW_010 = {
    "job_id": JOB,
    "cluster_id": None,
    "importprog_conn_id": "importprog_default",
    "started_at": 0.0,
    "last_shown": ["importing", 40, 0, 2],
    "wait_for": "completed",
    "allow_failed_files": False,
    "poke_interval": 0.05,
    "outage_tolerance": 900.0,
    "unknown_job_grace": 60.0,
}
SUMMARY = {
    "job_id": JOB,
    "collection_name": "books",
    "state": "importing",
    "progress": 40.0,
    "file_size": 10,
    "imported_rows": 2,
    "total_rows": 5,
    "complete_time": None,
    "error_message": None,
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("{{ ti.xcom_pull('x') }}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def triggers() -> Iterator[type[BaseTrigger]]:
    for module in pkgutil.iter_modules(airflow_provider_importprog.triggers.__path__):
        found = import_module(f"{airflow_provider_importprog.triggers.__name__}.{module.name}")
        for one in vars(found).values():
            if inspect.isclass(one) and issubclass(one, BaseTrigger) and one.__module__ == found.__name__:
                yield one


class TestRows:
    @pytest.mark.parametrize("trigger", triggers(), ids=lambda one: one.__name__)
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_no_constructor_raises(self, trigger: type[BaseTrigger], data: st.DataObject) -> None:
        parameters = inspect.signature(trigger.__init__).parameters
        names = st.sampled_from(list(parameters)[1:])
        if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):  # else Airflow bears the TypeError
            names |= st.just("of_a_newer_release") | st.from_regex(r"[a-z]{1,8}", fullmatch=True)
        kwargs = data.draw(st.dictionaries(names.filter(lambda name: name not in ("self", "kwargs")), ANYTHING))
        repr(trigger(**kwargs))

    @pytest.mark.parametrize(
        "bad",
        [
            {"job_id": ...},
            *({"job_id": value} for value in (None, "", ["a"], {}, True)),
            *({"poke_interval": value} for value in ("{{ params.often }}", -1, None, math.nan, [30])),
            {"wait_for": "later"},
            {"wait_for": ["completed"]},
            {"allow_failed_files": "{{ params.sure }}"},
            {"outage_tolerance": "long"},
            {"unknown_job_grace": -1},
            {"importprog_conn_id": ""},
            {"importprog_conn_id": 7.5},
        ],
        ids=str,
    )
    def test_what_it_refuses_is_one_event(self, server: ScriptedServer, deferred: Gate, bad: dict[str, Any]) -> None:
        scripted(server, DONE)
        kwargs = {name: value for name, value in {**ROW_010, **bad}.items() if value is not ...}
        trigger = ImportProgressTrigger(**kwargs)

        async def every() -> list[Any]:
            return [event.payload async for event in trigger.run()]

        (event,) = asyncio.run(asyncio.wait_for(every(), 10))
        assert set(event) == {"job_id", "verdict", "message"}
        assert event["verdict"] == "setting_invalid"
        assert next(iter(bad)) in event["message"]
        json.dumps(event)
        event = json.loads(json.dumps(event))
        with pytest.raises(ImportSettingInvalid, match=re.escape(event["message"])):
            deferred.sensor().resume_execution(
                "execute_complete", {"started_at": 0.0, "event": event}, deferred.context
            )
        assert not server.asked

    @pytest.mark.parametrize("ago", [None, 0, 3600])
    @pytest.mark.parametrize("job", [None, SUMMARY])
    def test_a_row_of_release_0_1_0(
        self, server: ScriptedServer, connect: Connect, deferred: Gate, ago: int | None, job: Any
    ) -> None:
        scripted(server, GOING, UNKNOWN, GOING, DONE)
        started = None if ago is None else time.time() - ago
        event = fire(ImportProgressTrigger(**{**ROW_010, "started_at": started}))
        assert event["verdict"] == "open"
        kwargs = {"started_at": time.time() if started is None else started, "job": job, "event": event}
        assert deferred.sensor(timeout=86400).resume_execution("execute_complete", kwargs, deferred.context)
        assert deferred.ti.pushed["import_job"]["state"] == "completed"


class TestToken:
    def test_rotated_while_it_waits(self, server: ScriptedServer, gate: Gate, connect: Connect) -> None:
        asked_at: list[str | None] = []

        def answer(asked: Asked) -> Answer:
            asked_at.append(asked.header("Authorization"))
            if len(asked_at) == 3:
                connect(password="n3w")
                return GOING
            if len(asked_at) > 3 and asked_at[-1] != f"Bearer {TOKEN_LOGIN}:n3w":
                return DENIED
            return DONE if asked_at.count(f"Bearer {TOKEN_LOGIN}:n3w") > 1 else GOING

        scripted(server, answer)
        assert gate.run(poke_interval=0.1)

    def test_rotated_before_the_trigger_and_before_the_resume(
        self, server: ScriptedServer, deferred: Gate, connect: Connect
    ) -> None:
        right = ["s3cret-Pa55word"]

        def answer(asked: Asked) -> Answer:
            good = asked.header("Authorization") == f"Bearer {TOKEN_LOGIN}:{right[0]}"
            return (DONE if len(right) > 1 else GOING) if good else DENIED

        def rotate(password: str) -> None:
            connect(password=password)
            right.insert(0, password)

        scripted(server, answer)
        row = deferral(deferred)
        rotate("second")
        event = fire(row.trigger)
        assert event["verdict"] == "open"
        rotate("third")
        assert resume(deferred, row, event)

    def test_wrong_for_good_fails_at_once(self, server: ScriptedServer, gate: Gate, connect: Connect) -> None:
        times = scripted(server, GOING, GOING, DENIED)
        with pytest.raises(ImportApiUnauthorized):
            gate.run(outage_tolerance=900, unknown_job_grace=900, poke_interval=0.3)
        denied = times.at(DENIED)
        assert len(denied) <= 4, "once more with the connection read anew, on the trigger and on the worker"
        assert denied[-1] - denied[0] < 2


class TestTimeOut:
    def test_an_execution_timeout_that_is_over_ends_it(self, server: ScriptedServer, deferred: Gate) -> None:
        """Now, or by a deferral that ends at once."""
        scripted(server, GOING)
        with pytest.raises((TaskDeferred, AirflowTaskTimeout)) as caught:
            deferred.sensor(timeout=100, execution_timeout=timedelta(seconds=0.01)).execute(deferred.context)
        assert getattr(caught.value, "timeout", timedelta()) < timedelta(seconds=1)

    @pytest.mark.parametrize(("max_tries", "spans"), [(1, True), (2, False)], ids=["retried", "cleared"])
    def test_over_tries(
        self, server: ScriptedServer, connect: Connect, deferred: Gate, max_tries: int, spans: bool
    ) -> None:
        """With a store to keep it in. A task that is cleared begins anew: Airflow raises `max_tries` then."""
        scripted(server, GOING)
        deferred.context["task_state_store"] = Store()
        deferred.ti.max_tries = 1
        deferral(deferred, timeout=6, retries=1)
        time.sleep(2)
        deferred.ti.try_number, deferred.ti.max_tries = 2, max_tries
        left = deferral(deferred, timeout=6, retries=1).timeout.total_seconds()
        assert left < 4.5 if spans else left > 5


class TestAnnouncedSleep:
    WORDS = re.compile(r"(?:again in|interval is) ([\d.]+)")
    CASES: dict[str, tuple[Answer, dict[str, Any]]] = {  # noqa: RUF012
        "outage": (DOWN, {}),
        "Retry-After": (Answer(b"", 503, {"Retry-After": "3"}), {}),
        "Retry-After longer than the time-out": (Answer(b"", 503, {"Retry-After": "9"}), {"timeout": 4}),
        "exponential": (DOWN, {"exponential_backoff": True}),
        "exponential, capped": (DOWN, {"exponential_backoff": True, "max_wait": 0.5, "poke_interval": 2}),
    }

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("mode", ["poke", "reschedule"])
    def test_on_a_worker(
        self,
        server: ScriptedServer,
        connect: Connect,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        mode: str,
        case: str,
    ) -> None:
        answer, kwargs = self.CASES[case]
        gate, announced, others = Gate(mode), [], []
        scripted(server, lambda _: answer if len(announced) < 2 else DONE)
        caplog.set_level(logging.INFO)

        def sleep(seconds: float) -> None:
            said = [float(one) for one in self.WORDS.findall(capsys.readouterr().out + caplog.text)]
            caplog.clear()
            if said:
                announced.append((seconds, said))
            else:  # within a request, before it counts as failed
                others.append(seconds)

        monkeypatch.setattr("time.sleep", sleep)
        for _ in range(3):
            try:
                gate.sensor(**{"outage_tolerance": 60, "poke_interval": 0.3, **kwargs}).execute(gate.context)
                break
            except AirflowRescheduleException as again:
                sleep((again.reschedule_date - datetime.now(timezone.utc)).total_seconds())
        assert len(announced) == 2
        for seconds, said in announced:
            assert said == pytest.approx([seconds] * len(said), abs=0.11)
        assert max(others, default=0) <= 1, "a long sleep is announced"

    def test_in_the_triggerer(
        self,
        server: ScriptedServer,
        deferred: Gate,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        times = scripted(server, GOING, DOWN, Answer(b"", 503, {"Retry-After": "1"}), DOWN, DONE)
        caplog.set_level(logging.INFO)
        fire(deferral(deferred, outage_tolerance=60, poke_interval=0.2).trigger)
        announced = [
            float(one) for one in self.WORDS.findall(capsys.readouterr().out) or self.WORDS.findall(caplog.text)
        ]
        gaps = [b - a for a, b in zip(times.times[1:], times.times[2:], strict=False)]
        assert len(announced) == 3
        for said, gap in zip(announced, gaps, strict=True):
            assert said - 0.1 < gap < said + 0.6
