"""A server whose import jobs go on and end with time, and whose list of them can be trusted or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.blackbox.server import V2_DESCRIBE, V2_LIST, Answer, Asked, ScriptedServer, unknown_job, v2_file, v2_job

#: What a job ends as, and the verdict of a gate on it.
ENDINGS = {
    "Completed": "open",
    "Failed": "job_failed",
    "files": "files_failed",
    "forgotten": "job_unknown",
}
GATES = 24
FIRST_END, LAST_END = 0.5, 1.5  # seconds


class World:
    """Jobs that end one after another, in each of the ways in turn.

    :param listing: turns a good list of records into what the server answers.
    """

    def __init__(self, server: ScriptedServer, listing: Callable[[Asked, list[dict[str, Any]]], Answer]) -> None:
        self.job_ids = [f"job-{number}" for number in range(GATES)]
        self._began = time.monotonic()
        self._listing = listing
        server.v2(self._describe)
        server.on(V2_LIST, self._list)

    @property
    def verdicts(self) -> dict[str, str]:
        return {job_id: ENDINGS[self._ending(job_id)] for job_id in self.job_ids}

    def _ending(self, job_id: str) -> str:
        return list(ENDINGS)[self.job_ids.index(job_id) % len(ENDINGS)]

    def _state(self, job_id: str) -> tuple[str, int]:
        """Return state and percentage."""
        end = FIRST_END + (LAST_END - FIRST_END) * self.job_ids.index(job_id) / (GATES - 1)
        share = (time.monotonic() - self._began) / end
        return (self._ending(job_id), 100) if share >= 1 else ("Importing", int(99 * share))

    def _describe(self, asked: Asked) -> Answer:
        job_id = asked.json["jobId"]
        state, progress = self._state(job_id)
        if state == "forgotten":
            return unknown_job()
        files = [v2_file(state="Failed", reason="no such file")] if state == "files" else None
        return v2_job("Completed" if state == "files" else state, progress, files, jobId=job_id)

    def _list(self, asked: Asked) -> Answer:
        records = []
        for job_id in self.job_ids:
            state, progress = self._state(job_id)
            if state != "forgotten":
                shown = "Completed" if state == "files" else state
                records.append({"jobId": job_id, "collectionName": "books", "state": shown, "progress": progress})
        return self._listing(asked, records)


def good(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    return Answer({"code": 0, "data": {"records": records}})


def refused(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    return Answer({"code": 65535, "message": "list is out of order"})


def not_permitted(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    return Answer({"code": 1401, "message": "role has no privilege to list"}, 403)


def hung_up(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    return Answer(how="close")


def nonsense(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    return Answer({"code": 0, "data": {"records": [{"state": 7}]}})


def empty(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    return good(asked, [])


def half(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    return good(asked, records[::2])


def ahead(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    return good(asked, [{**record, "state": "Completed", "progress": 100} for record in records])


def without_progress(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    """Show what Zilliz Cloud shows: https://docs.zilliz.com/reference/restful/list-import-jobs-v2."""
    states = {"Importing": "InProgress"}
    return good(
        asked,
        [
            {"jobId": one["jobId"], "collectionName": "books", "state": states.get(one["state"], one["state"])}
            for one in records
        ],
    )


def crowded(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    """Show very many jobs of others."""
    others = [{"jobId": f"other-{n}", "state": "Completed", "progress": 100} for n in range(100 * GATES)]
    return good(asked, others + records)


def paged(asked: Asked, records: list[dict[str, Any]]) -> Answer:
    """Answer pages as Zilliz Cloud does, ours on the third."""
    every = [{"jobId": f"other-{n}", "state": "Completed", "progress": 100} for n in range(200)] + records
    size, page = asked.json["pageSize"], asked.json["currentPage"]
    shown = every[(page - 1) * size : page * size]
    return Answer({"code": 0, "data": {"records": shown, "count": len(every), "pageSize": size, "currentPage": page}})


class Behind:
    """Shows for ever what the first list showed."""

    def __init__(self) -> None:
        self._first: list[dict[str, Any]] | None = None

    def __call__(self, asked: Asked, records: list[dict[str, Any]]) -> Answer:
        self._first = self._first or records
        return good(asked, self._first)


def describes(server: ScriptedServer) -> int:
    return len(server.to(V2_DESCRIBE))


def run(*triggers: Any, then: Callable[[Sequence[asyncio.Task[Any]]], Any] | None = None) -> list[Any]:
    """Run triggers in one event loop to their events; None for one that was cancelled.

    :param then: a coroutine function that is called with their tasks when they have begun.
    """

    async def first(trigger: Any) -> Any:
        async for event in trigger.run():
            return event.payload
        raise AssertionError("a trigger ended without an event")

    async def everything() -> list[Any]:
        tasks = [asyncio.create_task(first(trigger)) for trigger in triggers]
        if then is not None:
            await then(tasks)
        _, going_on = await asyncio.wait(tasks, timeout=30)
        assert not going_on, f"{len(going_on)} triggers never fired"
        return [None if task.cancelled() else task.result() for task in tasks]

    return asyncio.run(everything())
