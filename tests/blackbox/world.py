"""A server whose import jobs go on and end as they are asked for, and whose list of them can be trusted or not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tests.blackbox.server import V2_LIST, Answer, Asked, ScriptedServer, unknown_job, v2_file, v2_job

Records = list[dict[str, Any]]
Listing = Callable[[Asked, Records], Answer]
#: What a job ends as, and the verdict of a gate on it.
ENDINGS = {"Completed": "open", "Failed": "job_failed", "files": "files_failed", "forgotten": "job_unknown"}
GATES = 24


class World:
    """Jobs that end one after another, in each of the ways in turn: the last one after 15 answers about it.

    :param listing: turns a good list of records into what the server answers.
    """

    def __init__(self, server: ScriptedServer, listing: Listing) -> None:
        self.job_ids = [f"job-{number}" for number in range(GATES)]
        self.verdicts = dict(zip(self.job_ids, list(ENDINGS.values()) * GATES, strict=False))
        self.answers: Counter[str] = Counter()
        self._endings = dict(zip(self.job_ids, list(ENDINGS) * GATES, strict=False))
        self._listing = listing
        server.v2(self.describe).on(V2_LIST, self._list)

    def _state(self, job_id: str) -> tuple[str, int]:
        """Return state and percentage, for one more answer."""
        self.answers[job_id] += 1
        share = self.answers[job_id] / (5 + 10 * self.job_ids.index(job_id) / (GATES - 1))
        return (self._endings[job_id], 100) if share >= 1 else ("Importing", int(99 * share))

    def describe(self, asked: Asked) -> Answer:
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
            shown = "Completed" if state == "files" else state
            records.append({"jobId": job_id, "collectionName": "books", "state": shown, "progress": progress})
        return self._listing(asked, [record for record in records if record["state"] != "forgotten"])


def good(asked: Asked, records: Records) -> Answer:
    return Answer({"code": 0, "data": {"records": records}})


def without_progress(asked: Asked, records: Records) -> Answer:
    """Show what Zilliz Cloud shows: https://docs.zilliz.com/reference/restful/list-import-jobs-v2."""
    states = {"Importing": "InProgress"}
    shown = [{"jobId": one["jobId"], "state": states.get(one["state"], one["state"])} for one in records]
    return good(asked, [{**one, "collectionName": "books"} for one in shown])


def others(count: int) -> Records:
    return [{"jobId": f"other-{n}", "state": "Completed", "progress": 100} for n in range(count)]


def paged(asked: Asked, records: Records) -> Answer:
    """Answer pages as Zilliz Cloud does, ours on the third."""
    every = others(200) + records
    size, page = asked.json["pageSize"], asked.json["currentPage"]
    shown = every[(page - 1) * size : page * size]
    return Answer({"code": 0, "data": {"records": shown, "count": len(every), "pageSize": size, "currentPage": page}})


def behind() -> Listing:
    """Show for ever what the first list showed."""
    first: Records = []
    return lambda asked, records: good(asked, first or first.extend(records) or first)


#: How a list may be, each made anew for a test.
LISTINGS: dict[str, Callable[[], Listing]] = {
    "good": lambda: good,
    "refused": lambda: lambda *_: Answer({"code": 65535, "message": "list is out of order"}),
    "not permitted": lambda: lambda *_: Answer({"code": 1401, "message": "role has no privilege to list"}, 403),
    "hung up": lambda: lambda *_: Answer(how="close"),
    "nonsense": lambda: lambda asked, _: good(asked, [{"state": 7}]),
    "empty": lambda: lambda asked, _: good(asked, []),
    "half": lambda: lambda asked, records: good(asked, records[::2]),
    "ahead": lambda: lambda asked, records: good(asked, [{**one, "state": "Completed"} for one in records]),
    "behind": behind,
    "without progress": lambda: without_progress,
    "crowded": lambda: lambda asked, records: good(asked, others(100 * GATES) + records),
    "paged": lambda: paged,
}


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
