"""Ending an open gate in the triggerer, which spares the worker that would resume it. Airflow 3.3 and later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow_provider_importprog._gate import XCOM_JOB_KEY, XCOM_RETURN_KEY
from airflow_provider_importprog.links import ImportJobLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_importprog._gate_operator import ImportGateOperator
    from airflow_provider_importprog.api.model import ImportJob


_TOO_OLD = "to end in the triggerer needs Airflow 3.3 or later"


class NotDeferred(Exception):
    """The task does not wait for its trigger any more: somebody has ended or cleared it."""


def why_resume(task: ImportGateOperator, gate_class: type[Any], context: Context) -> str | None:
    """Return why a gate has to resume on a worker where it opens, or None where the triggerer can end it.

    It asks for what a worker does at the end of a task: of a task that a trigger ends, Airflow does nothing of it
    (3.3.2, ``handle_event_submit`` in its models/trigger.py).

    :param gate_class: the class whose ``execute_complete`` says nothing that :func:`push` does not do.
    """
    try:
        from airflow.sdk.bases.operator import BaseOperator
        from airflow.sdk.bases.xcom import BaseXCom
        from airflow.sdk.execution_time.xcom import XCom
        from airflow.sdk.listener import get_listener_manager
    except ImportError:
        return _TOO_OLD
    if not hasattr(BaseXCom, "aset"):
        return _TOO_OLD

    def overrides(name: str, base: type[Any]) -> bool:
        return getattr(getattr(task, name), "__func__", None) is not getattr(base, name)

    dag = task.get_dag()
    reasons: dict[str, Callable[[], Any]] = {
        "it has outlets": lambda: task.outlets,
        "it has an on_success_callback": lambda: task.on_success_callback,
        "its DAG has an on_success_callback": lambda: dag and dag.on_success_callback,
        "a listener is installed": lambda: get_listener_manager().has_listeners,
        "its execute_complete is overridden": lambda: overrides("execute_complete", gate_class),
        "its post_execute is overridden": lambda: overrides("post_execute", BaseOperator),
        "it has the parameter post_execute": lambda: task._post_execute_hook,
        # That to the import job is shown as soon as the server has answered, and stays.
        "the server has not answered yet": lambda: task.job_page is None,
        "it shows a link": lambda: any(
            _shown(link, task, context) for link in task.operator_extra_links if not isinstance(link, ImportJobLink)
        ),
        # Airflow renders it again after ``execute``, with what the end of a gate has put into the context.
        "its map_index_template names import_job": lambda: XCOM_JOB_KEY in (task.map_index_template or ""),
        "refresh_load is set": lambda: task.refresh_load,
        "a task maps over its files, and do_xcom_push is off": lambda: (
            not task.do_xcom_push and task._is_mapped_over(context)
        ),
        "the XCom backend overrides set or aset": lambda: any(
            kind is not BaseXCom and {"set", "aset"} & vars(kind).keys() for kind in XCom.__mro__
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds()), None)


def _shown(link: Any, task: ImportGateOperator, context: Context) -> str:
    with suppress(Exception):  # Airflow shows no link then either
        return str(link.get_link(task, ti_key=context["ti"]) or "")
    return ""


def plan(task: ImportGateOperator, context: Context) -> dict[str, bool]:
    """Return what :func:`push` needs to know of a task, as plain JSON."""
    return {
        "return_value": task.do_xcom_push,
        "mapped_over": task._is_mapped_over(context),
        "dag_result": task.returns_dag_result,
    }


async def push(ti: Any, plan: dict[str, bool], job: ImportJob) -> None:
    """Push what a gate returns, as a worker does at its end.

    A thread cannot be cancelled, so nothing that may take long pushes: where a task is cleared meanwhile, its next
    try may have begun, and Airflow deletes the XComs of the earlier ones only as it begins.

    :param ti: the trigger's task instance.
    :raises NotDeferred: nothing was pushed.
    """
    from airflow.sdk.execution_time.xcom import XCom

    where = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}

    def serialized() -> dict[str, Any]:
        values: dict[str, Any] = {XCOM_JOB_KEY: job.summary()}
        if plan["return_value"]:
            values[XCOM_RETURN_KEY] = [file.to_dict() for file in job.files]
        return {key: XCom.serialize_value(value, key=key, **where) for key, value in values.items()}

    # A backend may store the value elsewhere, and take its time.
    values = await asyncio.to_thread(serialized)
    as_it_is: Any = type("SerializedXCom", (XCom,), {"serialize_value": staticmethod(lambda value, **_: value)})
    mapped_length = len(job.files) if plan["mapped_over"] else None
    # One gate after the other, because a long queue of them would come between the question and the push.
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        if not await is_in(ti, "deferred"):
            raise NotDeferred
        for key, value in values.items():
            length = mapped_length if key == XCOM_RETURN_KEY else None
            await as_it_is.aset(key, value, **where, dag_result=plan["dag_result"], _mapped_length=length)


async def is_in(ti: Any, *states: str) -> bool:
    """Ask Airflow whether a trigger's task is in one of these states."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    count = await asyncio.to_thread(
        RuntimeTaskInstance.get_ti_count,
        dag_id=ti.dag_id,
        task_ids=[ti.task_id],
        run_ids=[ti.run_id],
        map_index=ti.map_index,
        states=list(states),
    )
    return bool(count)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
