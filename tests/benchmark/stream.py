"""A prototype on the shared streams of Airflow 3.3: one poll of the list for all gates of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider_importprog.api.model import ImportState
from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook


class StreamTrigger(BaseEventTrigger):
    """Looks into the list that the stream polls, and asks for its own job when that has ended.

    It stands here to be measured beside what the provider has; where the list fails, so do its gates.
    """

    def __init__(self, job_id: str, importprog_conn_id: str, poke_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own is untyped
        self.job_id = job_id
        self.importprog_conn_id = importprog_conn_id
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = ("job_id", "importprog_conn_id", "poke_interval")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in arguments}

    def shared_stream_key(self) -> tuple[str, float]:
        return self.importprog_conn_id, self.poke_interval

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        async with ImportProgressAsyncHook(kwargs["importprog_conn_id"]) as hook:
            while True:
                await asyncio.sleep(kwargs["poke_interval"])
                yield {job.job_id: job for job in await hook.list_import_jobs()}

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        shown = None
        async with ImportProgressAsyncHook(self.importprog_conn_id) as hook:
            async for jobs in shared_stream:
                job = jobs[self.job_id]
                if job.progress != shown:
                    shown = job.progress
                    self.log.info("Import job %s: %s, %.0f %%", self.job_id, job.state, job.progress)
                if job.state in (ImportState.COMPLETED, ImportState.FAILED):
                    job = await hook.get_import_progress(self.job_id)
                    verdict = "open" if job.state is ImportState.COMPLETED else "job_failed"
                    yield TriggerEvent({"job_id": self.job_id, "verdict": verdict})  # type: ignore[no-untyped-call]
                    return

    async def run(self) -> AsyncIterator[TriggerEvent]:
        raise NotImplementedError("A shared stream carries it.")
        yield
