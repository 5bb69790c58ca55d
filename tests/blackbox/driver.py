"""Calls hooks and drives sensors, as Airflow would. Loaded once, which a conftest may not be."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.blackbox.server import JOB

TOKEN_LOGIN, TOKEN_PASSWORD = "root", "s3cret-Pa55word"
AIRFLOW_2 = False
with suppress(Exception):
    from airflow import __version__ as _version

    AIRFLOW_2 = _version.startswith("2.")

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class FakeTaskInstance:
    """What a sensor touches of a task instance."""

    latest: FakeTaskInstance

    def __init__(self) -> None:
        FakeTaskInstance.latest = self
        self.max_tries = 0
        self.pushed: dict[str, Any] = {}
        self.start_date: datetime | None = datetime.now(timezone.utc)
        self.first: datetime | None = None
        self.dag_id, self.task_id, self.run_id, self.map_index, self.try_number = "d", "gate", "r", -1, 1

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        self.pushed[key] = value

    if not AIRFLOW_2:

        def get_first_reschedule_date(self, context: Any) -> datetime | None:
            return self.first


Connect = Callable[..., None]
MODES = ["poke", "reschedule", "deferrable"]


class Call:
    """Calls a hook's method on a new hook, blocking or asynchronous."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook, ImportProgressHook

        if self.kind == "sync":
            return getattr(ImportProgressHook(), method)(*args, **kwargs)

        async def ask() -> Any:
            return await getattr(ImportProgressAsyncHook(), method)(*args, **kwargs)

        return asyncio.run(ask())

    def progress(self, cluster_id: str | None = None) -> Any:
        return self("get_import_progress", JOB, cluster_id)


def later(plain: Any, seconds: float) -> Any:
    """Return what a process kept, as the next one would find it some seconds later: every time in it is so far back."""

    def earlier(number: str) -> float:
        return float(number) - (seconds if float(number) > 1e9 else 0)

    return json.loads(json.dumps(plain), parse_float=earlier)


class Gate:
    """Drives a sensor to its end, as Airflow would, in one of the three modes.

    :param store: Airflow's task state store, where it has one.
    :param pause: seconds that pass between two processes of the gate, without anybody waiting for them.
    """

    def __init__(self, mode: str, store: Any = None, pause: float = 0) -> None:
        self.mode, self.pause = mode, pause
        self.ti = FakeTaskInstance()
        self.context: dict[str, Any] = {"ti": self.ti, "task_instance": self.ti}
        if store is not None:
            self.context["task_state_store"] = store
        self.events: list[Any] = []
        self.deferred: list[Any] = []

    def sensor(self, **kwargs: Any) -> Any:
        from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor

        needed = {"task_id": "gate", "job_id": JOB, "poke_interval": 0.05, "timeout": 20}
        kwargs = {**needed, "unknown_job_grace": 0, "outage_tolerance": 0, **kwargs}
        if self.mode == "reschedule":
            kwargs["mode"] = "reschedule"
        return ImportProgressSensor(deferrable=self.mode == "deferrable", **kwargs)

    def run(self, **kwargs: Any) -> Any:
        if self.mode == "reschedule":
            return self._reschedule(kwargs)
        if self.mode == "poke":
            return self.sensor(**kwargs).execute(self.context)
        from airflow.providers.common.compat.sdk import TaskDeferred

        step: Callable[[], Any] = lambda: self.sensor(**kwargs).execute(self.context)  # noqa: E731
        while True:
            try:
                return step()
            except TaskDeferred as deferred:
                self.deferred.append(deferred)
                step = self._wait_in_the_triggerer(deferred, kwargs)

    def defer(self, **kwargs: Any) -> Any:
        """Run a sensor until it defers, and return that."""
        return self.deferral(lambda: self.sensor(**kwargs).execute(self.context))

    @staticmethod
    def deferral(step: Callable[[], Any]) -> Any:
        from airflow.providers.common.compat.sdk import TaskDeferred

        with pytest.raises(TaskDeferred) as deferred:
            step()
        return deferred.value

    def time_passes(self) -> None:
        """Let the pause pass for all that Airflow keeps of this task."""
        span, store = timedelta(seconds=self.pause), self.context.get("task_state_store")
        assert self.ti.start_date
        self.ti.first, self.ti.start_date = self.ti.first and self.ti.first - span, self.ti.start_date - span
        for key, kept in getattr(store, "kept", {}).items():
            store.kept[key] = json.dumps(later(json.loads(kept), self.pause))

    def _wait_in_the_triggerer(self, deferred: Any, kwargs: dict[str, Any]) -> Callable[[], Any]:
        """Return how the task resumes."""
        self.time_passes()
        left = deferred.timeout.total_seconds() - self.pause
        kept, method = later(deferred.kwargs, self.pause), deferred.method_name
        try:
            self.events.append(fire(deferred.trigger, self.pause, min(left, 20)))
            kept["event"] = self.events[-1]
        except asyncio.TimeoutError:
            assert left < 20, "the trigger never fired"
            method, kept = "__fail__", {"error": "Trigger timeout"}
        return lambda: self.sensor(**kwargs).resume_execution(method, kept, self.context)

    def _reschedule(self, kwargs: dict[str, Any]) -> Any:
        from airflow.exceptions import AirflowRescheduleException

        began = time.monotonic()
        while time.monotonic() - began < 20:
            try:
                return self.sensor(**kwargs).execute(self.context)
            except AirflowRescheduleException as again:
                self.ti.first = self.ti.first or self.ti.start_date
                self.time_passes()
                wait = (again.reschedule_date - datetime.now(timezone.utc)).total_seconds()
                time.sleep(min(max(wait - self.pause, 0), 0.3))
        raise AssertionError("the rescheduled sensor never ended")


def fire(trigger: Any, pause: float = 0, timeout: float = 20) -> Any:
    """Run a trigger to its one event, after the trip through its row.

    :param pause: seconds for which nobody ran it.
    """
    path, kwargs = trigger.serialize()
    again = type(trigger)(**later(kwargs, pause))
    assert path == f"{type(trigger).__module__}.{type(trigger).__qualname__}"

    async def first() -> Any:
        events = [event async for event in again.run()]
        assert len(events) == 1
        return events[0].payload

    return asyncio.run(asyncio.wait_for(first(), timeout))


class Told:
    """What was logged, wherever this Airflow puts it: the logging module, or structlog's standard output."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        caplog.set_level(logging.INFO)
        self._caplog, self._capfd = caplog, capfd
        self._printed: list[str] = []

    def lines(self, words: str) -> list[str]:
        """Return the messages that hold some words; each may be seen in both."""
        captured = self._capfd.readouterr()
        self._printed += [*captured.out.splitlines(), *captured.err.splitlines()]
        logged = [said for record in self._caplog.records if words in (said := record.getMessage())]
        return max(logged, [line for line in self._printed if words in line], key=len)

    def count(self, words: str) -> int:
        return len(self.lines(words))
