"""Plays the import API and a plain endpoint, and keeps what it was asked.

It is a process of its own, and a protocol of its own: of two cores it must leave one to those that it measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

_LATENCY = 0.02  # seconds from a request to its answer
_TICK = 0.01  # seconds
_FIRST_ID = 448_700_000_000_000_000
_ROWS = 100_000  # of a file
_BYTES = 19_599_887  # of a file
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_V2 = "/v2/vectordb/jobs/import/"
_STATUS = {200: "OK", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}


@dataclass(frozen=True)
class Plan:
    """The jobs that there are. Times are in seconds since the epoch.

    :param first_end: when the first job ends; the others follow evenly until `last_end`.
    :param files: of each job.
    :param listed: whether the list of all jobs may be asked for.
    :param big_files: of the last job, if it differs.
    :param big_fails: whether the last job fails, and each of its files.
    """

    jobs: int
    began: float
    first_end: float
    last_end: float
    files: int = 10
    listed: bool = True
    big_files: int = 0
    big_fails: bool = False


@dataclass
class Job:
    """One import job. Times are in seconds since the epoch.

    :param ending: ``completed``, ``failed``, or ``partly``: completed without its last file.
    :param known_from, known_until: when the server knows it.
    """

    job_id: str
    began: float
    end: float
    files: int = 10
    ending: str = "completed"
    known_from: float = 0.0
    known_until: float = float("inf")

    def known(self, now: float) -> bool:
        return self.known_from <= now < self.known_until

    def state(self, now: float) -> str:
        if now < self.end:
            return "Importing"
        return "Failed" if self.ending == "failed" else "Completed"

    def record(self, now: float) -> dict[str, Any]:
        """Return what the list shows."""
        done = _share(now, self.began, self.end)
        state = self.state(now)
        record = {
            "jobId": self.job_id,
            "collectionName": "medium_articles",
            "state": state,
            "progress": int(done * 100) if state == "Completed" else min(int(done * 100), 99),
            "importedRows": int(done * _ROWS * self.files),
            "totalRows": _ROWS * self.files,
            "fileSize": _BYTES * self.files,
            "completeTime": _moment(self.end) if state == "Completed" else "",
        }
        return record if state != "Failed" else {**record, "reason": f"{self.files} files failed"}

    def details(self, now: float) -> dict[str, Any]:
        """Return the record with its files, of which one is finished after the other."""
        done = _share(now, self.began, self.end) * self.files
        each = (self.end - self.began) / self.files
        files = []
        for index in range(self.files):
            share = min(max(done - index, 0.0), 1.0)
            fails = self.ending == "failed" or (self.ending == "partly" and index == self.files - 1)
            file = {
                "fileName": f"[import/2026/{self.job_id}/{index}.parquet]",
                "fileSize": _BYTES,
                "state": "Importing" if share < 1 else "Failed" if fails else "Completed",
                "progress": int(share * 100),
                "importedRows": int(share * _ROWS),
                "totalRows": _ROWS,
                "completeTime": _moment(self.began + each * (index + 1)) if share == 1 else "",
            }
            if file["state"] == "Failed":
                file["reason"] = f"field 'vector' of row {index} has dimension 7, expected 768"
            files.append(file)
        return {**self.record(now), "details": files}


class _Service:
    """The jobs of the current plan, and what was asked since it came."""

    def __init__(self) -> None:
        self.follow(Plan(0, 0.0, 0.0, 0.0))

    def follow(self, plan: Plan) -> list[float]:
        """Begin anew, and return when each job ends."""
        step = (plan.last_end - plan.first_end) / max(plan.jobs, 1)
        ends = [plan.first_end + step * (index + 0.5) for index in range(plan.jobs)]
        # Gates ask in the order of their jobs, which must not be that in which these end.
        random.Random(4).shuffle(ends)
        self.plan = plan
        jobs = [Job(id_, plan.began, end, plan.files) for id_, end in zip(ids(plan.jobs), ends, strict=True)]
        if plan.big_files:
            jobs[-1].files, jobs[-1].ending = plan.big_files, "failed" if plan.big_fails else "completed"
        self.know(jobs)
        return ends

    def know(self, jobs: Sequence[Job], outage: tuple[float, float] = (0.0, 0.0)) -> None:
        """Begin anew with these jobs.

        :param outage: from when until when the server hangs up, and in the second half answers 503.
        """
        self.jobs = {job.job_id: job for job in jobs}
        self.outage = outage
        self.arrivals: list[tuple[float, str, str]] = []
        self.seen: set[_Connection] = set()
        self.connected: set[_Connection] = set()
        self.most_connected = 0
        self.stalls: list[tuple[float, float]] = []  # when one had ended, and its seconds

    def arrived(self, connection: _Connection, endpoint: str, job_id: str) -> None:
        self.arrivals.append((time.time(), endpoint, job_id))
        if connection not in self.seen:
            self.seen.add(connection)
            self.connected.add(connection)
            self.most_connected = max(self.most_connected, len(self.connected))

    def answer(self, endpoint: str, job_id: str) -> tuple[int, Any] | None:
        """Return a status and a body, or None to hang up."""
        now = time.time()
        down, up = self.outage
        if down <= now < up:
            return None if now < (down + up) / 2 else (503, "service unavailable")
        if endpoint == "list":
            if not self.plan.listed:
                return 403, {"code": 1401, "message": "permission deny"}
            records = {"records": [job.record(now) for job in self.jobs.values() if job.known(now)]}
            return 200, {"code": 0, "data": records}
        job = self.jobs.get(job_id)
        if job is not None and not job.known(now):
            job = None
        if endpoint == "describe" and job is None:
            return 200, {"code": 1100, "message": f"import job does not exist, jobID={job_id}"}
        if endpoint == "" or job is None:
            return 404, "404 page not found"
        if endpoint == "describe":
            return 200, {"code": 0, "data": job.details(now)}
        return (404 if now < job.end else 200), job.details(now)

    def statistics(self) -> dict[str, Any]:
        times = [at for at, _, _ in self.arrivals]
        asked: defaultdict[str, list[float]] = defaultdict(list)
        for at, _, job_id in self.arrivals:
            asked[job_id].append(at)
        asked.pop("", None)
        now = time.time()
        waits = [
            later - sooner
            for job in self.jobs.values()
            for sooner, later in pairwise([job.began, *asked.get(job.job_id, ()), *([now] if now < job.end else [])])
        ]
        return {
            "requests": Counter(endpoint or "other" for _, endpoint, _ in self.arrivals),
            "connections": len(self.seen),
            "most_connections": self.most_connected,
            "busiest_second_unstalled": _busiest_second(times, self.stalls),
            "longest_wait": max(waits, default=0.0),
        }

    async def tick(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_TICK)
            late = time.monotonic() - began - _TICK
            if late > _TICK:
                self.stalls.append((time.time(), late))


class _Connection(asyncio.Protocol):
    """As much of HTTP/1.1 as clients need that keep a connection alive and send one request at a time."""

    def __init__(self, service: _Service) -> None:
        self._service = service
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.connected.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, rest = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        expected = int(length[1]) if length else 0
        if ended and len(rest) >= expected:
            self._received = rest[expected:]
            self._asked(head.split(b" ", 2)[1].decode(), rest[:expected])

    def _asked(self, target: str, body: bytes) -> None:
        service = self._service
        if target == "/control/plan":
            self._send(200, service.follow(Plan(**json.loads(body))))
        elif target == "/control/jobs":
            jobs, outage = json.loads(body)
            self._send(200, service.know([Job(**job) for job in jobs], outage))
        elif target == "/control/statistics":
            self._send(200, service.statistics())
        else:
            endpoint, job_id = _route(target, body)
            service.arrived(self, endpoint, job_id)
            asyncio.get_running_loop().call_later(_LATENCY, lambda: self._answer(endpoint, job_id))

    def _answer(self, endpoint: str, job_id: str) -> None:
        answer = self._service.answer(endpoint, job_id)
        if answer is None:
            self._transport.abort()
        else:
            self._send(*answer)

    def _send(self, status: int, content: Any) -> None:
        kind = "text/plain" if isinstance(content, str) else "application/json"
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        head = f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def _route(target: str, body: bytes) -> tuple[str, str]:
    """Return the endpoint that is meant, empty where there is none, and the job."""
    if target == f"{_V2}list":
        return "list", ""
    if target == f"{_V2}describe":
        return "describe", str(json.loads(body)["jobId"])
    folder, _, job_id = target.rpartition("/")
    return "ready" if folder == "/ready" else "", job_id


def _share(now: float, began: float, end: float) -> float:
    return min(max((now - began) / (end - began), 0.0), 1.0) if end > began else 1.0


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _busiest_second(times: Sequence[float], stalls: Sequence[tuple[float, float]]) -> int:
    """Return the most arrivals that any window of one second holds.

    :param stalls: when this server had not run, and for how long: it then finds at once what came meanwhile, so a
        window is shortened by the longest one around it.
    """
    most = 0
    for first, at in enumerate(times):
        around = stalls[bisect_left(stalls, (at - 1, 0.0)) : bisect_left(stalls, (at + 1, 0.0))]
        window = 1 - max((seconds for _, seconds in around), default=0.0)
        most = max(most, bisect_left(times, at + window) - first)
    return most


async def _serve() -> None:
    service = _Service()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(service), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)  # whoever started this reads it
    await service.tick()


def ids(jobs: int) -> list[str]:
    """Return the ids of a plan's jobs."""
    return [str(_FIRST_ID + index) for index in range(jobs)]


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Run a server, and lend its URL."""
    process = subprocess.Popen([sys.executable, Path(__file__)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


def follow(url: str, plan: Plan) -> list[float]:
    """Have the server begin anew with a plan. Return when each job ends, in seconds since the epoch."""
    ends: list[float] = _control(url, "plan", json.dumps(asdict(plan)).encode())
    return ends


def know(url: str, jobs: Sequence[Job], outage: tuple[float, float]) -> None:
    """Have the server begin anew with these jobs, and an outage from one moment to another."""
    _control(url, "jobs", json.dumps([[asdict(job) for job in jobs], outage]).encode())


def statistics(url: str) -> dict[str, Any]:
    """Return what the server was asked since its plan came."""
    found: dict[str, Any] = _control(url, "statistics")
    return found


def _control(url: str, what: str, body: bytes | None = None) -> Any:
    # Not through a proxy that the environment may name.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/control/{what}", data=body, timeout=60) as response:
        return json.load(response)


if __name__ == "__main__":
    asyncio.run(_serve())
