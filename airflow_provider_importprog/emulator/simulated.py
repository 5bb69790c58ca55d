"""Import jobs that only pretend: they walk through the states over a time the caller sets."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase

from airflow_provider_importprog.emulator import backend as api
from airflow_provider_importprog.emulator.backend import ApiError, FileStatus, ImportRequest, JobStatus

# Shares of a job's duration: until when it is pending, and until when it only looks at the files.
PENDING_UNTIL = 0.1
PRE_IMPORTING_UNTIL = 0.3
COMMIT_SHARE = 0.1

ABORT_REASON = "import job was aborted by the user"
DEFAULT_FAIL_REASON = "the emulator was asked to fail this file"


@dataclass(frozen=True)
class PlannedFile:
    """What will become of one entry of a job. Times are seconds since the job was created."""

    paths: tuple[str, ...]
    size: int
    rows: int
    begin: float
    end: float
    fail_reason: str = ""

    def at(self, elapsed: float, created: datetime) -> FileStatus:
        done = share(elapsed - self.begin, self.end - self.begin)
        status = FileStatus(
            paths=self.paths,
            size=self.size,
            state=api.IMPORTING if elapsed >= self.begin else api.PENDING,
            progress=int(100 * done),
            imported_rows=int(self.rows * done),
            total_rows=self.rows,
        )
        if self.fail_reason and done == 1:
            return replace(status, state=api.FAILED, progress=0, imported_rows=0, reason=self.fail_reason)
        if done == 1:
            return replace(status, state=api.COMPLETED, complete_time=created + timedelta(seconds=self.end))
        return status


@dataclass
class Job:
    """A job is its plan and two moments: all else follows from the time that has passed."""

    job_id: str
    request: ImportRequest
    files: tuple[PlannedFile, ...]
    duration: float
    partial_success: bool
    created: datetime
    began: float
    """The clock's reading at creation, seconds."""
    committed_at: float | None = None
    """Seconds since creation."""
    aborted_at: float | None = None
    """Seconds since creation."""

    def ended_at(self, elapsed: float) -> float | None:
        """When the job ended, in seconds since its creation; None while it goes on."""
        if self.aborted_at is not None:
            return self.aborted_at
        failed = self._failing_file()
        if failed is not None:
            end = failed.end
        elif self.request.auto_commit:
            end = self.duration
        elif self.committed_at is not None:
            end = self.committed_at + COMMIT_SHARE * self.duration
        else:
            return None
        return end if elapsed >= end else None

    def status(self, elapsed: float) -> JobStatus:
        ended_at = self.ended_at(elapsed)
        now = elapsed if ended_at is None else min(elapsed, ended_at)
        files = tuple(file.at(now, self.created) for file in self.files)
        failed = self._failing_file()
        reason, complete_time = "", None
        progress = min(99, int(100 * share(now, self.duration)))
        if ended_at is not None:
            if self.aborted_at is not None:
                state, progress, reason = api.FAILED, 0, ABORT_REASON
                files = tuple(dropped(file) for file in files)
            elif failed is not None:
                state, progress, reason = api.FAILED, 0, failed.fail_reason
            else:
                state, progress = api.COMPLETED, 100
                complete_time = self.created + timedelta(seconds=ended_at)
        elif self.committed_at is not None:
            state = api.COMMITTING
        elif now < PENDING_UNTIL * self.duration:
            state = api.PENDING
        elif now < PRE_IMPORTING_UNTIL * self.duration:
            state = api.PRE_IMPORTING
        elif now < self.duration:
            state = api.IMPORTING
        else:
            state = api.UNCOMMITTED
        if state in (api.PENDING, api.PRE_IMPORTING):  # row counts are known once the files have been read
            files = tuple(replace(file, total_rows=0) for file in files)
        return JobStatus(self.job_id, self.request.collection_name, state, progress, files, complete_time, reason)

    def _failing_file(self) -> PlannedFile | None:
        """Find the first file to fail the whole job, if any will."""
        if self.partial_success:
            return None
        return next((file for file in self.files if file.fail_reason), None)


class SimulatedBackend:
    """Keeps simulated jobs.

    :param duration: seconds a job takes from creation to completion (or to `Uncommitted`).
    :param fail_files: file name pattern (as in `fnmatch`) to the reason such a file fails with.
    :param partial_success: a failing file leaves its job to complete, as on Zilliz Cloud; otherwise it fails
        the job, as in Milvus.
    :param retention: seconds after its end when a job's record is dropped; None keeps it.
    :param clock: seconds that only grow; tests set their own instead of sleeping.
    """

    name = "simulated"

    def __init__(
        self,
        duration: float = 10.0,
        fail_files: Mapping[str, str] | None = None,
        partial_success: bool = False,
        retention: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._duration = duration
        self._fail_files = dict(fail_files or {})
        self._partial_success = partial_success
        self._retention = retention
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._ids = api.job_ids()
        self._lock = threading.Lock()

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def create(self, request: ImportRequest) -> str:
        with self._lock:
            job_id = next(self._ids)
            self._jobs[job_id] = Job(
                job_id=job_id,
                request=request,
                files=self._plan(request),
                duration=self._duration,
                partial_success=self._partial_success,
                created=datetime.now(timezone.utc),
                began=self._clock(),
            )
            return job_id

    def get(self, job_id: str) -> JobStatus:
        with self._lock:
            return self._status(self._job(job_id))

    def list(self, collection_name: str = "") -> list[JobStatus]:
        with self._lock:
            self._drop_expired()
            jobs = [self._status(job) for job in self._jobs.values()]
        return [job for job in jobs if collection_name in ("", job.collection_name)]

    def commit(self, job_id: str) -> None:
        with self._lock:
            job = self._job(job_id)
            state = self._status(job).state
            if state == api.UNCOMMITTED:
                job.committed_at = self._elapsed(job)
            elif state not in (api.COMMITTING, api.COMPLETED):
                raise ApiError(
                    api.IMPORT_FAILED,
                    f"cannot commit import job {job_id} in state {state}: importing data failed",
                )

    def abort(self, job_id: str) -> None:
        with self._lock:
            job = self._job(job_id)
            state = self._status(job).state
            if state in (api.COMMITTING, api.COMPLETED):
                raise ApiError(
                    api.IMPORT_FAILED,
                    f"cannot abort import job {job_id} in state {state}: importing data failed",
                )
            if state != api.FAILED:
                job.aborted_at = self._elapsed(job)

    def forget(self, job_id: str) -> None:
        with self._lock:
            del self._jobs[self._job(job_id).job_id]

    def fail_file(self, pattern: str, reason: str) -> None:
        with self._lock:
            self._fail_files[pattern] = reason

    def describe(self) -> dict[str, str]:
        return {"duration": f"{self._duration:g} s"}

    def _elapsed(self, job: Job) -> float:
        return self._clock() - job.began

    def _status(self, job: Job) -> JobStatus:
        return job.status(self._elapsed(job))

    def _job(self, job_id: str) -> Job:
        self._drop_expired()
        try:
            return self._jobs[job_id]
        except KeyError:
            raise ApiError.unknown_job(job_id) from None

    def _drop_expired(self) -> None:
        if self._retention is None:
            return
        for job in list(self._jobs.values()):
            elapsed = self._elapsed(job)
            ended_at = job.ended_at(elapsed)
            if ended_at is not None and elapsed - ended_at >= self._retention:
                del self._jobs[job.job_id]

    def _plan(self, request: ImportRequest) -> tuple[PlannedFile, ...]:
        """Spread the files over the importing phase one after another, each as long as its rows ask for."""
        rows = [rows_of(entry) for entry in request.entries]
        begin = PRE_IMPORTING_UNTIL * self._duration
        per_row = (self._duration - begin) / sum(rows)
        files = []
        for entry, count in zip(request.entries, rows, strict=True):
            end = begin + count * per_row
            files.append(PlannedFile(entry, sum(map(size_of, entry)), count, begin, end, self._fail_reason(entry)))
            begin = end
        files[-1] = replace(files[-1], end=self._duration)  # the sum may be off by a rounding
        return tuple(files)

    def _fail_reason(self, entry: tuple[str, ...]) -> str:
        """Find the first pattern that matches a path of the entry, or its last part; empty if none does."""
        for pattern, reason in self._fail_files.items():
            for path in entry:
                if fnmatchcase(path, pattern) or fnmatchcase(path.rsplit("/", 1)[-1], pattern):
                    return reason or DEFAULT_FAIL_REASON
        return ""


def dropped(file: FileStatus) -> FileStatus:
    """Return the file after its job was aborted: its rows are gone."""
    return replace(file, state=api.FAILED, progress=0, imported_rows=0, complete_time=None, reason=ABORT_REASON)


def share(passed: float, whole: float) -> float:
    """How much of a whole has passed, 0 to 1; something that takes no time is done once it has begun."""
    if passed < 0:
        return 0.0
    return min(1.0, passed / whole) if whole > 0 else 1.0


def rows_of(entry: tuple[str, ...]) -> int:
    """Make up a row count from 1,000 to 9,999, always the same for the same name."""
    return 1000 + zlib.crc32(entry[0].encode()) % 9000


def size_of(path: str) -> int:
    """Return the bytes of a file on this machine, else a number made up from its name, always the same."""
    try:
        return os.stat(api.local_path(path)).st_size
    except (OSError, ValueError):
        return rows_of((path,)) * 64
