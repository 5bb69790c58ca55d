"""A proxy between Airflow and the emulator that keeps a record, and steps in where a test told it to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests

#: The cluster whose gates may ask for a list of all jobs, and so share it. The others each ask for their own job,
#: which is when a rule steps in.
LISTED = "in01-listed"


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    path: str
    job_id: str
    authorized: str


class Wire(ThreadingHTTPServer):
    """Forwards every request to an emulator, in background threads while its ``with`` block runs.

    :param upstream: the emulator's URL.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.upstream = upstream
        self._lock = Lock()
        self._asked: list[Asked] = []
        self._rules: dict[str, tuple[int, Callable[[], Any]]] = {}

    def __enter__(self) -> Wire:
        Thread(target=self.serve_forever, args=(0.1,), name="wire", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def asked(self, job_id: str | None = None) -> list[Asked]:
        """Return the requests so far, for one job or all."""
        with self._lock:
            return [each for each in self._asked if job_id is None or each.job_id == job_id]

    def then(self, job_id: str, action: Callable[[], Any], after: int = 2) -> None:
        """Do something once, after so many requests for a job have come and before the next one is answered."""
        with self._lock:
            self._rules[job_id] = (after, action)

    def came(self, asked: Asked) -> None:
        """Keep a request, and step in."""
        with self._lock:
            before = sum(each.job_id == asked.job_id for each in self._asked)
            self._asked.append(asked)
            rule = self._rules.get(asked.job_id)
            act = self._rules.pop(asked.job_id)[1] if rule and before >= rule[0] else None
        if act:
            act()

    def handle_error(self, *_: object) -> None:
        """Clients that are killed hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: Wire
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        values: dict[str, Any] = {**dict(parse_qsl(url.query)), **(json.loads(body) if body else {})}
        self.server.came(Asked(url.path, str(values.get("jobId") or ""), self.headers.get("Authorization", "")))
        if url.path.endswith("/list") and not values.get("collectionName") and values.get("clusterId") != LISTED:
            self._answer(403, b'{"code": 1401, "message": "no privilege to list"}', "application/json")
            return
        passed = ("authorization", "content-type", "db-name", "accept", "idempotency-key")
        headers = {name: value for name, value in self.headers.items() if name.lower() in passed}
        try:
            got = requests.request(
                self.command, self.server.upstream + self.path, data=body, headers=headers, timeout=60
            )
            self._answer(got.status_code, got.content, got.headers.get("Content-Type", "text/plain"))
        except requests.RequestException:
            self._answer(502, b"<html>Bad Gateway</html>", "text/html")

    do_GET = do_POST

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
