"""A server without a network, clocks that a test moves, and a log that is a list."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Generator
from typing import Any, TypeVar

from airflow_provider_importprog.api import ImportApi, Request, Response
from airflow_provider_importprog.api import client as calls

T = TypeVar("T")


def raw(body: bytes, status: int = 200, **headers: str) -> Response:
    """Any response; an underscore in a header's name stands for a hyphen."""
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def good(data: Any, code: int = 0) -> Response:
    """A good answer of the import API."""
    return raw(json.dumps({"code": code, "data": data}).encode())


def said(code: int, message: str, status: int = 200, **headers: str) -> Response:
    """An error of the import API."""
    return raw(json.dumps({"code": code, "message": message}).encode(), status, **headers)


#: What Milvus answers to a path that it does not serve.
NOT_SERVED = raw(b"404 page not found", 404)


class Api(ImportApi):
    """Begins each call."""

    def progress(self, job_id: str, cluster_id: str | None = None, **more: Any) -> Any:
        return calls.Progress(job_id, cluster_id=cluster_id, **more).steps(self)

    def list_jobs(self, collection_name: str | None = None, cluster_id: str | None = None) -> Any:
        return calls.ListJobs(collection_name, cluster_id=cluster_id).steps(self)

    def create(self, new: Any) -> Any:
        return calls.Create(new).steps(self)

    def commit(self, job_id: str) -> Any:
        return calls.Commit(job_id).steps(self)

    def abort(self, job_id: str) -> Any:
        return calls.Abort(job_id).steps(self)

    def refresh_load(self, collection_name: str) -> Any:
        return calls.RefreshLoad(collection_name).steps(self)

    def probe(self) -> Any:
        return calls.ProbeDialects().steps(self)


class Server:
    """Answers calls in the order of its script, and keeps what it was asked."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.script = list(answers)
        self.asked: list[Request] = []

    def serve(self, call: Generator[Request, Response, T]) -> T:
        """Carry a call through, as a hook does."""
        try:
            request = next(call)
            while True:
                self.asked.append(request)
                assert self.script, f"asked once too often: {request}"
                answer = self.script.pop(0)
                request = call.throw(answer) if isinstance(answer, Exception) else call.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    @property
    def paths(self) -> list[str]:
        return [request.target.partition("?")[0] for request in self.asked]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.body) if request.body else None for request in self.asked]


class Clock:
    """Seconds since the epoch, passing only when told to."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeTime(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while all sleep, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                events = super().select(0)
                loop.now += 0 if events else timeout or 0
                return events

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


class Log:
    """Keeps what a logger would have written."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, message: str, /, *args: Any) -> None:
        self._keep("info", message, args)

    def warning(self, message: str, /, *args: Any) -> None:
        self._keep("warning", message, args)

    def error(self, message: str, /, *args: Any) -> None:
        self._keep("error", message, args)

    def _keep(self, level: str, message: str, args: tuple[Any, ...]) -> None:
        # As logging does: without arguments a message is not a format.
        self.lines.append((level, message % args if args else message))

    def at(self, level: str) -> list[str]:
        return [line for of_line, line in self.lines if of_line == level]

    @property
    def text(self) -> list[str]:
        return [line for _, line in self.lines]
