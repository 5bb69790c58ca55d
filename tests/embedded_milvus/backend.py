"""Import jobs that a real Milvus does, through its gRPC bulk insert."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from airflow_provider_importprog.emulator import backend as api
from airflow_provider_importprog.emulator.backend import (
    ApiError,
    FileStatus,
    ImportRequest,
    JobStatus,
    UnknownJobError,
)
from tests.embedded_milvus.server import MilvusServer

POLL_SECONDS = 0.2
RPC_TIMEOUT = 10.0
"""Seconds for one call to Milvus, pymilvus's own repeats included."""

TWO_PHASE = "Milvus 2.3.5 has no two-phase import: use the simulated backend"

# pymilvus's BulkInsertState. Rows of a persisted task can be counted already but its segments are still held
# back from queries; they are released as it completes, about two seconds later.
STATES = {
    0: api.PENDING,
    1: api.FAILED,
    2: api.IN_PROGRESS,
    5: api.IN_PROGRESS,  # persisted
    6: api.COMPLETED,
    7: api.FAILED,  # and cleaned
}


@dataclass
class Task:
    """One Milvus task: a row-based file, or the column files of a NumPy set."""

    task_id: int
    file: FileStatus

    @property
    def ended(self) -> bool:
        return self.file.state in (api.COMPLETED, api.FAILED)


@dataclass
class Job:
    """An import job of ours: Milvus 2.3.5 knows only tasks."""

    job_id: str
    collection_name: str
    tasks: list[Task]
    ended: float | None = None
    """The monotonic clock's reading when its end was first seen, seconds."""

    def status(self) -> JobStatus:
        job = self._status()
        if job.state not in (api.COMPLETED, api.FAILED):
            return job
        self.ended = self.ended or time.monotonic()
        return replace(job, ended_for=time.monotonic() - self.ended)

    def _status(self) -> JobStatus:
        files = tuple(task.file for task in self.tasks)
        states = {file.state for file in files}
        progress = sum(100 if task.ended else task.file.progress for task in self.tasks) // len(files)
        job = JobStatus(self.job_id, self.collection_name, api.IMPORTING, min(progress, 99), files)
        if states == {api.PENDING}:
            return replace(job, state=api.PENDING)
        if states == {api.COMPLETED}:
            times = [file.complete_time for file in files if file.complete_time is not None]
            return replace(job, state=api.COMPLETED, progress=100, complete_time=max(times))
        if states == {api.COMPLETED, api.FAILED} or states == {api.FAILED}:
            # Not before the last task has ended: Milvus goes on with the others, and their rows will be there.
            reason = next(file.reason for file in files if file.state == api.FAILED)
            return replace(job, state=api.FAILED, progress=0, reason=reason)
        return job


class MilvusBackend:
    """Starts Milvus and keeps the jobs it does.

    File names are absolute paths, paths relative to the working directory, or ``file://`` URLs.
    """

    name = "milvus"

    def __init__(self) -> None:
        self.server = MilvusServer()
        self._jobs: dict[str, Job] = {}
        self._ids = api.job_ids()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._client: Any = None
        self._version = ""

    def start(self) -> None:
        self.restart()
        self._version = self._client.get_server_version(timeout=60)
        self._watcher = threading.Thread(target=self._watch, name="importprog-watcher", daemon=True)
        self._watcher.start()

    def restart(self) -> None:
        """Start Milvus, again where it was killed, with the jobs that it has begun."""
        # pymilvus takes over a second to import, which Milvus needs to start anyway. By name, because it brings no
        # types. Its `utility` offers the same calls as this handler with a warning that they will go in 3.1.
        with ThreadPoolExecutor(1) as pool:
            handler = pool.submit(importlib.import_module, "pymilvus.client.grpc_handler")
            self.server.start()
        # Whatever http_proxy says, this is loopback.
        self._client = handler.result().GrpcHandler(uri=self.server.uri, grpc_options={"grpc.enable_http_proxy": 0})

    def stop(self) -> None:
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            self._client.close()
        self.server.stop()

    def create(self, request: ImportRequest) -> str:
        if not request.auto_commit:
            raise ApiError(api.PARAMETER_INVALID, TWO_PHASE)
        self._check_alive()
        self._check_partition(request)
        # Milvus takes one row-based file per task.
        entries = [
            part
            for entry in request.entries
            for part in ([entry] if all(path.endswith(".npy") for path in entry) else [(path,) for path in entry])
        ]
        job = Job(next(self._ids), request.collection_name, [self._begin(request, entry) for entry in entries])
        with self._lock:
            self._jobs[job.job_id] = job
        return job.job_id

    def get(self, job_id: str) -> JobStatus:
        self._check_alive()
        with self._lock:
            return self._job(job_id).status()

    def list(self, collection_name: str = "") -> list[JobStatus]:
        self._check_alive()
        with self._lock:
            jobs = [job.status() for job in self._jobs.values()]
        return [job for job in jobs if collection_name in ("", job.collection_name)]

    def commit(self, job_id: str) -> None:
        raise ApiError(api.PARAMETER_INVALID, TWO_PHASE)

    def abort(self, job_id: str) -> None:
        raise ApiError(api.PARAMETER_INVALID, TWO_PHASE)

    def forget(self, job_id: str) -> None:
        with self._lock:
            del self._jobs[self._job(job_id).job_id]

    def describe(self) -> dict[str, str]:
        return {
            "milvusUri": self.server.uri,
            "milvusVersion": self._version,
            "dataDir": str(self.server.directory),
        }

    def _job(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise UnknownJobError(job_id) from None

    def _check_alive(self) -> None:
        status = self.server.exit_status
        if status is not None:
            raise ApiError(api.UNEXPECTED, f"Milvus has ended with status {status}: start the emulator again")

    def check(self, database: str, collection: str = "") -> None:
        """Milvus itself would look for a missing collection for most of a minute."""
        with self._answering():
            if collection and not self._client.has_collection(collection, **self._where(database)):
                raise api.no_collection(database, collection)

    def refresh_load(self, database: str, collection: str) -> None:
        with self._answering():
            self._client.load_collection(collection, refresh=True, **self._where(database))

    def _check_partition(self, request: ImportRequest) -> None:
        partition, where = request.partition_name, self._where(request.db_name)
        with self._answering():
            if partition and not self._client.has_partition(request.collection_name, partition, **where):
                # Milvus's own code would be 200, which v1 takes for success.
                raise ApiError(api.PARAMETER_INVALID, f"partition not found[partition={partition}]")

    def _begin(self, request: ImportRequest, entry: tuple[str, ...]) -> Task:
        paths = [os.path.abspath(api.local_path(path)) for path in entry]
        file = FileStatus(entry, sum(map(size_of, paths)))
        try:
            with self._answering():
                task_id = self._client.do_bulk_insert(
                    request.collection_name, request.partition_name, paths, **self._where(request.db_name)
                )
        except ApiError as problem:  # the files before this one have begun, so it is a file that failed
            return Task(0, replace(file, state=api.FAILED, reason=problem.message))
        return Task(task_id, file)

    def _where(self, database: str) -> dict[str, Any]:
        context = importlib.import_module("pymilvus.client.call_context").CallContext(db_name=database)
        return {"timeout": RPC_TIMEOUT, "context": context}

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Pass an error of Milvus's on as the API's own."""
        exceptions = importlib.import_module("pymilvus.exceptions")
        try:
            yield
        except exceptions.MilvusException as problem:
            raise ApiError(problem.code or api.UNEXPECTED, problem.message) from None

    def _watch(self) -> None:
        """Follow the tasks all the time, so that they end when they end and not when somebody asks."""
        while not self._stopping.wait(POLL_SECONDS):
            with self._lock:
                tasks = [task for job in self._jobs.values() for task in job.tasks if not task.ended]
            for task in tasks:
                with contextlib.suppress(ApiError), self._answering():
                    file = seen(task.file, self._client.get_bulk_insert_state(task.task_id, timeout=RPC_TIMEOUT))
                    with self._lock:
                        task.file = file


def seen(file: FileStatus, state: Any) -> FileStatus:
    """Return the file as Milvus's task (a `BulkInsertState`) shows it now."""
    name = STATES.get(state.state, api.IN_PROGRESS)
    if name == api.FAILED:
        return replace(file, state=name, progress=0, reason=state.failed_reason or "Milvus gave no reason")
    if name == api.COMPLETED:
        return replace(
            file,
            state=name,
            progress=100,
            imported_rows=state.row_count,
            total_rows=state.row_count,
            complete_time=datetime.now(timezone.utc),
        )
    # Milvus counts the rows of a file as it persists them, all at once.
    return replace(file, state=name, progress=state.progress, imported_rows=state.row_count, total_rows=state.row_count)


def size_of(path: str) -> int:
    """Bytes; 0 where there is no such file, which Milvus will say itself."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
