"""The deferred half of a gate: waits for an import job in the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_importprog import _end_in_triggerer, _messages, _validation
from airflow_provider_importprog._gate import Decision, Gate, GatePolicy, GateState
from airflow_provider_importprog.exceptions import (
    ImportConnectionNotFound,
    ImportProgressException,
    ImportSettingInvalid,
)
from airflow_provider_importprog.verdict import Verdict

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook

# In bytes. Airflow logs every event and keeps it in its database; who resumes finds the whole message anew.
_LONGEST_MESSAGE = 2000
# Seconds, as Airflow's own limit ([triggerer] on_kill_timeout): a triggerer that is stopped waits for it.
_LONGEST_ABORT = 30.0
_POLICY = GatePolicy()


class ImportProgressTrigger(BaseTrigger):
    """Asks for an import job until its gate opens or fails, then fires one small event.

    The event is ``{"job_id", "verdict", "message"}``, however many files the job has; who resumes fetches the
    details. What is serialized names the connection and holds none of its secrets.

    The constructor takes anything, and :meth:`run` judges it: where a trigger's constructor raises, Airflow's whole
    triggerer ends, with every gate in it, and again at each start, because the row stays (seen on 3.3.2).

    :param cluster_id: asked instead of the connection's cluster; None for that one.
    :param poke_interval: seconds between two polls, and from the last poll on the worker to the first here: an event
        that comes at once can overtake the scheduler's own record of the deferral.
    :param wait_for: ``completed``, or ``uncommitted`` for a two-phase import.
    :param outage_tolerance: seconds without one good answer after which the gate fails.
    :param unknown_job_grace: seconds for which the server may not know the job.
    :param started_at: when the gate began to wait, in seconds since the epoch; None for now.
    :param last_shown: what the gate's log showed last of the progress; empty for nothing.
    :param abort_on_kill: abort the job where a person ends the task (Airflow 3.3 and later tell a trigger).
    :param storage_conn_id: the connection of an object storage whose keys the server was told. Should it echo them,
        they are in no log and no event.
    :param min_rows: fewer imported rows than that fail the gate; None for any number.
    :param stall_warning: seconds without progress after which the log warns once; 0 for never.
    :param exponential_backoff: poll less and less often.
    :param max_wait: seconds; no longer than that between two polls.
    :param silent_fail: log what is not final, and wait on.
    :param state: what else the gate has seen, as ``GateState.to_dict`` gives it; None for nothing.
    :param end: what a push of the gate's XComs takes, to end the task here where the gate opens; None to resume it.
    :param newer: what a newer release wrote into the row, as there may be during an upgrade. It is ignored.
    """

    def __init__(
        self,
        job_id: Any = None,
        cluster_id: Any = None,
        importprog_conn_id: Any = "importprog_default",
        poke_interval: Any = _POLICY.poke_interval,
        wait_for: Any = _POLICY.wait_for,
        allow_failed_files: Any = _POLICY.allow_failed_files,
        outage_tolerance: Any = _POLICY.outage_tolerance,
        unknown_job_grace: Any = _POLICY.unknown_job_grace,
        started_at: Any = None,
        last_shown: Any = (),
        abort_on_kill: Any = False,
        storage_conn_id: Any = None,
        min_rows: Any = _POLICY.min_rows,
        stall_warning: Any = _POLICY.stall_warning,
        exponential_backoff: Any = _POLICY.exponential_backoff,
        max_wait: Any = _POLICY.max_wait,
        silent_fail: Any = _POLICY.silent_fail,
        state: Any = None,
        end: Any = None,
        **newer: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own is untyped
        self._row = {
            "job_id": job_id,
            "cluster_id": cluster_id,
            "importprog_conn_id": importprog_conn_id,
            "started_at": started_at,
            "last_shown": list(last_shown) if isinstance(last_shown, tuple) else last_shown,
            "wait_for": wait_for,
            "allow_failed_files": allow_failed_files,
            "poke_interval": poke_interval,
            "outage_tolerance": outage_tolerance,
            "unknown_job_grace": unknown_job_grace,
        }
        later = {
            "abort_on_kill": (abort_on_kill, False),
            "storage_conn_id": (storage_conn_id, None),
            "min_rows": (min_rows, _POLICY.min_rows),
            "stall_warning": (stall_warning, _POLICY.stall_warning),
            "exponential_backoff": (exponential_backoff, _POLICY.exponential_backoff),
            "max_wait": (max_wait, _POLICY.max_wait),
            "silent_fail": (silent_fail, _POLICY.silent_fail),
            "state": (state, None),
            "end": (end, None),
        }
        # A triggerer of an older release, as there may be during an upgrade, does not know them.
        self._row |= {name: value for name, (value, default) in later.items() if value != default}

    @classmethod
    def of(cls, gate: Gate, **more: Any) -> Self:
        """Return the trigger that goes on with a gate.

        :param more: what the gate does not know: the connection, and what is done where a person ends the task.
        """
        state = gate.state.to_dict()
        last_shown = state.pop("last_shown", [])
        return cls(
            gate.job_id,
            started_at=gate.state.started_at,
            last_shown=last_shown,
            state=state or None,
            **asdict(gate.policy),
            **more,
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that make this trigger anew."""
        return f"{type(self).__module__}.{type(self).__qualname__}", dict(self._row)

    async def on_kill(self) -> None:
        """Abort the job where that was asked for; Airflow calls it when a person ends the task.

        It calls it too where another triggerer has taken this trigger over, because this one was not heard of for a
        while (3.3.2: ``update_triggers`` in its triggerer_job_runner.py). The task is deferred then, or has succeeded.

        A second later Airflow cancels it, and again each second until the trigger is gone (3.3.2: the answer to each
        ``TriggerStateChanges`` names all triggers that are to be cancelled). So the abort is a task of its own.
        """
        ending = asyncio.create_task(self._end_job())
        while not ending.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((ending,))
        ending.result()

    async def _end_job(self) -> None:
        job_id = str(self._row["job_id"])
        try:
            if not _validation.flag(self._row.get("abort_on_kill", False), "abort_on_kill"):
                self.log.info("%s", _messages.task_ended(job_id, aborted=False))
                return
            if self.task_instance and await _end_in_triggerer.is_in(self.task_instance, "deferred", "success"):
                self.log.info("Import job %s is not aborted: nobody has ended its task.", job_id)
                return
            abort = (await self._hook()).abort_import_job(job_id, self._cluster_id)
            await asyncio.wait_for(abort, _LONGEST_ABORT)
        except ImportProgressException as error:
            reason = str(error)
        except asyncio.TimeoutError:
            reason = f"The server did not answer within {_messages.span(_LONGEST_ABORT)}."
        except Exception as error:
            reason = f"Airflow does not say whether somebody has ended the task ({type(error).__name__})."
        else:
            self.log.info("%s", _messages.task_ended(job_id, aborted=True))
            return
        self.log.warning("%s", _messages.task_ended(job_id, aborted=True, error=reason))

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire the one event."""
        try:
            gate = self._gate()
            await asyncio.sleep(gate.next_poll_in)
            decision = await self._wait(gate)
            if await self._ends(gate, decision):
                yield TaskSuccessEvent()
                return
        except ImportSettingInvalid as error:
            decision = Decision(Verdict.SETTING_INVALID, str(error))
        event = {
            "job_id": str(self._row["job_id"]),
            "verdict": decision.verdict.value,
            "message": _messages.brief(decision.message, _LONGEST_MESSAGE),
        }
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's own is untyped

    async def _ends(self, gate: Gate, decision: Decision) -> bool:
        """End the gate here if it opens and that was asked for: say whether all was pushed that it returns."""
        end = self._row.get("end")
        if end is None or decision.verdict is not Verdict.OPEN or decision.job is None:
            return False
        try:
            await _end_in_triggerer.push(self.task_instance, end, decision.job)
        except Exception as error:  # a worker meets it too, and says what it is
            self.log.warning("The gate resumes on a worker: its XComs were not pushed (%s).", type(error).__name__)
            return False
        gate.opens(decision)
        return True

    def _gate(self) -> Gate:
        """Return the gate that this row describes.

        :raises ImportSettingInvalid: it holds what no gate can wait with.
        """
        row = self._row
        max_wait = row.get("max_wait")
        policy = GatePolicy(
            wait_for=_validation.wait_for(row["wait_for"]),
            allow_failed_files=_validation.flag(row["allow_failed_files"], "allow_failed_files"),
            min_rows=_validation.min_rows(row.get("min_rows")),
            poke_interval=_validation.seconds(row["poke_interval"], "poke_interval"),
            outage_tolerance=_validation.seconds(row["outage_tolerance"], "outage_tolerance"),
            unknown_job_grace=_validation.seconds(row["unknown_job_grace"], "unknown_job_grace"),
            stall_warning=_validation.seconds(row.get("stall_warning", _POLICY.stall_warning), "stall_warning"),
            exponential_backoff=_validation.flag(row.get("exponential_backoff", False), "exponential_backoff"),
            max_wait=None if max_wait is None else _validation.seconds(max_wait, "max_wait"),
            silent_fail=_validation.flag(row.get("silent_fail", False), "silent_fail"),
        )
        state = GateState.from_dict(row.get("state"), row["started_at"], row["last_shown"])
        # Another triggerer may have polled since the row was written.
        return Gate(_validation.job_id(row["job_id"]), policy, log=self.log, state=state.perhaps_known())

    job_id = property(lambda self: self._row["job_id"])
    cluster_id = property(lambda self: self._row["cluster_id"])
    importprog_conn_id = property(lambda self: self._row["importprog_conn_id"])
    poke_interval = property(lambda self: self._row["poke_interval"])

    @property
    def _cluster_id(self) -> str | None:
        return _validation.optional_text(self._row["cluster_id"], "cluster_id")

    async def _hook(self) -> ImportProgressAsyncHook:
        loaded = await load_hook()
        conn_id = _validation.conn_id(self._row["importprog_conn_id"])
        storage_conn_id = _validation.optional_text(self._row.get("storage_conn_id"), "storage_conn_id")
        return loaded(conn_id, storage_conn_id)

    async def _wait(self, gate: Gate) -> Decision:
        brief = gate.needs_no_files if self._row.get("end") is None else gate.waits_for
        policy = gate.policy
        while True:
            hook = await self._hook()
            poller = hook.poller(
                gate.job_id,
                self._cluster_id,
                policy.poke_interval,
                brief=brief,
                listed=gate.listed,
                two_phase=policy.two_phase,
            )
            try:
                async with poller:
                    while True:
                        try:
                            decision = gate.answered(await poller.poll())
                        except ImportProgressException as error:
                            # Somebody may mend the connection while a gate waits on in spite of it: it is read anew.
                            if policy.silent_fail or isinstance(error, ImportSettingInvalid):
                                raise
                            decision = gate.failed(error)
                        if decision.verdict is not Verdict.WAIT:
                            return decision
                        await poller.pause(decision.delay)
            except ImportProgressException as error:
                # The worker has read the connection. Airflow says that there is none, too, where it cannot read any for
                # a moment (3.3.2, aget_connection in its sdk/execution_time/secrets/execution_api.py).
                decision = gate.failed(error, passes=isinstance(error, ImportConnectionNotFound))
            if decision.verdict is not Verdict.WAIT:
                return decision
            await asyncio.sleep(decision.delay)


async def load_hook() -> type[ImportProgressAsyncHook]:
    """Import the hook and all that it needs: half a second, in which the other gates of a triggerer must not stand.

    It would also slow each DAG file.
    """
    return _load_hook() if _load_hook.cache_info().currsize else await asyncio.to_thread(_load_hook)


@cache
def _load_hook() -> type[ImportProgressAsyncHook]:
    for name in ("aiohttp", "yarl"):
        import_module(name)
    from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook

    return ImportProgressAsyncHook
