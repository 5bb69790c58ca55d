"""The deferred half of a gate: waits for an import job in the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_importprog import _messages, _validation
from airflow_provider_importprog._gate import Decision, Gate, GatePolicy
from airflow_provider_importprog.exceptions import ImportProgressException, ImportSettingInvalid
from airflow_provider_importprog.verdict import Verdict

if TYPE_CHECKING:
    from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook

# In bytes. Airflow logs every event and keeps it in its database; who resumes finds the whole message anew.
_LONGEST_MESSAGE = 2000


class ImportProgressTrigger(BaseTrigger):
    """Asks for an import job until its gate opens or fails, then fires one small event.

    The event is ``{"job_id", "verdict", "message"}``, however many files the job has; who resumes fetches the
    details. What is serialized names the connection and holds none of its secrets.

    :param cluster_id: asked instead of the connection's cluster; None for that one.
    :param poke_interval: seconds between two questions, and before the first: an event that comes at once can
        overtake the scheduler's own record of the deferral.
    :param wait_for: ``completed``, or ``uncommitted`` for a two-phase import.
    :param outage_tolerance: seconds without one good answer after which the gate fails.
    :param unknown_job_grace: seconds for which the server may not know the job.
    :param started_at: when the gate began to wait, in seconds since the epoch; None for now.
    :param last_shown: what the gate's log showed last of the progress; empty for nothing.
    :param abort_on_kill: abort the job where a person ends the task (Airflow 3.3 and later tell a trigger).
    :param storage_conn_id: the connection of an object storage whose keys the server was told. Should it echo them,
        they are in no log and no event.
    """

    def __init__(
        self,
        job_id: str,
        cluster_id: str | None = None,
        importprog_conn_id: str = "importprog_default",
        poke_interval: float = 30.0,
        wait_for: str = "completed",
        allow_failed_files: bool = False,
        outage_tolerance: float = 900.0,
        unknown_job_grace: float = 60.0,
        started_at: float | None = None,
        last_shown: Sequence[Any] = (),
        abort_on_kill: bool = False,
        storage_conn_id: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own is untyped
        self.job_id = _validation.job_id(job_id)
        self.cluster_id = cluster_id
        self.importprog_conn_id = importprog_conn_id
        self.started_at = started_at
        self.last_shown = list(last_shown)
        self.abort_on_kill = _validation.flag(abort_on_kill, "abort_on_kill")
        self.storage_conn_id = storage_conn_id
        self.policy = GatePolicy(
            wait_for=_validation.wait_for(wait_for),
            allow_failed_files=_validation.flag(allow_failed_files, "allow_failed_files"),
            poke_interval=_validation.seconds(poke_interval, "poke_interval"),
            outage_tolerance=_validation.seconds(outage_tolerance, "outage_tolerance"),
            unknown_job_grace=_validation.seconds(unknown_job_grace, "unknown_job_grace"),
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that make this trigger anew."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "job_id": self.job_id,
                "cluster_id": self.cluster_id,
                "importprog_conn_id": self.importprog_conn_id,
                "started_at": self.started_at,
                "last_shown": self.last_shown,
                **asdict(self.policy),
                # A triggerer of an older release, as there may be during an upgrade, does not know them.
                **({"abort_on_kill": True} if self.abort_on_kill else {}),
                **({"storage_conn_id": self.storage_conn_id} if self.storage_conn_id is not None else {}),
            },
        )

    async def on_kill(self) -> None:
        """Abort the job where that was asked for; Airflow calls it when a person ends the task."""
        if not self.abort_on_kill:
            self.log.info("The task was ended while it waited. Import job %s goes on.", self.job_id)
            return
        try:
            await (await self._hook()).abort_import_job(self.job_id, self.cluster_id)
        except ImportProgressException as error:
            said = await self._redacted(str(error))
            self.log.warning("The task was ended, but import job %s was not aborted. %s", self.job_id, said)
        else:
            self.log.info("The task was ended, and import job %s is aborted: its rows are dropped.", self.job_id)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire the one event."""
        gate = Gate(self.job_id, self.policy, log=self.log, started_at=self.started_at, last_shown=self.last_shown)
        await asyncio.sleep(self.policy.poke_interval)
        try:
            decision = await self._wait(gate)
        except ImportSettingInvalid as error:
            decision = Decision(Verdict.SETTING_INVALID, str(error))
        event = {
            "job_id": self.job_id,
            "verdict": decision.verdict.value,
            "message": _messages.brief(decision.message, _LONGEST_MESSAGE),
        }
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's own is untyped

    async def _hook(self) -> ImportProgressAsyncHook:
        loaded = _load_hook() if _load_hook.cache_info().currsize else await asyncio.to_thread(_load_hook)
        return loaded(self.importprog_conn_id)

    async def _wait(self, gate: Gate) -> Decision:
        hook = await self._hook()
        interval, two_phase = self.policy.poke_interval, self.policy.two_phase
        async with hook.poller(self.job_id, self.cluster_id, interval, two_phase=two_phase) as poller:
            while True:
                try:
                    job = await poller.poll(gate.waits_for)
                except ImportSettingInvalid:
                    raise
                except ImportProgressException as error:
                    error.args = (await self._redacted(str(error)),)  # which the gate logs
                    decision = gate.failed(error)
                else:
                    decision = gate.answered(job)
                if decision.verdict is not Verdict.WAIT:
                    return replace(decision, message=await self._redacted(decision.message))
                await poller.pause(decision.delay)

    async def _redacted(self, words: str) -> str:
        """Return what a server said without the keys of the object storage, should it have echoed them."""
        if self.storage_conn_id is None:
            return words
        from airflow_provider_importprog._redaction import Redactor
        from airflow_provider_importprog._storage import async_storage_keys

        try:
            # Here and not in the hook: all gates of a connection share its session, whatever storage they import from.
            # In a task of its own: what Airflow logs of a connection that it cannot read quotes the error at hand.
            keys = await asyncio.create_task(async_storage_keys(self.storage_conn_id))
            return Redactor(keys.secrets)(words)
        except Exception as error:
            return (
                f"What the server said of import job {self.job_id} is not shown: it may hold keys of connection "
                f"{self.storage_conn_id!r}, which cannot be read now ({type(error).__name__})."
            )


@cache
def _load_hook() -> type[ImportProgressAsyncHook]:
    """Import the hook and all that it needs: half a second, in which the other gates of a triggerer must not stand.

    No DAG file should pay for it either.
    """
    for name in ("aiohttp", "yarl"):
        import_module(name)
    from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook

    return ImportProgressAsyncHook
