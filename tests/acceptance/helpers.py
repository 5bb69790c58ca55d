"""What the acceptance tests add to the black box: a task over its tries, what was logged, a server that shows more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_importprog.operators.import_job import AbortImportJobOperator, CreateImportJobOperator
from tests.blackbox.driver import FakeTaskInstance, fire
from tests.blackbox.imports import ImportServer
from tests.blackbox.server import Answer, Asked

V2_PROGRESS = "/v2/vectordb/jobs/import/get_progress"
REFRESH = "/v2/vectordb/collections/refresh_load"
HTML = b"<html>Bad Gateway</html>"
LOG_LEVELS = ("warning", "info", "error", "debug")


def says(code: Any, message: str, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return Answer({"code": code, "message": message}, status, headers or {})


#: What a server answers that gave up waiting, and may go on.
GAVE_UP = {
    "408": says(10001, "request timeout", 408),
    "10001": says(10001, "context deadline exceeded"),
    "10000": says(10000, "context canceled"),
    "2": says(2, "service unavailable: context deadline exceeded"),
    "65535": says(65535, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"),
}


class Told:
    """What was logged: Airflow 3's operators write to the standard output, and all else to logging."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        self._caplog, self._capfd = caplog, capfd
        self._out = ""

    @property
    def text(self) -> str:
        captured = self._capfd.readouterr()
        self._out += captured.out + captured.err
        return self._out + self._caplog.text

    @property
    def warnings(self) -> list[str]:
        """The warnings, each line once."""
        lines = [line for line in self.text.splitlines() if "warning" in line.lower()[:120]]
        return list(dict.fromkeys(lines))


class Imports(ImportServer):
    """Shows the times that a job has, keeps databases apart, and can carry out a request and answer something else."""

    @staticmethod
    def _database(asked: Asked) -> str:
        return asked.json.get("dbName") or asked.header("DB-Name") or "default"

    def _create(self, asked: Asked) -> Answer:
        before = set(self.jobs)
        answer = super()._create(asked)
        for job_id in set(self.jobs) - before:
            self.jobs[job_id]["db"] = self._database(asked)
        return answer

    def _describe(self, asked: Asked) -> Answer:
        answer = super()._describe(asked)
        if "data" in answer.body:
            job = self.jobs[asked.json["jobId"]]
            answer.body["data"].update({key: job[key] for key in ("createTime", "completeTime") if key in job})
        return answer

    def _list(self, asked: Asked) -> Answer:
        answer = super()._list(asked)
        shown = []
        for record in answer.body["data"]["records"]:
            job = self.jobs[record["jobId"]]
            if job.get("db", self._database(asked)) == self._database(asked):
                shown.append({**record, **({"createTime": job["createTime"]} if "createTime" in job else {})})
        answer.body["data"]["records"] = shown
        return answer

    def done_but(self, path: str, answer: Answer) -> None:
        """Carry out one request to a path, and give this answer in place of the true one."""
        handler = self.handler(path)

        def lose(asked: Asked) -> Answer:
            handler(asked)
            return answer

        self.server.on(path, lose, handler)

    def not_done(self, path: str, *answers: Answer) -> None:
        """Answer so, and do nothing; then serve."""
        self.server.on(path, *answers, self.handler(path))

    def handler(self, path: str) -> Callable[[Asked], Answer]:
        handler: Callable[[Asked], Answer] = getattr(self, f"_{path.rpartition('/')[2]}")
        return handler


class Task:
    """One task instance over its tries, each in a new object, as Airflow makes one."""

    def __init__(self, operator: Any = CreateImportJobOperator, store: Any = None, deferrable: bool = False) -> None:
        self.operator, self.store, self.deferrable = operator, store, deferrable
        self.try_number = 0
        began = datetime.now(timezone.utc)
        self.run = SimpleNamespace(start_date=began, run_after=began, clear_number=0)
        self.ti = FakeTaskInstance()

    def make(self, **kwargs: Any) -> Any:
        if self.operator is CreateImportJobOperator:
            kwargs = {"collection_name": "books", "files": ["a.parquet", "b/c.parquet"], **kwargs}
            if "object_urls" in kwargs:
                del kwargs["files"]
        if self.operator is not AbortImportJobOperator:
            waiting = {"deferrable": self.deferrable, "poke_interval": 0.02, "timeout": 5}
            kwargs = {**waiting, "unknown_job_grace": 0, "outage_tolerance": 0, **kwargs}
        return self.operator(**{"task_id": "create", **kwargs})

    def context(self) -> dict[str, Any]:
        self.try_number += 1
        self.ti = FakeTaskInstance()
        self.ti.task_id, self.ti.try_number = "create", self.try_number
        context = {"ti": self.ti, "task_instance": self.ti, "dag_run": self.run}
        return context if self.store is None else {**context, "task_state_store": self.store}

    def __call__(self, **kwargs: Any) -> Any:
        context = self.context()
        step: Callable[[], Any] = lambda: self.make(**kwargs).execute(context)  # noqa: E731
        while True:
            try:
                return step()
            except TaskDeferred as deferred:
                how = {**(deferred.kwargs or {}), "event": fire(deferred.trigger)}
                resumed, name = self.make(**kwargs), deferred.method_name
                step = lambda o=resumed, n=name, k=how: o.resume_execution(n, k, context)  # noqa: E731
