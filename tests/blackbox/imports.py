"""A server that keeps import jobs: scripted answers would not show how many there are in the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from tests.blackbox.server import (
    V1_CREATE,
    V1_GET,
    V1_LIST,
    V2_ABORT,
    V2_COMMIT,
    V2_CREATE,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    Asked,
    ScriptedServer,
    v1_file,
    v1_job,
    v2_file,
    v2_job,
)

OK = {"code": 0, "data": {}}
GONE = Answer({"code": 2100, "message": "import job does not exist"})


class ImportServer:
    """Answers the import API from the jobs it has.

    :param honours_key: whether it knows the header ``Idempotency-Key``.
    :param dialect: the one that it serves.
    """

    def __init__(self, server: ScriptedServer, honours_key: bool = True, dialect: str = "v2") -> None:
        self.server = server
        self.honours_key = honours_key
        self.said = False  # by the connection
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        #: The state in which a new job is.
        self.state = "Completed"
        #: Called with a create request after it was taken; returns what is answered in its place.
        self.lose: Callable[[str], Answer | None] = lambda job_id: None
        #: When a job ends that is added from now on.
        self.ends_at = datetime.now(timezone.utc)
        #: How a path is named in answers.
        self.rename: Callable[[str], str] = str
        if dialect == "v2":
            server.on(V2_CREATE, self._create).on(V2_DESCRIBE, self._describe).on(V2_LIST, self._list)
            server.on(V2_COMMIT, self._commit).on(V2_ABORT, self._abort)
        else:
            server.on(V1_CREATE, self._create).on(V1_GET, self._v1_get).on(V1_LIST, self._v1_list)

    def add(self, files: list[list[str]], state: str = "Completed", collection: str = "books", **more: Any) -> str:
        job_id = str(1000 + len(self.jobs))
        ends_at = self.ends_at.isoformat()
        self.jobs[job_id] = {"files": files, "state": state, "collection": collection, "ends_at": ends_at, **more}
        return job_id

    def done_but(self, path: str, answer: Answer) -> None:
        """Do what is asked of a path, and give this answer to the first request in place of the true one."""
        handler: Callable[[Asked], Answer] = getattr(self, f"_{path.rpartition('/')[2]}")
        self.server.on(path, lambda asked: (handler(asked), answer)[1], handler)

    def end_once_described(self) -> None:
        self.server.on(V2_DESCRIBE, self._describe, lambda asked: self.end() or self._describe(asked))

    def end(self, state: str = "Completed") -> None:
        """Let every job end."""
        for job in self.jobs.values():
            job["state"] = state

    @property
    def creates(self) -> list[Asked]:
        return [asked for asked in self.server.asked if asked.path in (V1_CREATE, V2_CREATE)]

    @property
    def keys_sent(self) -> list[str | None]:
        return [asked.header("Idempotency-Key") for asked in self.creates]

    def _create(self, asked: Asked) -> Answer:
        body = asked.json
        key = asked.header("Idempotency-Key")
        if self.honours_key and key in self.keys:
            job_id = self.keys[key]
        else:
            entries = body.get("files") or body.get("objectUrls") or body.get("dataPaths") or [[body.get("objectUrl")]]
            job_id = self.add(entries, self.state, body["collectionName"], database=body.get("dbName"))
            if key is not None:
                self.keys[key] = job_id
        return self.lose(job_id) or Answer({"code": 0, "data": {"jobId": job_id}})

    def _job(self, asked: Asked) -> tuple[str, dict[str, Any]] | None:
        job_id = asked.json["jobId"] if asked.body else asked.query.partition("jobId=")[2].partition("&")[0]
        return (job_id, self.jobs[job_id]) if job_id in self.jobs else None

    def _describe(self, asked: Asked) -> Answer:
        if (found := self._job(asked)) is None:
            return GONE
        job_id, job = found
        files = [v2_file(f"[{' '.join(map(self.rename, entry))}]", job["state"]) for entry in job["files"]]
        more = {"completeTime": job["ends_at"]} if job["state"] == "Completed" else {}
        more |= {name: job[name] for name in ("reason", "createTime") if name in job}
        hidden = job.get("hidden", 0)
        job["hidden"] = hidden - 1
        shown = [] if hidden > 0 else files
        return v2_job(job["state"], jobId=job_id, collectionName=job["collection"], files=shown, **more)

    def _list(self, asked: Asked) -> Answer:
        records = [
            {"jobId": job_id, "collectionName": job["collection"], "state": job["state"], "progress": 1}
            for job_id, job in self.jobs.items()
            if job.get("database") == asked.json.get("dbName")
        ]
        return Answer({"code": 0, "data": {"records": records}})

    def _commit(self, asked: Asked) -> Answer:
        return self._end(asked, "commit", "Completed")

    def _abort(self, asked: Asked) -> Answer:
        return self._end(asked, "abort", "Failed")

    def _end(self, asked: Asked, verb: str, state: str) -> Answer:
        if (found := self._job(asked)) is None:
            return GONE
        job_id, job = found
        if job["state"] != "Uncommitted":  # as an older server, which knows no "done already"
            return Answer({"code": 2100, "message": f"cannot {verb} import job {job_id} in state {job['state']}."})
        job["state"] = state
        return Answer(OK)

    def _v1_get(self, asked: Asked) -> Answer:
        if (found := self._job(asked)) is None:
            return GONE
        job_id, job = found
        done = job["state"] == "Completed"
        error = "bad" if job["state"] == "Failed" else None
        files = [v1_file(self.rename(path), done=done, error=error) for entry in job["files"] for path in entry]
        ended = {"completeTime": job["ends_at"]} if done else {}
        return v1_job(done=done, error=error, jobId=job_id, collectionName=job["collection"], files=files, **ended)

    def _v1_list(self, asked: Asked) -> Answer:
        states = {"Completed": "ImportCompleted", "Failed": "ImportFailed"}
        tasks = [
            {"jobId": job_id, "collectionName": job["collection"], "state": states.get(job["state"], "ImportRunning")}
            for job_id, job in self.jobs.items()
        ]
        return Answer({"code": 200, "data": {"tasks": tasks, "count": len(tasks)}})


class Store:
    """Airflow's task state store: what it keeps goes through JSON."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.written: list[Any] = []

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.kept[key]) if key in self.kept else default

    def set(self, key: str, value: Any) -> None:
        self.written.append(value)
        self.kept[key] = json.dumps(value)


class BrokenStore:
    """A task state store that is out of order."""

    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError("the store is down")

    def set(self, key: str, value: Any) -> None:
        raise RuntimeError("the store is down")
