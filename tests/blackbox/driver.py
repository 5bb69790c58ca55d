"""Calls hooks and drives sensors, as Airflow would. Loaded once, which a conftest may not be."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

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


class Gate:
    """Drives a sensor to its end, as Airflow would, in one of the three modes."""

    def __init__(self, mode: str, store: Any = None) -> None:
        self.mode = mode
        self.ti = FakeTaskInstance()
        self.context: dict[str, Any] = {"ti": self.ti, "task_instance": self.ti}
        if store is not None:
            self.context["task_state_store"] = store
        self.events: list[Any] = []
        self.deferred: list[Any] = []
        self.before_resume: Callable[[], Any] = lambda: None

    def sensor(self, **kwargs: Any) -> Any:
        from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor

        kwargs = {
            "task_id": "gate",
            "job_id": JOB,
            "poke_interval": 0.05,
            "timeout": 20,
            "unknown_job_grace": 0,
            "outage_tolerance": 0,
            **kwargs,
        }
        if self.mode == "reschedule":
            kwargs["mode"] = "reschedule"
        return ImportProgressSensor(deferrable=self.mode == "deferrable", **kwargs)

    def run(self, **kwargs: Any) -> Any:
        if self.mode == "reschedule":
            return self._reschedule(kwargs)
        sensor = self.sensor(**kwargs)
        if self.mode == "poke":
            return sensor.execute(self.context)
        from airflow.providers.common.compat.sdk import TaskDeferred

        step: Callable[[], Any] = lambda: sensor.execute(self.context)  # noqa: E731
        while True:
            try:
                return step()
            except TaskDeferred as deferred:
                self.deferred.append(deferred)
                event = fire(deferred.trigger)
                self.events.append(event)
                self.before_resume()
                resumed = self.sensor(**kwargs)
                resume_kwargs = {**(deferred.kwargs or {}), "event": event}
                name = deferred.method_name
                step = lambda s=resumed, n=name, k=resume_kwargs: s.resume_execution(n, k, self.context)  # noqa: E731

    def defer(self, **kwargs: Any) -> Any:
        """Run a sensor until it defers, and return that."""
        from airflow.providers.common.compat.sdk import TaskDeferred

        try:
            self.sensor(**kwargs).execute(self.context)
        except TaskDeferred as deferred:
            return deferred
        raise AssertionError("the sensor did not defer")

    def _reschedule(self, kwargs: dict[str, Any]) -> Any:
        from airflow.exceptions import AirflowRescheduleException

        began = time.monotonic()
        while time.monotonic() - began < 15:
            try:
                return self.sensor(**kwargs).execute(self.context)
            except AirflowRescheduleException as again:
                self.ti.first = self.ti.first or self.ti.start_date
                wait = (again.reschedule_date - datetime.now(timezone.utc)).total_seconds()
                time.sleep(min(max(wait, 0), 0.3))
        raise AssertionError("the rescheduled sensor never ended")


def fire(trigger: Any) -> Any:
    """Run a trigger to its one event, after the trip through its row."""
    path, kwargs = trigger.serialize()
    again = type(trigger)(**json.loads(json.dumps(kwargs)))
    assert path == f"{type(trigger).__module__}.{type(trigger).__qualname__}"

    async def first() -> Any:
        events = [event async for event in again.run()]
        assert len(events) == 1
        return events[0].payload

    return asyncio.run(asyncio.wait_for(first(), 20))
