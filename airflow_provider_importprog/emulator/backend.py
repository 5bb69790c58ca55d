"""What every backend of the emulator offers to the server, and the names they share."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

# States of a job.
PENDING = "Pending"
IMPORTING = "Importing"
UNCOMMITTED = "Uncommitted"
COMMITTING = "Committing"
COMPLETED = "Completed"
FAILED = "Failed"
# A file's are these, and `IN_PROGRESS` where a job is `IMPORTING`.
IN_PROGRESS = "InProgress"

ABORT_REASON = "aborted by user"
"""What Milvus gives as the reason of an aborted job, and the only sign that it was aborted."""

# Milvus's error codes (pkg/util/merr) for what can go wrong here.
COLLECTION_NOT_FOUND = 100
NOT_LOADED = 101
DATABASE_NOT_FOUND = 800
PARAMETER_INVALID = 1100
ALIAS_NOT_FOUND = 1600
NOT_AUTHENTICATED = 1800
NOT_JSON = 1801
PARAMETER_MISSING = 1802
RATE_LIMITED = 1807
IMPORT_FAILED = 2100
IMPORT_FAILED_ON_SERVER = 2101
TIMED_OUT = 10001
UNEXPECTED = 65535


class EmulatorError(Exception):
    """The emulator cannot start; the message is one sentence that says what to do."""


class ApiError(Exception):
    """An error the import API itself answers, as ``{"code": code, "message": message}``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class UnknownJobError(ApiError):
    """There is no record of the job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(IMPORT_FAILED, f"import job does not exist, jobID={job_id}: importing data failed")


def no_database(database: str) -> ApiError:
    """Say that a database does not exist."""
    return ApiError(DATABASE_NOT_FOUND, f"database not found[database={database}]")


def no_collection(database: str, collection: str) -> ApiError:
    """Say that a collection does not exist."""
    return ApiError(
        COLLECTION_NOT_FOUND,
        f"collection not found[database={database or 'default'}][collection={collection}]",
    )


def file_reason(path: str, reason: str) -> str:
    """Return a job's reason for failing: Milvus names the file inside, and gives every file this reason."""
    return reason if path in reason else f"import of file '{path}' failed: {reason}"


@dataclass(frozen=True)
class ImportRequest:
    """What a client asked to import."""

    collection_name: str
    entries: tuple[tuple[str, ...], ...]
    """Each entry is one row-based file, or the column files of a NumPy set."""
    partition_name: str = ""
    db_name: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    partial_success: bool = False
    """A file that fails leaves the job to complete."""

    @property
    def auto_commit(self) -> bool:
        """False where the client asked for a two-phase import."""
        return self.options.get("auto_commit", "true").lower() != "false"


@dataclass(frozen=True)
class FileStatus:
    """One entry of an import job as it stands now."""

    paths: tuple[str, ...]
    size: int
    """Bytes."""
    state: str = PENDING
    progress: int = 0
    """Percent, 0 to 100."""
    imported_rows: int = 0
    total_rows: int = 0
    complete_time: datetime | None = None
    reason: str = ""


def failed(file: FileStatus, reason: str) -> FileStatus:
    """Return the file of a failed job that was not imported to its end."""
    return replace(file, state=FAILED, progress=0, imported_rows=0, complete_time=None, reason=reason)


@dataclass(frozen=True)
class JobStatus:
    """An import job as it stands now. Units as in `FileStatus`."""

    job_id: str
    collection_name: str
    state: str
    progress: int
    files: tuple[FileStatus, ...]
    complete_time: datetime | None = None
    reason: str = ""
    create_time: datetime | None = None
    auto_commit: bool = True
    ended_for: float | None = None
    """Seconds since the job ended; None while it goes on."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def imported_rows(self) -> int:
        return sum(file.imported_rows for file in self.files)

    @property
    def total_rows(self) -> int:
        return sum(file.total_rows for file in self.files)


class Backend(Protocol):
    """Keeps the import jobs. Methods may block and are called from several threads; they raise `ApiError`."""

    name: str

    def start(self) -> None:
        """Make ready to serve; raises `EmulatorError`."""

    def stop(self) -> None:
        """End everything that `start` began; may be called twice, or after a failed start."""

    def check(self, database: str, collection: str = "") -> None:
        """Raise `ApiError` if there is no such database, or no such collection; empty is not checked."""

    def create(self, request: ImportRequest) -> str:
        """Begin an import job and return its id."""

    def get(self, job_id: str) -> JobStatus: ...

    def list(self, collection_name: str = "") -> list[JobStatus]:
        """Jobs into one collection, or all of them, oldest first."""

    def commit(self, job_id: str) -> None:
        """Make the rows of a two-phase import visible; does nothing if that is done or under way."""

    def abort(self, job_id: str) -> None:
        """End a job that is not committed; does nothing if it has failed already."""

    def forget(self, job_id: str) -> None:
        """Drop the record of a job, as a server does when its retention is over."""

    def refresh_load(self, database: str, collection: str) -> None:
        """Make imported rows visible in a loaded collection; raises `ApiError` if it is not loaded."""

    def describe(self) -> dict[str, str]:
        """Tell what a person should know about this backend: addresses, version, directories."""


@runtime_checkable
class Collections(Protocol):
    """What a backend that keeps rows offers besides, with the bodies of Milvus's REST API."""

    def create_collection(self, database: str, collection: str, body: dict[str, Any]) -> None: ...

    def drop_collection(self, database: str, collection: str, body: dict[str, Any]) -> None: ...

    def query(self, database: str, collection: str, body: dict[str, Any]) -> Sequence[dict[str, Any]]: ...

    def search(self, database: str, collection: str, body: dict[str, Any]) -> Sequence[dict[str, Any]]: ...


def job_ids() -> Iterator[str]:
    """Ids for jobs: like Milvus's, int64 numbers that grow, also from one start of the emulator to the next."""
    return map(str, itertools.count(time.time_ns() // 1_000_000 << 18))


def local_path(name: str) -> str:
    """Return the path on this machine that a file name or ``file://`` URL stands for."""
    parts = urlsplit(name)
    return unquote(parts.path) if parts.scheme == "file" else name
