"""Tells Airflow of each import job that ends, whoever submitted it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException
from airflow.triggers.base import TriggerEvent

from airflow_provider_importprog import _messages, _validation
from airflow_provider_importprog._ended_jobs import EndedJobs
from airflow_provider_importprog.exceptions import ImportApiUnauthorized, ImportProgressException
from airflow_provider_importprog.triggers.import_progress import load_hook

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:
    raise AirflowOptionalProviderFeatureException(
        f"ImportEndedTrigger needs Airflow 3.0 or later, where an asset can have watchers; this is {airflow_version}."
    ) from None
from airflow.sdk.exceptions import AirflowRuntimeError

# Seconds.
_INTERVAL = 60.0
_LONGEST_DELAY = 600.0
# An event that comes before the scheduler has begun the run of an earlier one starts no run, and is in the run of the
# next event (SchedulerJobRunner._create_dag_runs_asset_triggered, seen on 3.3.2). So the last of several comes later.
_RUN_BEGUN = 10.0


class ImportEndedTrigger(BaseEventTrigger):
    """Fires an event for each import job that ends, for an ``AssetWatcher``. Airflow 3.0 and later.

    The event is ``{"job_id", "collection_name", "state"}``. Each comes at least once, and twice where the triggerer is
    killed within seconds after it. What had ended before the first list came brings no event.

    Which jobs have ended is kept in Airflow's asset state store (3.3 and later). Without one, this process alone
    remembers it, and jobs that end while it does not run bring no event.

    The constructor takes anything, because one that raises would end Airflow's whole triggerer (seen on 3.3.2).
    :meth:`serialize` checks it when Airflow reads the DAG file, and :meth:`run` checks it again.

    :param collection_name: watch this collection's jobs alone; None for all of the connection's database.
    :param cluster_id: watched instead of the connection's cluster; None for that one.
    :param states: of ``completed`` and ``failed`` those that bring an event.
    :param poke_interval: seconds between two lists of the jobs, more than 0.
    """

    def __init__(
        self,
        collection_name: Any = None,
        importprog_conn_id: Any = "importprog_default",
        cluster_id: Any = None,
        states: Any = ("completed",),
        poke_interval: Any = _INTERVAL,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own is untyped
        self.collection_name = collection_name
        self.importprog_conn_id = importprog_conn_id
        self.cluster_id = cluster_id
        self.states = states
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that make this trigger anew.

        :raises ImportSettingInvalid: an argument is not one to watch with; Airflow shows it as an import error.
        """
        return f"{type(self).__module__}.{type(self).__qualname__}", self._checked()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire events, for ever: Airflow would start a trigger that raises anew each second."""
        if self._store is None:
            self.log.warning(
                "Airflow has no asset state store for this trigger, which 3.3 and later give to a watched asset: this "
                "process alone remembers which import jobs have ended, and those that end while it does not run bring "
                "no event."
            )
        ended: EndedJobs | None = None
        interval, failures = _INTERVAL, 0
        while True:
            try:
                row = self._checked()
                interval = row["poke_interval"]
                async with (await load_hook())(row["importprog_conn_id"]) as hook:
                    while True:
                        jobs = await hook.list_import_jobs(row["collection_name"], row["cluster_id"])
                        place = [*await hook.place(row["cluster_id"]), row["collection_name"], row["states"]]
                        if ended is None or ended.place != place:
                            ended = await self._recall(place)
                        if failures:
                            self.log.info("Import jobs are watched again, after %d failed tries.", failures)
                            failures = 0
                        new = [job for job in ended.new(jobs) if job.state in row["states"]]
                        for job in new:
                            if job is new[-1] and len(new) > 1:
                                await asyncio.sleep(_RUN_BEGUN)
                            event = {
                                "job_id": job.job_id,
                                "collection_name": job.collection_name,
                                "state": str(job.state),
                            }
                            yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's own is untyped
                        await ended.take_in(jobs)
                        await asyncio.sleep(interval)
            except Exception as error:
                delay = min(interval * 2.0 ** min(failures, 32), max(interval, _LONGEST_DELAY))
                failures += 1
                self.log.warning(
                    "Import jobs of connection %r are not watched now: %s Trying again in %s.",
                    self.importprog_conn_id,
                    _cause(error),
                    _messages.span(delay),
                )
            await asyncio.sleep(delay)

    def _checked(self) -> dict[str, Any]:
        """Return the arguments as a row holds them: equal ones make one trigger, however they were written."""
        return {
            "collection_name": _validation.optional_text(self.collection_name, "collection_name"),
            "importprog_conn_id": _validation.conn_id(self.importprog_conn_id),
            "cluster_id": _validation.optional_text(self.cluster_id, "cluster_id"),
            "states": _validation.ended_states(self.states),
            "poke_interval": _validation.interval(self.poke_interval, "poke_interval"),
        }

    @property
    def _store(self) -> Any:
        return getattr(self, "asset_state_store", None)

    async def _recall(self, place: list[Any]) -> EndedJobs:
        ended = EndedJobs(place, self._store, self.log)
        if self._store is not None:
            await ended.recall()
        return ended


def _cause(error: Exception) -> str:
    if isinstance(error, ImportApiUnauthorized):
        return f"{error} Check the login and the password of the connection, and the role of its user."
    # The words of another error may hold a part of the connection.
    known = isinstance(error, (ImportProgressException, AirflowRuntimeError))
    return str(error) if known else f"{type(error).__name__}."
