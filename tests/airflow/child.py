"""Runs DAG files through ``dag.test()``, each in a fork of this process: Airflow is imported once.

It reads one JSON line per DAG, answers with the fork's pid, and with ``done`` when that has ended. It must not import
the tests, and starts no thread before it forks.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import runpy
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import Any

import airflow
from airflow import settings
from airflow.listeners.listener import get_listener_manager
from airflow.providers.common.compat.sdk import DAG

import airflow_provider_importprog.operators.import_job
import airflow_provider_importprog.sensors.import_progress  # noqa: F401

AIRFLOW_2 = airflow.__version__.startswith("2.")
_DAG_MODULE = inspect.getmodule(DAG.test)
_SLEEP = time.sleep


class _Until:
    """A trigger that ends without an event at a deadline, where the scheduler would end it."""

    def __init__(self, trigger: Any, seconds: float | None) -> None:
        _, kwargs = trigger.serialize()
        self._trigger = type(trigger)(**json.loads(json.dumps(kwargs)))  # 3.x has done so, 2.11 has not
        self._seconds = seconds
        self.timed_out = False

    async def run(self) -> AsyncIterator[Any]:
        try:
            yield await asyncio.wait_for(anext(self._trigger.run()), self._seconds)
        except asyncio.TimeoutError:
            self.timed_out = True


def _be_true_3() -> None:
    """Hand on a deferral's kwargs and keep its time-out, which dag.test() of 3.x forgets."""
    from airflow.sdk.execution_time import supervisor
    from airflow.sdk.serde import serialize

    run_task, run_trigger = supervisor.run_task_in_process, _DAG_MODULE._run_inline_trigger
    last: list[Any] = []

    def task(*args: Any, **kwargs: Any) -> Any:
        last[:] = [run_task(*args, **kwargs)]
        return last[0]

    def inline(trigger: Any, ti: Any) -> None:
        msg = last[0].msg
        until = _Until(trigger, msg.trigger_timeout.total_seconds() if msg.trigger_timeout else None)
        event = run_trigger(until, ti)
        if until.timed_out:
            msg.next_method, msg.next_kwargs = "__fail__", {"error": "Trigger timeout"}
        else:
            msg.next_kwargs = {**(msg.next_kwargs or {}), "event": serialize(event.payload)}

    supervisor.run_task_in_process, _DAG_MODULE._run_inline_trigger = task, inline


def _be_true_2() -> None:
    """The same for 2.11, and the start date, which dag.test() leaves out; ``execution_timeout`` counts from it."""
    from airflow.exceptions import AirflowTaskTimeout

    run_task, run_trigger = _DAG_MODULE._run_task, _DAG_MODULE._run_inline_trigger
    began: dict[Any, datetime] = {}
    running: list[Any] = []

    def task(*, ti: Any, session: Any, **kwargs: Any) -> None:
        running[:] = [ti]
        ti.start_date = began.setdefault((ti.task_id, ti.map_index, ti.try_number), datetime.now(timezone.utc))
        session.merge(ti)
        session.commit()
        try:
            run_task(ti=ti, session=session, **kwargs)
        except AirflowTaskTimeout:  # a BaseException, which would end dag.test()
            traceback.print_exc()

    def inline(trigger: Any) -> None:
        deferral, ti = sys.exc_info()[1], running[0]
        limits = [] if deferral.timeout is None else [deferral.timeout]
        if ti.task.execution_timeout:  # as _defer_task does
            limits.append(ti.start_date + ti.task.execution_timeout - datetime.now(timezone.utc))
        until = _Until(trigger, max(min(limits), timedelta()).total_seconds() if limits else None)
        event = run_trigger(until)
        if until.timed_out:
            deferral.method_name, deferral.kwargs = "__fail__", {"error": "Trigger/execution timeout"}
        else:
            deferral.kwargs = {**(deferral.kwargs or {}), "event": event.payload}
        ti.task = ti.task.get_dag().get_task(ti.task_id)  # which a worker makes anew

    _DAG_MODULE._run_task, _DAG_MODULE._run_inline_trigger = task, inline


def _warm_up_3() -> None:
    """Make the API that a task of 3.x talks to, which takes four seconds, and leave no thread."""
    import httpx
    from airflow.sdk.execution_time.supervisor import in_process_api_server

    async def ask() -> None:
        transport = httpx.ASGITransport(in_process_api_server().app)
        async with httpx.AsyncClient(transport=transport, base_url="http://in-process.invalid") as client:
            await client.get("/health")

    asyncio.run(ask())


def _sleep(seconds: float) -> None:
    """Sleep; shorter between two looks of dag.test() at what it can run."""
    caller = sys._getframe(1).f_globals.get("__name__")
    _SLEEP(0.02 if caller == _DAG_MODULE.__name__ else seconds)


def _run(spec: dict[str, Any]) -> int:
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(spec["env"])
    settings.DAGS_FOLDER = spec["folder"]
    time.sleep = _sleep
    (_be_true_2 if AIRFLOW_2 else _be_true_3)()
    dag = runpy.run_path(f"{spec['folder']}/dag.py")["dag"]
    if AIRFLOW_2 and any(each.outlets for each in dag.tasks):
        dag.sync_to_db()  # else it knows no dataset, and drops the events
    run = dag.test()
    get_listener_manager().hook.before_stopping(component=dag)  # else a listener's own processes live on
    if spec["shown"]:
        _show(dag, run, spec["shown"])
    return 0


def _show(dag: Any, run: Any, path: str) -> None:
    """Keep what the UI asks for of each task instance, in the way in which it does: its label, and its links."""
    from airflow.serialization import serialized_objects

    kind: Any = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG
    read = kind.from_dict(kind.to_dict(dag))
    with open(path, "w") as file:
        for ti in run.get_task_instances():
            task = read.get_task(ti.task_id)
            links = {name: task.get_extra_links(ti, name) for name in task.extra_links}
            print(json.dumps([ti.task_id, ti.map_index, ti.rendered_map_index, links]), file=file)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # which Airflow writes to
    if not AIRFLOW_2:
        _warm_up_3()
    end = time.monotonic() + 20
    while threading.active_count() > 1:  # of the warm-up's loop, on their way out
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.05)
    print(json.dumps({"ready": airflow.__version__}), file=answers)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = _run(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(json.dumps({"pid": pid}), file=answers)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"done": os.waitstatus_to_exitcode(status)}), file=answers)


if __name__ == "__main__":
    main()
