"""What every backend of the emulator offers to the server, and the words they share."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from urllib.parse import unquote, urlsplit

PENDING = "Pending"
PRE_IMPORTING = "PreImporting"
IMPORTING = "Importing"
UNCOMMITTED = "Uncommitted"
COMMITTING = "Committing"
COMPLETED = "Completed"
FAILED = "Failed"

# Milvus's error codes (pkg/util/merr) for what can go wrong here.
COLLECTION_NOT_FOUND = 100
PARAMETER_INVALID = 1100
NOT_AUTHENTICATED = 1800
NOT_JSON = 1801
PARAMETER_MISSING = 1802
RATE_LIMITED = 1807
IMPORT_FAILED = 2100
UNEXPECTED = 65535


class EmulatorError(Exception):
    """The emulator cannot start; the message is one sentence that says what to do."""


class ApiError(Exception):
    """An error the import API itself answers, as ``{"code": code, "message": message}``."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @classmethod
    def unknown_job(cls, job_id: str) -> ApiError:
        """Say what Milvus says of a job it has no record of."""
        return cls(IMPORT_FAILED, f"import job does not exist, jobID={job_id}: importing data failed")


@dataclass(frozen=True)
class ImportRequest:
    """What a client asked to import."""

    collection_name: str
    entries: tuple[tuple[str, ...], ...]
    """Each entry is one row-based file, or the column files of a NumPy set."""
    partition_name: str = ""
    db_name: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

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

    def create(self, request: ImportRequest) -> str:
        """Begin an import job and return its id."""

    def get(self, job_id: str) -> JobStatus: ...

    def list(self, collection_name: str = "") -> list[JobStatus]:
        """Jobs into one collection, or all of them, oldest first."""

    def commit(self, job_id: str) -> None: ...

    def abort(self, job_id: str) -> None: ...

    def forget(self, job_id: str) -> None:
        """Drop the record of a job, as a server does when its retention is over."""

    def fail_file(self, pattern: str, reason: str) -> None:
        """Make files of later jobs whose name matches the pattern fail with a reason."""

    def describe(self) -> dict[str, str]:
        """Tell what a person should know about this backend: addresses, version, directories."""


def job_ids() -> Iterator[str]:
    """Ids for jobs: like Milvus's, int64 numbers that grow, also from one start of the emulator to the next."""
    return map(str, itertools.count(time.time_ns() // 1_000_000 << 18))


def local_path(name: str) -> str:
    """Return the path on this machine that a file name or ``file://`` URL stands for."""
    parts = urlsplit(name)
    return unquote(parts.path) if parts.scheme == "file" else name
