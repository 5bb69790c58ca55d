"""Import jobs that import nothing: they pass through the states over a time that the caller sets."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import TypeVar

from airflow_provider_importprog.emulator import backend as api
from airflow_provider_importprog.emulator.backend import (
    ABORT_REASON,
    ApiError,
    Backend,
    FileStatus,
    ImportRequest,
    JobStatus,
    UnknownJobError,
    failed,
    file_reason,
)

# Shares of a job's duration: until when it is pending, and until when it only reads the files and imports none.
PENDING_UNTIL = 0.1
READING_UNTIL = 0.3
COMMIT_SHARE = 0.1

DEFAULT_FAIL_REASON = "the emulator was asked to fail this file"


T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class PlannedFile:
    """What will become of one entry of a job. Times are seconds since the job was created."""

    paths: tuple[str, ...]
    size: int
    rows: int
    begin: float
    end: float
    fail_reason: str = ""
    lost_rows: int = 0
    """Rows that are announced and not imported."""

    def at(self, elapsed: float, created: datetime) -> FileStatus:
        done = share(elapsed - self.begin, self.end - self.begin)
        status = FileStatus(
            paths=self.paths,
            size=self.size,
            state=api.IN_PROGRESS if elapsed >= self.begin else api.PENDING,
            progress=int(100 * done),
            imported_rows=int((self.rows - self.lost_rows) * done),
            total_rows=self.rows,
        )
        if self.fail_reason and done == 1:
            return failed(status, self.fail_reason)
        if done == 1:
            return replace(status, state=api.COMPLETED, complete_time=created + timedelta(seconds=self.end))
        return status


@dataclass
class Job:
    """A job is its plan and two times: all else follows from the time that has passed."""

    job_id: str
    request: ImportRequest
    files: tuple[PlannedFile, ...]
    duration: float
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
        culprit = self._culprit()
        if culprit is not None:
            end = culprit.end
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
        reason, complete_time = "", None
        progress = min(99, int(100 * share(now, self.duration)))
        if ended_at is not None:
            reason = self._reason()
            if reason:
                state, progress = api.FAILED, 0
                files = tuple(file if file.state == api.COMPLETED else failed(file, reason) for file in files)
            else:
                state, progress = api.COMPLETED, 100
                complete_time = self.created + timedelta(seconds=ended_at)
        elif self.committed_at is not None:
            state = api.COMMITTING
        elif now < PENDING_UNTIL * self.duration:
            state = api.PENDING
        elif now < self.duration:
            state = api.IMPORTING
        else:
            state = api.UNCOMMITTED
        if (
            now < READING_UNTIL * self.duration and state != api.COMPLETED
        ):  # row counts are known once the files have been read
            files = tuple(replace(file, total_rows=0) for file in files)
        return JobStatus(
            job_id=self.job_id,
            collection_name=self.request.collection_name,
            state=state,
            progress=progress,
            files=files,
            complete_time=complete_time,
            reason=reason,
            create_time=self.created,
            auto_commit=self.request.auto_commit,
            ended_for=None if ended_at is None else elapsed - ended_at,
        )

    def _reason(self) -> str:
        """Return why the job failed, once it has ended; empty if it completed."""
        if self.aborted_at is not None:
            return ABORT_REASON
        culprit = self._culprit()
        return "" if culprit is None else file_reason(culprit.paths[0], culprit.fail_reason)

    def _culprit(self) -> PlannedFile | None:
        """Find the first file to fail the whole job, if any will."""
        if self.request.partial_success:
            return None
        return next((file for file in self.files if file.fail_reason), None)


class SimulatedBackend:
    """Keeps simulated jobs.

    :param duration: seconds a job takes from creation to completion (or to `Uncommitted`).
    :param fail_files: file name pattern (as in `fnmatch`) to the reason such a file fails with.
    :param clock: seconds that only grow; tests set their own instead of sleeping.
    :param collections: the collections that exist, as ``collection`` or ``database.collection``; None has any.
    """

    name = "simulated"

    def __init__(
        self,
        duration: float = 10.0,
        fail_files: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        collections: Iterable[str] | None = None,
    ) -> None:
        self._duration = duration
        self._fail_files = dict(fail_files or {})
        self._lost_rows: dict[str, int] = {}
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._ids = api.job_ids()
        self._lock = threading.Lock()
        self.set_collections(collections)

    def set_duration(self, seconds: float) -> None:
        self._duration = seconds

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
                created=datetime.now(timezone.utc),
                began=self._clock(),
            )
            return job_id

    def get(self, job_id: str) -> JobStatus:
        with self._lock:
            return self._status(self._job(job_id))

    def list(self, collection_name: str = "") -> list[JobStatus]:
        with self._lock:
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

    def check(self, database: str, collection: str = "") -> None:
        with self._lock:
            if self._collections is None:
                return
            found = self._collections.get(database or "default")
        if found is None:
            raise api.no_database(database)
        if collection and collection not in found:
            raise api.no_collection(database, collection)

    def refresh_load(self, database: str, collection: str) -> None:
        pass

    def set_collections(self, names: Iterable[str] | None) -> None:
        """Set the collections that exist, as ``collection`` or ``database.collection``; None has any."""
        found: dict[str, set[str]] | None = None if names is None else {"default": set()}
        for name in names or ():
            database, _, collection = name.rpartition(".")
            if found is not None:
                found.setdefault(database or "default", set()).add(collection)
        with self._lock:
            self._collections = found

    def fail_file(self, pattern: str, reason: str) -> None:
        """Make files of later jobs whose name matches the pattern fail with a reason."""
        with self._lock:
            self._fail_files[pattern] = reason

    def lose_rows(self, pattern: str, rows: int) -> None:
        """Make files of later jobs whose name matches the pattern complete with fewer rows than they have."""
        with self._lock:
            self._lost_rows[pattern] = rows

    def describe(self) -> dict[str, str]:
        return {"duration": f"{self._duration:g} s"}

    def _elapsed(self, job: Job) -> float:
        return self._clock() - job.began

    def _status(self, job: Job) -> JobStatus:
        return job.status(self._elapsed(job))

    def _job(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise UnknownJobError(job_id) from None

    def _plan(self, request: ImportRequest) -> tuple[PlannedFile, ...]:
        """Spread the files over the importing phase one after another, each as long as its rows ask for."""
        rows = [rows_of(entry) for entry in request.entries]
        begin = READING_UNTIL * self._duration
        per_row = (self._duration - begin) / sum(rows)
        files = []
        for entry, count in zip(request.entries, rows, strict=True):
            end = begin + count * per_row
            lost = min(count, first_match(self._lost_rows, entry, 0))
            reason = first_match(self._fail_files, entry, None)
            fail_reason = "" if reason is None else reason or DEFAULT_FAIL_REASON
            files.append(PlannedFile(entry, sum(map(size_of, entry)), count, begin, end, fail_reason, lost))
            begin = end
        files[-1] = replace(files[-1], end=self._duration)  # the sum may be off by a rounding
        return tuple(files)


def simulated(backend: Backend) -> SimulatedBackend:
    """Return the backend if it simulates: only there can it be said what becomes of a job."""
    if not isinstance(backend, SimulatedBackend):
        raise ApiError(api.PARAMETER_INVALID, f"The {backend.name} backend imports for real: use the simulated one")
    return backend


def first_match(patterns: Mapping[str, T], entry: tuple[str, ...], default: U) -> T | U:
    """Return what the first pattern says that matches a path of the entry, or its last part."""
    for pattern, value in patterns.items():
        for path in entry:
            if fnmatchcase(path, pattern) or fnmatchcase(path.rsplit("/", 1)[-1], pattern):
                return value
    return default


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
