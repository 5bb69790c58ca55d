"""A scripted HTTP server on loopback that answers, and misbehaves, as told, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

V1_GET = "/v1/vector/collections/import/get"
V1_LIST = "/v1/vector/collections/import/list"
V1_CREATE = "/v1/vector/collections/import"
V2 = "/v2/vectordb/jobs/import"
V2_DESCRIBE = f"{V2}/describe"
V2_LIST = f"{V2}/list"
V2_CREATE = f"{V2}/create"
V2_COMMIT = f"{V2}/commit"
V2_ABORT = f"{V2}/abort"


@dataclass
class Asked:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Answer:
    """One answer. `body` is sent as JSON unless it is bytes.

    `how`: ``send``, ``hang``, ``close`` (no byte), ``cut`` (half the body), ``reset``, ``trickle`` (body byte by
    byte), ``trickle_head`` (from the first byte on), ``garbage`` (the body alone, no HTTP).
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    how: str = "send"
    delay: float = 0.0

    @property
    def parts(self) -> tuple[bytes, bytes]:
        """Head and body, as they are sent."""
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), body


Script = Answer | Callable[[Asked], Answer]
NOT_SERVED = Answer(b"404 page not found", 404, {"Content-Type": "text/plain"})


class ScriptedServer:
    """Serves until closed. The last answer of a path's script repeats; a path without one is not there."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self._scripts: dict[str, list[Script]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def on(self, path: str, *answers: Script) -> ScriptedServer:
        with self._lock:
            self._scripts[path] = list(answers)
        return self

    def v1(self, *answers: Script) -> ScriptedServer:
        return self.on(V1_GET, *answers)

    def v2(self, *answers: Script) -> ScriptedServer:
        return self.on(V2_DESCRIBE, *answers)

    def to(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def close(self) -> None:
        self._stop.set()
        # A thread that is about to accept would do so for the server that gets the number of a closed descriptor next.
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for one in self._open:
                one.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                number = self.connections
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client, number), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = client.makefile("rb")
        try:
            if stream.peek(1)[:1] == b"\x16":  # TLS, which is no HTTP
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            while (asked := self._read(stream, number)) is not None:
                with self._lock:
                    self.asked.append(asked)
                    script = self._scripts.get(asked.path, [NOT_SERVED])
                    step = script.pop(0) if len(script) > 1 else script[0]
                if not self._answer(client, step(asked) if callable(step) else step):
                    return
        except (OSError, ValueError):
            return
        finally:
            stream.close()
            client.close()
            with self._lock:
                self._open.discard(client)

    @staticmethod
    def _read(stream: Any, number: int) -> Asked | None:
        line = stream.readline().decode("latin-1").strip()
        if not line:
            return None
        method, target, _ = line.split(" ", 2)
        headers: list[tuple[str, str]] = []
        while header := stream.readline().decode("latin-1").rstrip("\r\n"):
            name, _, value = header.partition(":")
            headers.append((name, value.strip()))
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        return Asked(method, target, headers, stream.read(length), number)

    def _answer(self, client: socket.socket, answer: Answer) -> bool:
        """Send an answer; say whether the connection stays open."""
        self._stop.wait(answer.delay)
        head, body = answer.parts
        if answer.how == "hang":
            self._stop.wait(20)
        elif answer.how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif answer.how.startswith("trickle"):
            at_once, slow = (head, body) if answer.how == "trickle" else (b"", head + body)
            client.sendall(at_once)
            for byte in slow:
                client.sendall(bytes([byte]))
                if self._stop.wait(0.02):
                    return False
        else:
            cut = {"close": b"", "garbage": body, "cut": head + body[: len(body) // 2]}
            client.sendall(cut.get(answer.how, head + body))
        return answer.how in ("send", "trickle", "trickle_head")


def dead_url() -> str:
    """Return a URL on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


JOB = "job-1"
DONE_AT = "2024-05-18T03:00:22Z"


def v1_file(name: str = "a.parquet", done: bool = False, error: Any = None, **more: Any) -> dict[str, Any]:
    ended = {"readyPercentage": 100 if done else 0, "completeTime": DONE_AT if done else None, "errorMessage": error}
    return {"fileName": name, "fileSize": 10, **ended, **more}


def v1_job(done: bool = False, error: Any = None, files: list[Any] | None = None, **more: Any) -> Answer:
    details = [v1_file(done=done)] if files is None else files
    data = {"collectionName": "books", **v1_file(done=done, error=error), "jobId": JOB, "details": details, **more}
    return Answer({"code": 200, "data": data})


def v2_progress(state: str, progress: int) -> dict[str, Any]:
    """What a job and a file of it have in common."""
    done = state == "Completed"
    rows = {"importedRows": 5 if done else 2, "totalRows": 5, "fileSize": 10}
    return {"state": state, "progress": 100 if done else progress, "completeTime": DONE_AT if done else "", **rows}


def v2_file(name: str = "[a.parquet]", state: str = "Completed", **more: Any) -> dict[str, Any]:
    return {"fileName": name, **v2_progress(state, 40), **more}


def v2_job(state: str = "Importing", progress: int = 40, files: list[Any] | None = None, **more: Any) -> Answer:
    details = [v2_file(state="Completed" if state == "Completed" else "Importing")] if files is None else files
    data = {"jobId": JOB, "collectionName": "books", **v2_progress(state, progress), "details": details, **more}
    return Answer({"code": 0, "data": data})


def unknown_job(code: int = 2100, status: int = 200) -> Answer:
    return Answer({"code": code, "message": f"import job does not exist, jobID={JOB}"}, status)
